"""How long to look: HYPOTHESIS_PROFILE=thorough looks with fresh seeds for minutes; `ci`, the default, repeats the same few runs."""

from __future__ import annotations

import pytest
from hypothesis import settings

from keyvault.custody import ring_shredding

settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("thorough", deadline=None, print_blob=True)


@pytest.fixture(autouse=True)
def _leases_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who dies in the machine leaves a ring's lease behind in a process that lives on, and so looks alive until it expires."""
    monkeypatch.setattr(ring_shredding, "LEASE_SECONDS", 0.05)
