"""Where the service meets the network: certificates, slow clients, and servers behind it that go and come back."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyvault import connect
from keyvault.errors import Unavailable
from keyvault.results import values_of
from keyvault.service import protocol, worker
from keyvault.service.front import Front
from keyvault.service.metrics import Metrics
from keyvault.service.opening import Opening
from tests.homes import TestHome, embedded_home
from tests.servers import running_postgres
from tests.servers.certificates import Certificates, make_certificates
from tests.service.running import command, eventually, get, running
from tests.serving import issue_token

BOB = "consumer/acct-1/bob"


@pytest.fixture
def embedded(tmp_path: Path) -> TestHome:
    return embedded_home(tmp_path, custody="ring")


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    (tmp_path / "certificates").mkdir()
    return make_certificates(tmp_path / "certificates")


def own_certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate that is its own authority, as a client's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a client")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
    certificate = builder.not_valid_after(now + dt.timedelta(days=1)).sign(key, hashes.SHA256())
    paths = directory / "client.pem", directory / "client.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    paths[1].write_bytes(key.private_bytes(*pem, serialization.NoEncryption()))
    return paths


# --- TLS -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], b"do not travel unencrypted"),  # noqa: S104 - refused
        (["--host", "::"], b"do not travel unencrypted"),
        (["--tls-key", "key.pem"], b"are needed together"),
        (["--client-ca", "ca.pem"], b"--client-ca needs --tls-certificate"),
    ],
)
def test_what_would_send_keys_unencrypted_is_refused(embedded: TestHome, options: list[str], said: bytes) -> None:
    done = subprocess.run(command(embedded.path, *options), capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == b""
    assert said in done.stderr


def test_a_key_that_is_another_certificates_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    _, other = own_certificate(tmp_path)
    options = ["--tls-certificate", str(certificates.cert_file), "--tls-key", str(other)]
    home = embedded_home(tmp_path)
    done = subprocess.run(command(home.path, *options), capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert b"are not a certificate and its private key" in done.stderr


def test_tls_is_modern_wants_client_certificates_where_told_and_renews_its_own(
    embedded: TestHome, certificates: Certificates, tmp_path: Path
) -> None:
    client = own_certificate(tmp_path)
    options = ["--host", "localhost", "--tls-certificate", str(certificates.cert_file)]
    options += ["--tls-key", str(certificates.key_file), "--client-ca", str(client[0])]
    token = issue_token(embedded.path)
    with running(embedded.path, tmp_path / "log", *options) as service:
        address = httpx2.URL(service.url)
        assert address.scheme == "https"

        def agreed(context: ssl.SSLContext) -> str | None:
            plain = socket.create_connection((address.host, address.port or 0))
            with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                secured.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
                answer = secured.recv(100)
                if not answer:
                    raise ConnectionError("the service hung up")
                assert answer.startswith(b"HTTP/1.1 204")
                return secured.version()

        def trusting(ca_file: Path = certificates.ca_file, *, certified: bool = True) -> ssl.SSLContext:
            context = ssl.create_default_context(cafile=ca_file)
            if certified:
                context.load_cert_chain(*client)
            return context

        assert agreed(trusting()) == "TLSv1.3"
        older = trusting()
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        assert agreed(older) == "TLSv1.2"
        older.set_ciphers("ECDHE-ECDSA-AES128-SHA")
        with pytest.raises(ssl.SSLError):
            agreed(older)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            agreed(trusting(certified=False))

        (worker_process,) = service.workers()
        files = Path(f"/proc/{worker_process}/fd")
        before = len([*files.iterdir()])
        for _ in range(30):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                agreed(trusting(certified=False))
        eventually(lambda: len([*files.iterdir()]) <= before)  # what failed its handshake is not kept

        with httpx2.Client(verify=trusting()) as inside:
            answer = inside.post(
                f"{service.url}/v1/scopes/ensure", headers={"authorization": f"Bearer {token}"}, json={"names": [BOB]}
            )
            assert answer.status_code == 200

        (tmp_path / "new").mkdir()
        renewed = make_certificates(tmp_path / "new")
        for new, old in ((renewed.cert_file, certificates.cert_file), (renewed.key_file, certificates.key_file)):
            shutil.copy(new, old)
        first = service.workers()
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(service.workers()) == 1 and service.workers() != first)
        assert agreed(trusting(renewed.ca_file)) == "TLSv1.3"

        certificates.key_file.write_text("nothing")
        second = service.workers()
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the old ones stay" in service.log.read_text())
        eventually(lambda: service.workers() == second)
        assert agreed(trusting(renewed.ca_file)) == "TLSv1.3"


# --- slow and large --------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HEADER_SECONDS": 0.3, "BODY_SECONDS": 0.3, "MAX_CONNECTIONS": 3}.items():
        monkeypatch.setattr(protocol, name, value)
    monkeypatch.setattr(worker, "KEEP_ALIVE_SECONDS", 0.3)


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def served_in_process(
    scenario: Callable[[Callable[[], Awaitable[Client]], Any], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> None:
    """Run a worker's server, whose home does not open, and a scenario beside it, which gets its task as `serving`."""

    def closed() -> Any:
        raise Unavailable("down")

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        server: Any = worker._server(Front(Opening(closed), Metrics()), tls)
        serving = server.serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.listening.wait()

        async def client() -> Client:
            return await asyncio.open_connection(*address)

        await scenario(client, server)
        server.stop()
        await serving

    asyncio.run(run())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"\r\n",
        b"POST /v1/keys/gen",
        b"POST /healthz HTTP/1.1\r\nhost: a\r\nx-slow: ",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n123",
    ],
)
def test_a_connection_that_stops_in_the_middle_or_idles_is_ended(beginning: bytes) -> None:
    async def scenario(client: Callable[[], Awaitable[Client]], _server: Any) -> None:
        reader, writer = await client()
        writer.write(beginning)
        ended = asyncio.create_task(until_end(reader))
        await asyncio.wait_for(ended, 30)
        writer.close()

    served_in_process(scenario)


