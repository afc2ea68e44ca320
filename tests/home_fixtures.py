"""Fixtures that give a fresh home on each pair of engine and store, in each custody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvault.custody import ring_shredding
from tests.backups import Backups
from tests.homes import CUSTODIES, PAIRS, TestHome, embedded_home, vault_home


@pytest.fixture(params=CUSTODIES)
def custody(request: pytest.FixtureRequest) -> str:
    """The custody of the test's home."""
    return str(request.param)


@pytest.fixture(params=PAIRS)
def home(request: pytest.FixtureRequest, tmp_path: Path, custody: str) -> TestHome:
    """A fresh home; every test that takes it runs on both pairs, in both custodies."""
    if request.param == "embedded+sqlite":
        return embedded_home(tmp_path, custody=custody)
    server, url = request.getfixturevalue("vault_server"), request.getfixturevalue("store_url")
    return vault_home(tmp_path, server, url, custody=custody)


@pytest.fixture
def backups(request: pytest.FixtureRequest, home: TestHome, tmp_path: Path) -> Iterator[Backups]:
    """Copies of the home's database, and what is restored from them."""
    postgres = None if home.store_url.startswith("sqlite") else request.getfixturevalue("postgres_server")
    made = Backups(home=home, folder=tmp_path, postgres=postgres)
    with made.cleanup:
        yield made


@pytest.fixture
def months_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every month be due for the shredder of rings: nothing can be put under one that is, and 25 months are long to wait."""
    monkeypatch.setattr(ring_shredding, "is_due", lambda month, _now: month is not None)
