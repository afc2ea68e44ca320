"""Fixtures that give a fresh home on each pair of engine and store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.homes import PAIRS, TestHome, embedded_home, vault_home


@pytest.fixture(params=PAIRS)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> TestHome:
    """A fresh home; every test that takes it runs on both pairs."""
    if request.param == "embedded+sqlite":
        return embedded_home(tmp_path)
    return vault_home(tmp_path, request.getfixturevalue("vault_server"), request.getfixturevalue("postgres_url"))
