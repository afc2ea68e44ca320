"""What a client keeps: nothing is usable after its lease, whatever happened before (G3); and no cliff where leases end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvault import OpenRequest, Reuse, SealRequest, UnwrapRequest
from keyvault.client.asking import Lost
from keyvault.client.kept_keys import RENEWED_AFTER, TICKS, KeptKey
from keyvault.envelope import EnvelopeKey, split_envelope
from keyvault.errors import (
    DecryptionFailedError,
    InvalidFormatError,
    InvalidInputError,
    KeyVaultError,
    ScopeDestroyedError,
    ScopeSuspendedError,
    Unavailable,
)
from keyvault.results import values_of
from tests.key_service import Client, record_tag, scope_id

LEASE = 60.0
ADA, BOB = "consumer/a/ada", "consumer/a/bob"
GONE = ScopeDestroyedError("gone; permanent")


def seal(client: Client, text: bytes, *scopes: str, associated_data: bytes = b"", record: str | None = None) -> bytes:
    request = SealRequest(plaintext=text, scopes=scopes, associated_data=associated_data, record=record)
    (envelope,) = values_of(client.take(client.core.sealing.many([request])))
    return envelope


def opened(client: Client, *envelopes: bytes, associated_data: bytes = b"") -> list[bytes | KeyVaultError]:
    requests = [OpenRequest(envelope=envelope, associated_data=associated_data) for envelope in envelopes]
    return client.take(client.core.opening.many(requests))


def keys(client: Client) -> list[KeptKey]:
    return list(client.core.kept._keys.values())


def is_wiped(kept: KeptKey) -> bool:
    if hasattr(kept.key, "plaintext"):
        return not any(kept.key.plaintext)
    try:
        kept.key.seal(b"")
    except KeyVaultError:
        return True
    return False


def asked(client: Client, verb: str) -> int:
    """Return how many keys the service was asked for since the last time, and forget it."""
    count = sum(items for called, items in client.service.calls if called == verb)
    client.service.calls.clear()
    return count


def test_an_envelope_is_opened_from_memory_until_the_lease_ends_and_then_asked_for() -> None:
    client = Client(lease=LEASE)
    envelope = seal(client, b"hello", ADA)
    assert opened(client, envelope) == [b"hello"]
    assert asked(client, "unwrap") == 1
    client.advance(LEASE - 0.1)
    assert opened(client, envelope) == [b"hello"]
    assert client.core.opening.one(envelope, b"", None) == b"hello"
    assert asked(client, "unwrap") == 0
    client.advance(0.1)
    assert client.core.opening.one(envelope, b"", None) is None
    assert opened(client, envelope) == [b"hello"]
    assert asked(client, "unwrap") == 1


def test_a_lease_counts_from_before_the_call_was_sent() -> None:
    client = Client(lease=LEASE)
    envelope = seal(client, b"hello", ADA)
    client.service.seconds = 8.0
    assert opened(client, envelope) == [b"hello"]
    client.advance(LEASE - 8.0)
    assert client.core.opening.one(envelope, b"", None) is None


def test_what_took_longer_than_its_lease_is_answered_and_not_kept() -> None:
    client = Client(lease=5.0)
    envelope = seal(client, b"hello", ADA)
    client.service.seconds = 5.0
    assert opened(client, envelope) == [b"hello"]
    assert client.core.opening.one(envelope, b"", None) is None


@pytest.mark.parametrize("lease", [0.0, -1.0])
def test_without_a_lease_nothing_is_kept(lease: float) -> None:
    client = Client(lease=lease)
    envelope = seal(client, b"hello", ADA)
    assert opened(client, envelope) == [b"hello"]
    assert keys(client) == []


def test_a_key_is_kept_for_its_associated_data_and_purpose_alone() -> None:
    client = Client()
    envelope = seal(client, b"hello", ADA, associated_data=b"row 1")
    assert opened(client, envelope, associated_data=b"row 1") == [b"hello"]
    assert isinstance(opened(client, envelope, associated_data=b"row 2")[0], DecryptionFailedError)
    assert client.core.opening.one(envelope, b"row 1", "support") is None


def test_altered_envelopes_under_a_kept_key_are_refused() -> None:
    client = Client(reuse=False)
    envelope = seal(client, b"hello", ADA)
    wrapped_end = 4 + len(split_envelope(envelope).wrapped.raw)
    assert opened(client, envelope) == [b"hello"]
    assert isinstance(opened(client, envelope[:-1] + bytes([envelope[-1] ^ 1]))[0], DecryptionFailedError)
    assert isinstance(opened(client, envelope[:wrapped_end] + bytes(27))[0], InvalidFormatError)
    assert isinstance(opened(client, envelope[:wrapped_end])[0], InvalidFormatError)
    assert isinstance(opened(client, envelope[:wrapped_end] + bytes(28))[0], DecryptionFailedError)
    assert isinstance(opened(client, b"KVX" + envelope[3:])[0], InvalidFormatError)
    assert isinstance(opened(client, b"KVS\x01" + envelope[4:])[0], InvalidFormatError)


def test_envelopes_of_more_sizes_than_are_tried_still_open() -> None:
    client = Client()
    envelopes = [seal(client, b"%d" % count, *(f"user/{n}" for n in range(count))) for count in range(1, 8)]
    for _ in range(3):
        assert opened(client, *envelopes) == [b"%d" % count for count in range(1, 8)]


def test_a_batch_asks_for_each_key_once() -> None:
    client = Client()
    envelopes = [seal(client, b"%d" % n, ADA) for n in range(5)]
    other = seal(client, b"other", BOB)
    assert asked(client, "generate") == 2
    assert opened(client, *envelopes, other, *envelopes) == [*(b"%d" % n for n in range(5)), b"other"] + [
        b"%d" % n for n in range(5)
    ]
    assert asked(client, "unwrap") == 2


def test_callers_get_copies_of_raw_keys_and_wiping_them_harms_nobody() -> None:
    client = Client()
    wrapped = split_envelope(seal(client, b"", ADA)).wrapped.raw
    request = UnwrapRequest(wrapped=wrapped)
    (first,) = values_of(client.take(client.core.unwrap([request])))
    known = bytes(first)
    first[:] = bytes(32)
    (second,) = values_of(client.take(client.core.unwrap([request])))
    second[:] = bytes(32)
    (third,) = values_of(client.take(client.core.unwrap([request])))
    assert bytes(third) == known
    assert any(known)
    assert asked(client, "unwrap") == 1
    (kept,) = [kept for kept in keys(client) if hasattr(kept.key, "plaintext")]
    client.advance(LEASE)
    assert client.core.kept.copies([kept.name]) == [None]
    client.core.kept._sweep()
    assert is_wiped(kept)


def test_what_expires_is_wiped_although_nobody_asks_and_the_sweep_says_when_to_come_again() -> None:
    client = Client(lease=LEASE)
    opened(client, seal(client, b"", ADA))
    client.advance(10)
    opened(client, seal(client, b"", BOB))
    some = keys(client)
    client.advance(LEASE - 10)
    assert client.core.kept._sweep() == pytest.approx(10)
    assert sorted(is_wiped(kept) for kept in some) == [False, False, True, True]
    client.advance(10)
    assert client.core.kept._sweep() is None
    assert all(is_wiped(kept) for kept in some)
    assert client.core.kept._by_scope == {}
    assert client.core.kept._bytes == 0


def test_what_makes_room_is_wiped_by_number_and_by_bytes() -> None:
    client = Client(keep=2, reuse=False)
    envelopes = [seal(client, b"", ADA) for _ in range(3)]
    opened(client, envelopes[0])
    (first,) = keys(client)
    opened(client, *envelopes[1:])
    assert is_wiped(first)
    assert len(keys(client)) == 2
    client.core.kept._max_bytes = 1
    opened(client, envelopes[0])
    assert keys(client) == []
    assert client.core.kept._bytes == 0


def test_nothing_is_kept_where_nothing_may_be() -> None:
    client = Client(keep=0)
    envelope = seal(client, b"hello", ADA)
    assert opened(client, envelope) == opened(client, envelope) == [b"hello"]
    assert asked(client, "unwrap") == 2
    assert keys(client) == []


def test_closing_wipes_all_and_keeps_nothing_afterwards() -> None:
    client = Client()
    envelope = seal(client, b"hello", ADA)
    opened(client, envelope)
    some = keys(client)
    client.core.kept.close()
    assert all(is_wiped(kept) for kept in some)
    assert opened(client, envelope) == [b"hello"]
    assert keys(client) == []


# --- renewing ----------------------------------------------------------------------------------------------------------


def test_a_key_in_use_is_renewed_once_ahead_of_its_end_and_nobody_waits() -> None:
    client = Client(lease=LEASE)
    envelope = seal(client, b"hello", ADA, BOB)
    opened(client, envelope)
    client.service.calls.clear()
    client.advance(LEASE * RENEWED_AFTER[1])
    for _ in range(3):
        assert opened(client, envelope) == [b"hello"]
    assert client.woken == 1
    assert client.renew() == 1
    assert asked(client, "unwrap") == 1
    client.advance(LEASE - 1)
    assert client.core.opening.one(envelope, b"", None) == b"hello"
    client.advance(1)
    assert client.core.opening.one(envelope, b"", None) is None


def test_keys_of_one_moment_are_renewed_at_different_ones() -> None:
    client = Client(reuse=False)
    opened(client, *(seal(client, b"", ADA) for _ in range(50)))
    moments = [kept.look_at / LEASE for kept in keys(client)]
    assert RENEWED_AFTER[0] <= min(moments) < 0.7
    assert 0.8 < max(moments) <= RENEWED_AFTER[1]


@pytest.mark.parametrize("error", [GONE, ScopeSuspendedError("suspended"), KeyVaultError("what nobody knows")])
def test_a_refused_renewal_drops_the_key_at_once(error: KeyVaultError) -> None:
    client = Client(lease=LEASE)
    ada, bob = seal(client, b"ada", ADA), seal(client, b"bob", BOB)
    opened(client, ada, bob)
    some = keys(client)
    client.advance(LEASE * RENEWED_AFTER[1])
    client.service.refused[scope_id(ADA)] = error
    opened(client, ada, bob)
    client.renew()
    assert all(
        is_wiped(kept) for kept in some if kept.marks[0][0] == scope_id(ADA) and isinstance(kept.key, EnvelopeKey)
    )
    assert client.core.opening.one(ada, b"", None) is None
    assert client.core.opening.one(bob, b"", None) == b"bob"


def test_a_service_that_cannot_be_reached_costs_nothing_until_the_lease_ends_and_is_tried_again() -> None:
    client = Client(lease=LEASE, timeout=0.5)
    envelope = seal(client, b"hello", ADA)
    opened(client, envelope)
    client.advance(LEASE * RENEWED_AFTER[1])
    client.service.failing = lambda _call: Lost(reason="ConnectError")
    opened(client, envelope)
    assert client.renew() == 1
    assert opened(client, envelope) == [b"hello"]
    client.advance(3)
    assert opened(client, envelope) == [b"hello"]
    assert client.renew() == 1
    client.advance(LEASE)
    with pytest.raises(Unavailable):
        opened(client, envelope)
    client.service.failing = lambda _call: None
    assert opened(client, envelope) == [b"hello"]


def test_a_key_that_was_dropped_while_it_was_renewed_stays_dropped() -> None:
    client = Client(lease=LEASE)
    envelope = seal(client, b"hello", ADA)
    opened(client, envelope)
    client.advance(LEASE * RENEWED_AFTER[1])
    opened(client, envelope)
    batch = client.core.kept.take_due(256)
    client.service.failing = lambda _call: client.core.kept.drop_marked([scope_id(ADA)])
    client.take(client.core.renew(batch))
    assert client.core.opening.one(envelope, b"", None) is None
    assert all(is_wiped(kept) for kept in batch)


# --- dropping ------------------------------------------------------------------------------------------------------------


def test_dropping_scopes_and_records_drops_what_is_under_them_and_nothing_else() -> None:
    client = Client()
    both, bob = seal(client, b"both", ADA, BOB), seal(client, b"bob", BOB)
    month = "communications/a/2026-10"
    first, second = seal(client, b"1", month, record="r-1"), seal(client, b"2", month, record="r-2")
    opened(client, both, bob, first, second)
    client.core.kept.drop_marked([scope_id(ADA)], [(scope_id(month), record_tag("r-1"))])
    kept = [client.core.opening.one(one, b"", None) for one in (both, bob, first, second)]
    assert kept == [None, b"bob", None, b"2"]
    assert {scope for one in keys(client) for scope, _ in one.marks} == {scope_id(BOB), scope_id(month)}
    client.core.kept.drop_all()
    assert keys(client) == []


def test_an_answer_from_before_a_drop_is_not_kept() -> None:
    client = Client()
    envelope = seal(client, b"hello", ADA)
    client.service.failing = lambda _call: client.core.kept.drop_marked([scope_id(BOB)])
    assert opened(client, envelope) == [b"hello"]
    assert client.core.opening.one(envelope, b"", None) is None


def test_what_is_in_doubt_is_asked_for_again_in_the_background() -> None:
    client = Client()
    envelope = seal(client, b"hello", ADA)
    opened(client, envelope)
    client.core.kept.doubt_all()
    client.advance(2)
    assert client.core.opening.one(envelope, b"", None) == b"hello"
    client.service.refused[scope_id(ADA)] = GONE
    client.renew()
    assert opened(client, envelope)[0] != b"hello"
    assert isinstance(opened(client, envelope)[0], ScopeDestroyedError)


# --- reuse for sealing -----------------------------------------------------------------------------------------------------


def wrapped_of(*envelopes: bytes) -> set[bytes]:
    return {split_envelope(envelope).wrapped.raw for envelope in envelopes}


def test_messages_share_a_data_key_for_what_it_is_bound_to_alone() -> None:
    client = Client()
    same = [seal(client, b"x", ADA, associated_data=b"t") for _ in range(3)]
    others = [
        seal(client, b"x", ADA, associated_data=b"u"),
        seal(client, b"x", BOB, associated_data=b"t"),
        seal(client, b"x", ADA, BOB, associated_data=b"t"),
        seal(client, b"x", ADA, associated_data=b"t", record="r"),
    ]
    assert len(wrapped_of(*same)) == 1
    assert len({split_envelope(envelope).nonce for envelope in same}) == 3
    assert len(wrapped_of(*same, *others)) == 5


@pytest.mark.parametrize(
    ("reuse", "count", "size", "expected"),
    [
        (Reuse(messages=3), 7, 1, 3),
        (Reuse(messages=3), 6, 1, 2),
        (Reuse(bytes=10), 5, 5, 3),
        (Reuse(bytes=10), 3, 11, 3),
        (Reuse(messages=1), 4, 1, 4),
        (False, 4, 1, 4),
        (True, 4, 0, 1),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_data_key_seals_no_more_messages_and_bytes_than_it_may(
    reuse: Reuse | bool, count: int, size: int, expected: int, at_once: bool
) -> None:
    client = Client(reuse=reuse)
    if at_once:
        requests = [SealRequest(plaintext=bytes(size), scopes=(ADA,)) for _ in range(count)]
        envelopes = values_of(client.take(client.core.sealing.many(requests)))
    else:
        envelopes = [seal(client, bytes(size), ADA) for _ in range(count)]
    assert len(wrapped_of(*envelopes)) == expected
    assert opened(client, *envelopes) == [bytes(size)] * count


def test_the_next_key_is_asked_for_before_the_last_message_of_this_one() -> None:
    client = Client(reuse=Reuse(messages=16))
    envelopes = [seal(client, b"", ADA) for _ in range(14)]
    assert client.woken == 1
    assert client.renew() == 1
    client.service.calls.clear()
    envelopes += [seal(client, b"", ADA) for _ in range(13)]
    assert client.service.calls == []
    assert len(wrapped_of(*envelopes)) == 2


def test_no_key_seals_after_its_lease() -> None:
    client = Client(lease=LEASE)
    first = seal(client, b"", ADA)
    client.advance(LEASE)
    client.service.refused[scope_id(ADA)] = GONE
    with pytest.raises(ScopeDestroyedError):
        seal(client, b"", ADA)
    assert len(wrapped_of(first)) == 1


def test_one_bad_item_never_fails_the_others() -> None:
    client = Client()
    client.service.refused[scope_id(BOB)] = GONE
    requests = [
        SealRequest(plaintext=b"1", scopes=(ADA,)),
        SealRequest(plaintext=b"2", scopes=(BOB,)),
        SealRequest(plaintext=b"3", scopes=(ADA,), associated_data=bytes(65 * 1024)),
        SealRequest(plaintext=b"4", scopes=(ADA,)),
    ]
    sealed = client.take(client.core.sealing.many(requests))
    assert [type(item) for item in sealed] == [bytes, ScopeDestroyedError, InvalidInputError, bytes]


def test_repr_shows_no_key() -> None:
    client = Client()
    envelope = seal(client, b"", ADA)
    opened(client, envelope)
    client.take(client.core.unwrap([UnwrapRequest(wrapped=split_envelope(envelope).wrapped.raw)]))
    assert {repr(kept.key) for kept in keys(client)} == {"ReusedKey()", "EnvelopeKey()", "RawKey()"}
    assert all(repr(kept) == f"KeptKey(expires={kept.expires})" for kept in keys(client))


@pytest.mark.parametrize("wrong", [{"messages": 0}, {"messages": 2**32 + 1}, {"bytes": 0}, {"bytes": 2**38 + 1}])
def test_limits_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInputError):
        Reuse(**wrong)


# --- against a model -----------------------------------------------------------------------------------------------------


def used(client: Client, verb: str, name: str, envelope: bytes) -> bytes | bytearray | KeyVaultError:
    if verb == "seal":
        return client.take(client.core.sealing.many([SealRequest(plaintext=b"x", scopes=(name,))]))[0]
    if verb == "open":
        return opened(client, envelope)[0]
    wrapped = split_envelope(envelope).wrapped.raw
    return client.take(client.core.unwrap([UnwrapRequest(wrapped=wrapped)]))[0]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.floats(0.01, 40)),
        st.tuples(st.just("seal"), st.integers(0, 2)),
        st.tuples(st.just("open"), st.integers(0, 2)),
        st.tuples(st.just("raw"), st.integers(0, 2)),
        st.tuples(st.just("refuse"), st.integers(0, 2)),
        st.tuples(st.just("drop"), st.integers(0, 2)),
        st.tuples(st.just("renew"), st.none()),
        st.tuples(st.just("lose"), st.none()),
        st.tuples(st.just("find"), st.none()),
        st.tuples(st.just("doubt"), st.none()),
        st.tuples(st.just("lease"), st.floats(0.5, 60)),
        st.tuples(st.just("seconds"), st.floats(0, 9)),
    ),
    max_size=60,
)


@given(steps=STEPS)
@settings(deadline=None, max_examples=40)
def test_nothing_is_usable_after_the_lease_it_came_with_whatever_the_order(  # noqa: C901, PLR0912
    steps: list[tuple[str, float | int | None]],
) -> None:
    """The model: a scope's keys may be used until the latest end that the service said before it refused that scope."""
    client = Client(timeout=1.0)
    scopes = ["user/0", "user/1", "user/2"]
    envelopes = [seal(client, name.encode(), name) for name in scopes]
    bound = dict.fromkeys(scopes, client.clock.monotonic() + client.service.lease)
    fenced: set[str] = set()
    lost = False

    def told(name: str, anchor: float) -> None:
        if name not in fenced and not lost:
            bound[name] = max(bound[name], anchor + client.service.lease)

    for verb, value in steps:
        name = scopes[value] if isinstance(value, int) else ""
        anchor = client.clock.monotonic()
        if verb == "advance":
            client.advance(float(value or 0))
        elif verb == "lease":
            client.service.lease = float(value or 0)
        elif verb == "seconds":
            client.service.seconds = float(value or 0)
        elif verb == "refuse":
            fenced.add(name)
            client.service.refused[scope_id(name)] = GONE
        elif verb == "drop":
            client.core.kept.drop_marked([scope_id(name)])
            if name in fenced:
                bound[name] = anchor
        elif verb in {"lose", "find"}:
            lost = verb == "lose"
            client.service.failing = (lambda _call: Lost(reason="x")) if lost else (lambda _call: None)
        elif verb == "doubt":
            client.core.kept.doubt_all()
        elif verb == "renew":
            client.renew()
            for each in scopes:
                told(each, client.clock.monotonic())
        else:
            usable = name not in fenced or anchor < bound[name]
            try:
                result = used(client, verb, name, envelopes[scopes.index(name)])
            except Unavailable:
                assert lost
                continue
            if isinstance(result, KeyVaultError):
                assert name in fenced
            else:
                assert usable, f"{verb} of {name} at {anchor}, fenced, bound {bound[name]}"
                told(name, anchor)
        client.core.kept._sweep()
        now = client.clock.monotonic()
        assert all(kept.expires > now and not is_wiped(kept) for kept in keys(client))
        for kept in keys(client):
            owner = next(each for each in scopes if scope_id(each) == kept.marks[0][0])
            assert kept.expires <= bound[owner] + 1 / TICKS
