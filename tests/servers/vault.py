"""A Vault (or OpenBao) server of one's own: raft storage, TLS, initialised and unsealed; never in dev mode.

The product's own set-up enables the audit device and the engines; this module only names the audit log's path.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.servers.certificates import Certificates, make_certificates
from tests.servers.places import data_root
from tests.servers.process import ServerError, end, free_port, spawn, wait_until
from tests.servers.vault_binary import find_vault

_TIMEOUT_SECONDS = 60


class VaultError(ServerError):
    """Vault refused a request; `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(kw_only=True)
class VaultServer:
    """A running server; `process` is None where another process owns it and only it may stop it.

    `data_dir` holds raft's files (`vault.db`, `raft/raft.db`), on disk if `durable`; `unseal_key` is base64, the single share of one.
    """

    addr: str
    ca_file: Path
    data_dir: Path
    audit_file: Path
    log_file: Path
    config_file: Path
    binary: Path
    durable: bool = False
    root_token: str = field(default="", repr=False)
    unseal_key: str = field(default="", repr=False)
    pid: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def request(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Any:
        """Ask `/v1/PATH` with a JSON body, as root unless a token is given; return the JSON answer, None if empty.

        Raises VaultError for every status of 400 and above, urllib.error.URLError where there is no server.
        """
        data = None if body is None else json.dumps(body).encode()
        answer = self._open(method, path, data, token=token)
        return json.loads(answer) if answer else None

    def audited(self, since: int = 0) -> Iterator[bytes]:
        """Give the lines of the audit log that are whole, from byte `since` on: at both ends another test's may be half written."""
        with self.audit_file.open("rb") as log:
            if since:
                log.seek(since - 1)
                log.readline()
            yield from (line for line in log if line.endswith(b"\n"))

    def status(self) -> dict[str, Any]:
        """Return `sys/seal-status`, which Vault answers without a token, sealed or not."""
        return dict(self.request("GET", "sys/seal-status"))

    def seal(self) -> None:
        """Seal the server; its process keeps running."""
        self.request("PUT", "sys/seal")
        self._wait(lambda: bool(self.status()["sealed"]), what="Vault is sealed")

    def unseal(self) -> None:
        """Unseal the server and wait until it is active."""
        self.request("PUT", "sys/unseal", {"key": self.unseal_key})
        self._wait(self._active, what="Vault is unsealed and active")

    def start(self) -> None:
        """Start the process, at the same port and with the same data, and return when it answers (sealed)."""
        if self.process is not None and self.process.poll() is None:
            raise ServerError("this Vault server runs already")
        command = [str(self.binary), "server", f"-config={self.config_file}"]
        self.process = spawn(command, log=self.log_file, cwd=self.config_file.parent, env=self._environment())
        self.pid = self.process.pid
        self._wait(self._answers, what="Vault answers")

    def stop(self) -> None:
        """Ask the process to end, wait for it, and keep its data."""
        end(self._own_process())

    def kill(self) -> None:
        """Kill the process at once and keep its data."""
        end(self._own_process(), with_signal=signal.SIGKILL)

    def restart(self) -> None:
        """Stop, start and unseal."""
        self.stop()
        self.start()
        self.unseal()

    def snapshot(self, path: Path) -> None:
        """Write a raft snapshot of everything that Vault stores."""
        path.touch(mode=0o600)
        path.write_bytes(self._open("GET", "sys/storage/raft/snapshot", None))

    def restore(self, path: Path, *, of: "VaultServer | None" = None) -> None:
        """Put a snapshot in place of everything that Vault stores, and return when it serves the restored data.

        `of` names the server that the snapshot was taken from when it is not this one: the snapshot is then forced upon
        this server, which takes over that one's unseal key and root token.
        """
        probe = f"sys/policies/acl/restore-probe-{secrets.token_hex(8)}"
        # Vault answers before it restores. What is written now is not in the snapshot: once it is gone, Vault has restored.
        self.request("PUT", probe, {"policy": 'path "none" {}'})
        self._open("PUT", "sys/storage/raft/snapshot-force" if of else "sys/storage/raft/snapshot", path.read_bytes())
        if of is not None:
            self._wait(lambda: bool(self.status()["sealed"]), what="Vault sealed itself over a foreign snapshot")
            self.unseal_key, self.root_token = of.unseal_key, of.root_token
            self.unseal()
        self._wait(lambda: self._gone(probe), what="Vault restored the snapshot")

    def initialise(self) -> None:
        """Initialise with one key share, keep it and the root token in this handle, and unseal."""
        answer = self.request("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.unseal_key, self.root_token = answer["keys_base64"][0], answer["root_token"]
        self.unseal()

    def _open(self, method: str, path: str, data: bytes | None, *, token: str | None = None) -> bytes:
        headers = {"X-Vault-Token": token or self.root_token} if token or self.root_token else {}
        request = urllib.request.Request(f"{self.addr}/v1/{path}", data=data, method=method, headers=headers)  # noqa: S310 - addr is https
        context = ssl.create_default_context(cafile=self.ca_file)
        # An empty ProxyHandler: the proxies of the environment are not for 127.0.0.1.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            with error:
                answer = error.read().decode(errors="replace").strip()
            raise VaultError(f"Vault: {method} {path}: {error.code}: {answer}", status=error.code) from error

    def _environment(self) -> dict[str, str]:
        """Let Go collect garbage more seldom where memory is cheap: hundreds of tests' mounts are a large heap to walk through."""
        return {**os.environ} if self.durable else {"GOGC": "400", "GOMEMLIMIT": "2GiB", **os.environ}

    def _answers(self) -> bool:
        try:
            self.status()
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def _active(self) -> bool:
        return self._status_of("sys/health") == HTTPStatus.OK

    def _gone(self, path: str) -> bool:
        return self._active() and self._status_of(path) == HTTPStatus.NOT_FOUND

    def _status_of(self, path: str) -> int:
        try:
            self.request("GET", path)
        except VaultError as error:
            return error.status
        return HTTPStatus.OK

    def _wait(self, condition: Callable[[], bool], *, what: str) -> None:
        wait_until(condition, what=what, log=self.log_file, process=self.process)

    def _own_process(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise ServerError("this Vault server is shared: only its owner stops it; use new_vault for your own")
        return self.process


@contextlib.contextmanager
def running_vault(*, raw_storage: bool = False, durable: bool = False) -> Iterator[VaultServer]:
    """Run an initialised, unsealed server of one's own until the block ends; `raw_storage` opens `sys/raw` to root.

    Its data survives the death of the process; that of a power cut only where it is `durable`, which benchmarks want.
    """
    binary = find_vault()
    with _directory(None) as home, _directory(data_root(durable=durable)) as storage:
        server = _prepare(home, storage / "data", binary=binary, raw_storage=raw_storage)
        server.durable = durable
        try:
            server.start()
            server.initialise()
            yield server
        finally:
            if server.process is not None:
                server.kill()


@contextlib.contextmanager
def _directory(root: Path | None) -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="keyvault-vault-", dir=root))
    try:
        yield home
    finally:
        shutil.rmtree(home)


def _prepare(home: Path, data_dir: Path, *, binary: Path, raw_storage: bool) -> VaultServer:
    port, cluster_port = free_port(), free_port()
    server = VaultServer(
        addr=f"https://127.0.0.1:{port}",
        ca_file=home / "ca.pem",
        data_dir=data_dir,
        audit_file=home / "audit.log",
        log_file=home / "vault.log",
        config_file=home / "vault.json",
        binary=binary,
    )
    server.data_dir.mkdir()
    configuration = _configuration(server, make_certificates(home), port=port, cluster_port=cluster_port)
    if raw_storage:
        configuration["raw_storage_endpoint"] = True
    server.config_file.write_text(json.dumps(configuration, indent=2))
    return server


def _configuration(server: VaultServer, certificates: Certificates, *, port: int, cluster_port: int) -> dict[str, Any]:
    configuration = {
        "storage": {"raft": {"path": str(server.data_dir), "node_id": "test", "performance_multiplier": 1}},
        "listener": {
            "tcp": {
                "address": f"127.0.0.1:{port}",
                "cluster_address": f"127.0.0.1:{cluster_port}",
                "tls_cert_file": str(certificates.cert_file),
                "tls_key_file": str(certificates.key_file),
            }
        },
        "api_addr": server.addr,
        "cluster_addr": f"https://127.0.0.1:{cluster_port}",
        "disable_mlock": True,
        "log_level": "info",
    }
    if server.binary.name == "bao":
        # OpenBao refuses audit devices over the API otherwise; Vault does not know the setting.
        configuration["unsafe_allow_api_audit_creation"] = True
    return configuration
