"""Networks that delay, cut, reset and crawl: Toxiproxy, built once from the pinned module in `proxy/`, and kept outside the tree.

A test that needs it fails where it cannot be had.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from tests.servers.go_toolchain import BUILD, cache_dir, digest_of, find_go, lock, run_with_progress
from tests.servers.process import ServerError, end, free_port, say, spawn, tail, wait_until

_MODULE = tuple(Path(__file__).parent / "proxy" / name for name in ("go.mod", "go.sum"))
_SERVER = "github.com/Shopify/toxiproxy/v2/cmd/server"


@cache
def program() -> Path:
    """Return the proxy's program, building it if need be: some minutes on 2 cores. Raises ServerError."""
    directory = cache_dir() / f"toxiproxy-{digest_of(*_MODULE)}"
    built = directory / "toxiproxy"
    if not built.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with lock(directory / "lock", "the proxy"):
            if not built.exists():
                _build(built)
    return built


def _build(built: Path) -> None:
    """Build beside the final place and move the whole there, so that a broken build is never taken for one."""
    log = built.with_name("build.log")
    say("Building the proxy that breaks networks for the tests: once, some minutes")
    with tempfile.TemporaryDirectory(dir=built.parent, prefix="build-") as name:
        for path in _MODULE:
            shutil.copy(path, name)
        command = [str(find_go()), *BUILD, "toxiproxy", _SERVER]
        status = run_with_progress(command, what="the proxy", cwd=Path(name), log=log)
        if status != 0:
            raise ServerError(
                f"the proxy could not be built: go ended with status {status}; {log} ends with\n{tail(log)}\n"
                "Mend that (often the network, or a full disk) and run this again: it goes on from Go's caches."
            )
        (Path(name) / "toxiproxy").replace(built)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to a server, through the proxy."""

    name: str
    port: int
    api: httpx2.Client

    @contextlib.contextmanager
    def broken(self, kind: str, **attributes: int) -> Iterator[None]:
        """Put a toxic of some kind on what comes back, until the context ends. Times in milliseconds."""
        body = {"name": "toxic", "type": kind, "stream": "downstream", "toxicity": 1.0, "attributes": attributes}
        self.api.post(f"/proxies/{self.name}/toxics", json=body).raise_for_status()
        try:
            yield
        finally:
            self.api.delete(f"/proxies/{self.name}/toxics/toxic").raise_for_status()


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A proxy that runs."""

    api: httpx2.Client

    def way_to(self, name: str, url: str) -> Way:
        """Make a way to the server of a URL; it is the same server, at another port of 127.0.0.1."""
        port = free_port()
        body = {"name": name, "listen": f"127.0.0.1:{port}", "upstream": f"127.0.0.1:{urlsplit(url).port}"}
        self.api.post("/proxies", json=body).raise_for_status()
        return Way(name=name, port=port, api=self.api)


@contextlib.contextmanager
def running_toxiproxy(directory: Path) -> Iterator[Proxy]:
    """Run a proxy until the context ends."""
    port, log = free_port(), directory / "toxiproxy.log"
    process = spawn([str(program()), "-port", str(port)], log=log, cwd=directory)
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as api:

        def answers() -> bool:
            with contextlib.suppress(httpx2.TransportError):
                return api.get("/version").is_success
            return False

        try:
            wait_until(answers, what="the proxy answers", log=log, process=process)
            yield Proxy(api=api)
        finally:
            end(process)
