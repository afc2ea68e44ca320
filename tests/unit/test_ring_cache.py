"""Opened ring states in memory, and how one is handed over to the worker that replaces it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyvault.custody.ring_cache import RingCache
from keyvault.custody.ring_state import RingStates
from keyvault.errors import KeyVaultError
from keyvault.puncture_records import new_records
from keyvault.testing import ManualClock
from keyvault.transit.embedded import EmbeddedEngine

RING = bytes(16)
TTL = 60.0
TAG = bytes(8)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def cache(tmp_path: Path, clock: ManualClock) -> RingCache:
    states = RingStates(EmbeddedEngine(tmp_path / "engine" / "keys.db", create=True), 1)
    states.create(RING, 8)
    return RingCache(states, clock, ttl=TTL)


def test_a_state_that_is_taken_is_whole_and_here_no_more(cache: RingCache) -> None:
    records = new_records(bytes(32))
    with cache.borrow(RING, 0) as ring:
        ring.keep(3, records)
    taken = cache.take(RING)
    assert taken is not None
    cache.drop(RING)
    taken.state.derive(3).wipe()
    with pytest.raises(KeyVaultError, match="wiped"):
        records.derive(0)
    assert cache.take(RING) is None
    with cache.borrow(RING, 0) as again:
        assert again.loaded is not taken
        assert again.frontier(3, TAG) is None


def test_a_state_in_use_is_not_handed_over(cache: RingCache) -> None:
    with cache.borrow(RING, 0) as ring:
        assert cache.take(RING) is None
        ring.loaded.state.derive(3).wipe()
    assert cache.take(RING) is not None


def test_a_state_is_not_handed_over_after_its_lease(cache: RingCache, clock: ManualClock) -> None:
    with cache.borrow(RING, 0) as ring:
        loaded = ring.loaded
    clock.advance(timedelta(seconds=TTL))
    assert cache.take(RING) is None
    with pytest.raises(KeyVaultError, match="wiped"):
        loaded.state.derive(3)