async def until_end(reader: asyncio.StreamReader) -> bytes:
    received = b""
    try:
        while part := await reader.read(65536):
            received += part
    except ConnectionError:
        pass
    return received


@pytest.mark.usefixtures("impatient")
def test_endless_headers_and_too_many_connections_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 1000.0)

    async def scenario(client: Callable[[], Awaitable[Client]], server: Any) -> None:
        reader, writer = await client()
        writer.write(b"GET / HTTP/1.1\r\n" + b"x-a: b\r\n" * 10_000)
        assert await asyncio.wait_for(until_end(reader), 30) == b""
        writer.close()
        several = [await client() for _ in range(3)]
        while len(server.server_state.connections) < 3:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
        one_more, its_writer = await client()
        assert await asyncio.wait_for(until_end(one_more), 30) == b""
        its_writer.close()
        assert len(server.server_state.connections) == 3
        for _, writing in several:
            writing.close()

    served_in_process(scenario)


def test_a_connection_in_its_handshake_is_served_before_a_worker_ends(certificates: Certificates) -> None:
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own.load_cert_chain(certificates.cert_file, certificates.key_file)
    trusting = ssl.create_default_context(cafile=str(certificates.ca_file))

    async def scenario(client: Callable[[], Awaitable[Client]], server: Any) -> None:
        _, plain = await client()
        while not server._accepting[0].connecting:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
        server.stop()
        await asyncio.wait([server.serving], timeout=1)
        assert not server.serving.done(), "somebody was accepted, and has had no answer"
        own_socket = plain.get_extra_info("socket").dup()
        reader, writer = await asyncio.open_connection(sock=own_socket, ssl=trusting, server_hostname="localhost")
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = await asyncio.wait_for(until_end(reader), 30)
        assert answer.startswith(b"HTTP/1.1 204")
        assert b"connection: close" in answer
        writer.close()
        plain.close()

    served_in_process(scenario, own)


# --- what is behind it -----------------------------------------------------------------------------------------------------


def test_the_service_waits_for_its_database_and_recovers_by_itself_after_an_outage(tmp_path: Path) -> None:
    with running_postgres() as postgres:
        home = embedded_home(tmp_path, store_url=postgres.create_database(), custody="ring")
        token = issue_token(home.path)
        postgres.stop()
        with running(home.path, tmp_path / "log") as service, connect(service.url, token=token) as vault:
            assert service.ready()["database"] == "unavailable"
            with pytest.raises(Unavailable):
                vault.describe([BOB])
            postgres.start()
            eventually(lambda: service.ready()["ready"], seconds=5)
            values_of(vault.ensure_scopes([BOB]))

            postgres.stop("immediate")
            eventually(lambda: service.ready()["database"] == "unavailable")
            with pytest.raises(Unavailable):
                vault.describe([BOB])
            assert get(f"{service.url}/healthz").status_code == 204
            postgres.start()
            eventually(lambda: service.ready()["ready"], seconds=5)
            assert values_of(vault.describe([BOB]))[0].state == "active"
