"""Leases in the lives that the machines think of."""

from __future__ import annotations

import pytest

from keyvault.custody import ring_shredding


@pytest.fixture(autouse=True)
def _leases_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who dies in the machine leaves a ring's lease behind in a process that lives on, and so looks alive until it expires."""
    monkeypatch.setattr(ring_shredding, "LEASE_SECONDS", 0.05)
