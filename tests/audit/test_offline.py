"""Verification loads neither a database nor an engine, and opens no network connection."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from shredder.verify import Evidence, verify_sample
from tests.audit.packs import Material, lines, verified
from tests.logs import LOG_KEY

HEAVY = "sqlalchemy alembic psycopg hvac urllib3 requests rich click"


def test_importing_it_loads_nothing_that_it_does_not_need() -> None:
    code = (
        f"import sys, shredder.verify; found = set('{HEAVY}'.split()) & {{name.partition('.')[0] for name in sys.modules}}; "
        "print(sorted(found), any(name.startswith(('keyvault.store', 'keyvault.transit')) for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n"


def test_no_connection_is_opened(pack: Path, thousand: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert lines(verified(pack, thousand.at)) == []
    found, sampled = verify_sample(pack, Evidence(log_key=LOG_KEY), seed="x", count=25)
    assert (lines(found), len(sampled)) == ([], 25)


def test_a_pack_is_left_as_it_is(pack: Path, thousand: Material) -> None:
    def state() -> list[tuple[str, int, int]]:
        return sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in pack.rglob("*"))

    before = state()
    verified(pack, thousand.at)
    assert state() == before
