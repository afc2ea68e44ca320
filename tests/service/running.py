"""A service that runs, as its operators see it: its URL from standard output, its processes, its log."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

SECONDS = 60.0
CONTEXT = ssl.create_default_context()
"""One for all clients: to make one takes longer than many calls."""


@dataclass(frozen=True, kw_only=True)
class Running:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def workers(self) -> list[int]:
        return children(self.process.pid)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def ready(self) -> dict[str, Any]:
        answer = get(f"{self.url}/readyz")
        body: dict[str, Any] = answer.json()
        assert body["ready"] == (answer.status_code == 200)
        return body


def command(home: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "cli", "--home", str(home), "serve", *options]


@contextlib.contextmanager
def running(home: Path, log: Path, *options: str, **environment: str) -> Iterator[Running]:
    """Serve on any port, until the context ends."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command(home, "--port", "0", *options),
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **environment},
        )
    with process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline().decode()
            assert line.startswith("Serving http"), log.read_text()
            yield Running(url=line.split()[1], process=process, log=log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise AssertionError(f"the service did not stop: {log.read_text()}") from None


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def get(url: str) -> httpx2.Response:
    return httpx2.get(url, verify=CONTEXT)


def eventually(what: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until something holds; connections that fail meanwhile are part of waiting."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx2.TransportError):
            if what():
                return
        assert time.monotonic() < until, "it did not come to be"
        time.sleep(0.05)


@dataclass
class Load:
    """A client that calls all the time, on one connection kept alive and on fresh ones in turn."""

    urls: list[str]
    path: str
    headers: dict[str, str]
    body: bytes
    answered: int = 0
    elsewhere: int = 0
    failures: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def __call__(self, threads: int = 2) -> Iterator[Load]:
        running_threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        for thread in running_threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            for thread in running_threads:
                thread.join()

    def _run(self, number: int) -> None:
        with httpx2.Client(timeout=30, headers=self.headers, verify=CONTEXT) as kept:
            while not self._ended.is_set():
                try:
                    self._call(kept, number)
                    with httpx2.Client(timeout=30, headers=self.headers, verify=CONTEXT) as fresh:
                        self._call(fresh, number)
                except (httpx2.TransportError, AssertionError) as error:
                    self.failures.append(repr(error))

    def _call(self, client: httpx2.Client, number: int) -> None:
        """Ask a node and, where it is not there or says that it is stopping, the next: these calls may be repeated."""
        for attempt, url in enumerate(self.urls[number % len(self.urls) :] + self.urls[: number % len(self.urls)]):
            last = attempt == len(self.urls) - 1
            try:
                answer = client.post(url + self.path, content=self.body)
            except httpx2.TransportError:
                if last:
                    raise
            else:
                if answer.status_code == 503 and not last:
                    self.elsewhere += 1
                    continue
                assert answer.status_code == 200, answer.text
                assert "error" not in answer.text, answer.text
                self.answered += 1
                return
            self.elsewhere += 1
