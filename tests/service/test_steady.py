"""Under a load that goes on, a node's memory stays as it is."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from keyvault.results import values_of
from tests.homes import embedded_home
from tests.service.running import Running, running
from tests.serving import issue_token

log = logging.getLogger(__name__)
NAMES = [f"consumer/acct-1/{number}" for number in range(20)]
WARM_UP, CALLS, CALLERS = 1_000, 3_000, 4
ALLOWED = 4 * 1024 * 1024
"""Bytes that the worker may grow by after the warm-up: the allocator's own movements. A leak of 2 kB a call would be more."""


@pytest.fixture
def token_and_service(tmp_path: Path) -> Iterator[tuple[str, Running]]:
    home = embedded_home(tmp_path, custody="ring")
    with home.vault() as vault:
        values_of(vault.ensure_scopes(NAMES))
    with running(home.path, tmp_path / "log") as service:
        yield issue_token(home.path), service


def bodies(number: int) -> tuple[str, bytes, int]:
    """Return a call and the status of its answer: keys in batches, fresh names, and what is refused."""
    keys = {"keys": [{"scopes": [name]} for name in NAMES]}
    match number % 8:
        case 0:
            return "/v1/keys/generate", b"[" * 1_000, 400
        case 1:
            return "/v1/keys/generate", b'{"keys":[{"scopes":["consumer/acct-1/none-%d"]}]}' % number, 200
        case 2:
            return "/v1/keys/unwrap", b'{"keys":[{"wrapped":"AAAA"}]}', 200
        case 3:
            return "/v1/scopes/describe", json.dumps({"names": NAMES}).encode(), 200
        case _:
            return "/v1/keys/generate", json.dumps(keys).encode(), 200


def load(url: str, token: str, calls: int) -> None:
    """Make calls from several threads, each answered as it should be."""
    wrong: list[str] = []

    def call(first: int) -> None:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        with httpx2.Client(base_url=url, headers=headers, timeout=60) as client:
            for number in range(first, calls, CALLERS):
                path, body, status = bodies(number)
                answer = client.post(path, content=body)
                if answer.status_code != status:
                    wrong.append(f"{path}: {answer.status_code} {answer.text}")

    threads = [threading.Thread(target=call, args=(first,)) for first in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_does_not_grow_with_calls(token_and_service: tuple[str, Running]) -> None:
    token, service = token_and_service
    (worker,) = service.workers()
    load(service.url, token, WARM_UP)
    before = resident(worker)
    load(service.url, token, CALLS)
    assert service.workers() == [worker]
    log.info("grew by %d kB from %d kB", (resident(worker) - before) // 1024, before // 1024)
    assert resident(worker) - before < ALLOWED
