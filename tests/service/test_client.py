"""Clients of a service that runs: keys from memory, pushes, forks, several nodes, asyncio; and the end of all of it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from keyvault import OpenRequest, SealRequest, connect, connect_async
from keyvault.client.asking import Send
from keyvault.client.remote import RemoteKeyVault
from keyvault.envelope import split_envelope
from keyvault.errors import KeyVaultError, ScopeDestroyedError, Unavailable
from keyvault.results import values_of
from keyvault.service import wire
from keyvault.testing import ManualClock
from tests.forking import fork
from tests.homes import TestHome, in_ring_custody
from tests.key_service import START, KeyService, scope_id
from tests.servers.certificates import Certificates, make_certificates
from tests.serving import free_port, issue_token, served

ADA, BOB = "consumer/acct-1/ada", "consumer/acct-1/bob"
PATIENCE = 30.0


class Pushing:
    """A key service on HTTP, with a stream of events that tests write to."""

    def __init__(self) -> None:
        self.keys = KeyService(ManualClock(START))
        self.listening = threading.Semaphore(0)
        self.events: list[str] = []
        self.changed = threading.Condition()
        self.cut = False

    def say(self, event: str) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def cut_off(self) -> None:
        with self.changed:
            self.cut = True
            self.changed.notify_all()

    def drop(self, **data: object) -> None:
        self.say(f"event: drop\ndata: {json.dumps(data)}\n\n")


class Handler(BaseHTTPRequestHandler):
    pushing: ClassVar[Pushing]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        reply = self.pushing.keys.answer(Send(url=self.path, token="", content=body, seconds=1.0))
        self.send_response(reply.status)
        self.send_header("content-length", str(len(reply.content)))
        self.end_headers()
        self.wfile.write(reply.content)

    def do_GET(self) -> None:
        assert self.path == "/v1/push"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(b": hello\n\n")
        self.wfile.flush()
        pushing = self.pushing
        pushing.listening.release()
        with pushing.changed:
            while pushing.changed.wait_for(lambda: pushing.events or pushing.cut):
                if pushing.cut:
                    pushing.cut = False
                    self.close_connection = True
                    return
                self.wfile.write(pushing.events.pop(0).encode())
                self.wfile.flush()


@contextmanager
def pushing(certificates: Certificates | None = None) -> Iterator[tuple[str, Pushing]]:
    made = Pushing()
    handler = type("OneHandler", (Handler,), {"pushing": made})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates.cert_file, certificates.key_file)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{'http' if certificates is None else 'https'}://127.0.0.1:{server.server_address[1]}", made
        finally:
            made.cut_off()
            server.shutdown()
            thread.join()


def wait_until(done: object) -> None:
    waited = threading.Event()
    for _ in range(int(PATIENCE * 100)):
        if done():  # type: ignore[operator]
            return
        waited.wait(0.01)
    raise AssertionError("it did not come to that")


def b64(value: bytes) -> str:
    return json.loads(wire.encoder.encode(value))  # type: ignore[no-any-return]


def kept(vault: RemoteKeyVault, envelope: bytes) -> bool:
    return vault._core.opening.one(envelope, b"", None) is not None


def test_what_the_service_says_is_dropped_at_once_and_nothing_else() -> None:
    with pushing() as (url, service), connect(url, token="t") as vault:
        ada, bob = vault.seal(b"ada", [ADA]), vault.seal(b"bob", [BOB])
        assert (vault.open(ada), vault.open(bob)) == (b"ada", b"bob")
        assert service.listening.acquire(timeout=PATIENCE)
        service.drop(scopes=[b64(scope_id(ADA))], records=[], all=False)
        wait_until(lambda: not kept(vault, ada))
        assert kept(vault, bob)
        service.say("event: drop\ndata: what nobody understands\n\n")
        wait_until(lambda: not kept(vault, bob))
        assert vault.open(bob) == b"bob"
        service.say(": still here\n\nevent: other\ndata: {}\n\n")
        service.drop(scopes=[], records=[], all=True)
        wait_until(lambda: not len(vault._core.kept))


def test_a_stream_that_is_cut_off_begins_anew_and_what_was_kept_is_asked_for_again() -> None:
    with pushing() as (url, service), connect(url, token="t") as vault:
        ada = vault.seal(b"ada", [ADA])
        assert vault.open(ada) == b"ada"
        assert service.listening.acquire(timeout=PATIENCE)
        service.keys.refused[scope_id(ADA)] = ScopeDestroyedError("gone; permanent")
        service.cut_off()
        assert service.listening.acquire(timeout=PATIENCE)
        wait_until(lambda: not kept(vault, ada))  # refused in the background, at its next use
        with pytest.raises(ScopeDestroyedError):
            vault.open(ada)


def test_a_forked_child_has_nothing_of_its_parents_and_begins_anew() -> None:
    with pushing() as (url, service), connect(url, token="t") as vault:
        ada = vault.seal(b"ada", [ADA])
        assert vault.open(ada) == b"ada"
        assert service.listening.acquire(timeout=PATIENCE)
        before = list(vault._core.kept._keys.values())
        child = fork()
        if child == 0:
            status = 1
            try:
                wiped = all(refused(one.key) for one in before)
                status = 0 if wiped and not kept(vault, ada) and vault.open(ada) == b"ada" and kept(vault, ada) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert kept(vault, ada)


def refused(key: object) -> bool:
    try:
        key.seal(b"")  # type: ignore[attr-defined]
    except KeyVaultError:
        return True
    return False


def test_threads_share_a_client_while_its_leases_end() -> None:
    failures: list[object] = []

    def work(vault: RemoteKeyVault, number: int) -> None:
        for turn in range(60):
            text = b"%d/%d" % (number, turn)
            envelope = vault.seal(text, [ADA], associated_data=b"%d" % number)
            if vault.open(envelope, associated_data=b"%d" % number) != text:
                failures.append((number, turn))

    with pushing() as (url, service), connect(url, token="t") as vault:
        service.keys.lease = 0.2
        threads = [threading.Thread(target=work, args=(vault, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        wait_until(lambda: not len(vault._core.kept))  # wiped by itself: nobody asks any more


def test_a_closed_client_says_so_and_keeps_nothing() -> None:
    with pushing() as (url, _):
        with connect(url, token="t") as vault:
            ada = vault.seal(b"ada", [ADA])
            assert vault.open(ada) == b"ada"
        assert not len(vault._core.kept)
        with pytest.raises(KeyVaultError, match="this client was closed"):
            vault.open(ada)
        wait_until(lambda: not any(thread.name.startswith("keyvault-") for thread in threading.enumerate()))


def test_the_methods_are_coroutines_on_asyncio_with_pushes_and_renewals() -> None:
    async def main(url: str, service: Pushing) -> None:
        async with connect_async(url, token="t") as vault:
            ada = await vault.seal(b"ada", [ADA])
            assert await vault.open(ada) == b"ada"
            assert await asyncio.to_thread(service.listening.acquire, timeout=PATIENCE)
            wide, narrow = io.BytesIO(), io.BytesIO()
            await vault.seal_stream(io.BytesIO(b"long"), wide, [BOB])
            await vault.open_stream(io.BytesIO(wide.getvalue()), narrow)
            assert narrow.getvalue() == b"long"
            vault._core.kept.doubt_all()
            service.keys.refused[scope_id(ADA)] = ScopeDestroyedError("gone; permanent")
            for _ in range(int(PATIENCE * 100)):
                if vault._core.opening.one(ada, b"", None) is None:
                    break
                await asyncio.sleep(0.01)
            with pytest.raises(ScopeDestroyedError):
                await vault.open(ada)
            service.drop(all=True)
            await asyncio.to_thread(wait_until, lambda: not len(vault._core.kept))
        with pytest.raises(KeyVaultError, match="this client was closed"):
            await vault.open(ada)

    with pushing() as (url, service):
        asyncio.run(main(url, service))


def test_a_service_that_is_not_there_is_unavailable_within_the_time_given() -> None:
    with (
        connect(f"http://127.0.0.1:{free_port()}", token="kv1_secret", timeout=0.3) as vault,
        pytest.raises(Unavailable, match="does not answer") as caught,
    ):
        vault.describe([ADA])
    assert "secret" not in repr(caught.value)
    assert caught.value.__context__ is None
    assert "secret" not in repr(vault)


def test_a_service_is_believed_by_its_certificate_alone(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with pushing(certificates) as (url, service):
        with connect(url, token="t", ca_file=certificates.ca_file) as vault:
            assert vault.open(vault.seal(b"ada", [ADA])) == b"ada"
        service.keys.calls.clear()
        with (
            connect(url, token="t", timeout=0.3) as vault,
            pytest.raises(Unavailable, match="ConnectError"),
        ):
            vault.seal(b"ada", [ADA])
        assert service.keys.calls == []


@in_ring_custody
def test_clients_of_a_real_service_keep_keys_for_a_lease_and_lose_shredded_ones(home: TestHome, tmp_path: Path) -> None:
    settings = home.path / "keyvault.toml"
    settings.write_text(settings.read_text().replace("lease_ttl = 60.0", "lease_ttl = 3.0"))
    assert "lease_ttl = 3.0" in settings.read_text()
    token = tmp_path / "token"
    token.write_text(issue_token(home.path))

    async def again(url: str, envelope: bytes) -> bytes:
        async with connect_async(url, token=token) as vault:
            return await vault.open(envelope)

    with served(home.path, log=tmp_path / "log") as service:
        urls = [f"http://127.0.0.1:{free_port()}", service.url]
        with connect(urls, token=token) as vault:
            values_of(vault.ensure_scopes([ADA, BOB]))
            sealed = values_of(vault.seal_many([SealRequest(plaintext=b"%d" % n, scopes=(ADA,)) for n in range(1_500)]))
            bob = vault.seal(b"bob", [BOB])
            opens = [OpenRequest(envelope=envelope) for envelope in sealed]
            assert values_of(vault.open_many(opens)) == [b"%d" % n for n in range(1_500)]
            assert len({split_envelope(envelope).wrapped.raw for envelope in sealed}) == 2
            assert vault.open(bob) == b"bob"
            assert asyncio.run(again(service.url, bob)) == b"bob"
            with home.destroyer() as destroyer:
                (outcome,) = destroyer.destroy([ADA], ticket="T-1", requested_by="tester")
            assert outcome.error is None
            wait_until(lambda: not kept(vault, sealed[0]))
            wait_until(lambda: isinstance(vault.open_many(opens[:1])[0], KeyVaultError))
            assert isinstance(vault.open_many(opens[:1])[0], ScopeDestroyedError)
            assert vault.open(bob) == b"bob"
