"""The service as its users run it: `keyvault serve` in a process of its own, and tokens for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2

from keyvault.home import open_home
from keyvault.persons import Person
from keyvault.token_desk import TokenDesk
from keyvault.tokens import Role, parse_token

START_SECONDS = 60
TESTER = Person(identity="tester", display="tester")


@dataclass(frozen=True, kw_only=True)
class Served:
    """A service that runs. `process` may be sent signals."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def keyvault(home: Path, *args: str, **environment: str) -> dict[str, Any]:
    """Run a command on a home, and return its JSON."""
    command = [sys.executable, "-m", "cli", "--home", str(home), *args, "--json"]
    done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, **environment})
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def issue_token(home: Path, role: str = "issuer", *, issued_by: Person = TESTER, **limits: tuple[str, ...]) -> str:
    """Return a new token, as `keyvault token issue` makes it of a person whom nobody asks for a login.

    `limits`: accounts, kinds, purposes.
    """
    with closing(open_home(home, role="issuer")) as opened:
        desk = TokenDesk(opened)
        none: dict[str, tuple[str, ...]] = {"accounts": (), "kinds": (), "purposes": ()}
        limited = desk.limits(**{**none, **limits})
        until = opened.clock.now() + timedelta(days=1)
        made, _ = desk.issue("test", Role(role), issued_by, expires_at=until, limits=limited)
    return made.text


def revoke_token(home: Path, token: str) -> None:
    """Revoke a token, as `keyvault token revoke` does."""
    with closing(open_home(home, role="issuer")) as opened:
        TokenDesk(opened).revoke(parse_token(token).id, TESTER)


@contextlib.contextmanager
def served(home: Path, *options: str, log: Path, **environment: str) -> Iterator[Served]:
    """Serve a home on a free port until the context ends; the service must stop by itself when it is told to."""
    port = free_port()
    command = [sys.executable, "-m", "cli", "--home", str(home), "serve", "--port", str(port), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
        try:
            wait_until_up(f"http://127.0.0.1:{port}", process, log)
            yield Served(url=f"http://127.0.0.1:{port}", process=process, log=log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"the service did not stop: {log.read_text()}") from None


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/healthz").is_success:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"the service is not up: {log.read_text()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
