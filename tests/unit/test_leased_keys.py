from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from keyvault.errors import KeyVaultError
from keyvault.leased_keys import LeasedKeys
from keyvault.testing import ManualClock
from keyvault.wrapped import CustodyCode, Header, ScopeShareRef, WrappingKey, derive_wrapping_key

START = datetime(2026, 11, 24, tzinfo=UTC)
TTL = 60.0


def key() -> WrappingKey:
    scope = ScopeShareRef(scope_id=bytes(16), custody=CustodyCode.RING, generation=1)
    return derive_wrapping_key(Header(salt=bytes(32), scopes=(scope,)), [bytes(32)])


def is_wiped(made: WrappingKey) -> bool:
    try:
        made.wrap(bytes(32))
    except KeyVaultError:
        return True
    return False


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


def test_a_key_is_kept_for_a_lease_from_its_anchor_and_then_wiped(clock: ManualClock) -> None:
    kept, made = LeasedKeys(clock, ttl=TTL), key()
    anchor = clock.monotonic()
    clock.advance(timedelta(seconds=20))  # the read and the derivation took that long
    kept.keep("a", made, anchor=anchor)
    clock.advance(timedelta(seconds=39.9))
    assert kept.usable()["a"].key is made
    assert kept.still_usable(kept.usable()["a"].expires)
    clock.advance(timedelta(seconds=0.1))
    assert not kept.still_usable(anchor + TTL)
    assert "a" not in kept.usable()
    assert is_wiped(made)


def test_what_makes_room_is_wiped(clock: ManualClock) -> None:
    kept, made = LeasedKeys(clock, ttl=TTL, limit=2), [key() for _ in range(3)]
    for name, one in zip("abc", made, strict=True):
        kept.keep(name, one, anchor=clock.monotonic())
    assert list(kept.usable()) == ["b", "c"]
    assert [is_wiped(one) for one in made] == [True, False, False]


def test_a_newer_key_takes_the_place_of_the_one_before(clock: ManualClock) -> None:
    kept, (old, new, other) = LeasedKeys(clock, ttl=TTL), [key() for _ in range(3)]
    kept.keep("a", old, anchor=clock.monotonic())
    clock.advance(timedelta(seconds=30))
    kept.keep("b", other, anchor=clock.monotonic())
    kept.keep("a", new, anchor=clock.monotonic())
    assert is_wiped(old)
    clock.advance(timedelta(seconds=59))
    assert list(kept.usable()) == ["b", "a"]


def test_closing_wipes_all(clock: ManualClock) -> None:
    kept, made = LeasedKeys(clock, ttl=TTL), key()
    kept.keep("a", made, anchor=clock.monotonic())
    kept.close()
    assert not kept.usable()
    assert is_wiped(made)


def test_what_is_due_is_known_until_the_lease_ends(clock: ManualClock) -> None:
    kept = LeasedKeys(clock, ttl=TTL)
    kept.keep("a", key(), anchor=clock.monotonic(), due_at=START)
    kept.keep("b", key(), anchor=clock.monotonic())
    assert [leased.due_at for leased in kept.usable().values()] == [START, None]


def test_a_sweep_says_when_the_next_is_due(clock: ManualClock) -> None:
    kept = LeasedKeys(clock, ttl=TTL)
    assert kept._sweep() is None
    clock.advance(timedelta(seconds=5))
    kept.keep("a", key(), anchor=clock.monotonic())
    clock.advance(timedelta(seconds=20))
    assert kept._sweep() == TTL - 20


def test_repr_shows_no_key(clock: ManualClock) -> None:
    kept = LeasedKeys(clock, ttl=TTL)
    kept.keep("a", key(), anchor=clock.monotonic())
    assert repr(kept.usable()["a"]) == "LeasedKey(expires=60.0)"
