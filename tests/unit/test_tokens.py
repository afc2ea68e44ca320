"""Tokens, limits, rates and readings: what needs neither a service nor a database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyvault.errors import DecryptionFailedError, InvalidInputError, NotPermittedError, TokenRefusedError, Unavailable
from keyvault.limits import NO_LIMITS, Limits, decode_limits, encode_limits, limits_digest
from keyvault.scopes import ScopeKind
from keyvault.service.rates import Rates
from keyvault.service.token_readings import AHEAD_SECONDS, BELIEVED_SECONDS, LATEST_SECONDS, Reading, TokenReadings
from keyvault.store.tokens import TokenRow
from keyvault.token_events import issued, open_content
from keyvault.tokens import NewToken, check_token, new_token, parse_token
from tests.token_histories import KEYS, content_of

NOW = datetime(2026, 11, 30, tzinfo=UTC)
ADA, BOB = b"a" * 32, b"b" * 32


def row_of(made: NewToken, **changes: Any) -> TokenRow:
    row = TokenRow(
        id=made.id,
        name="importer",
        role="issuer",
        secret_hash=made.secret_hash,
        owner=ADA,
        limits=None,
        created_at=NOW,
        expires_at=NOW + timedelta(days=1),
    )
    return replace(row, **changes)


# --- tokens ---------------------------------------------------------------------------------------------------------------


def test_a_token_is_known_by_its_secret_alone() -> None:
    made, other = new_token(), new_token()
    assert check_token(parse_token(made.text), row_of(made), NOW).name == "importer"
    mixed = f"kv1_{made.id.hex()}_{other.text.rpartition('_')[2]}"
    with pytest.raises(TokenRefusedError):
        check_token(parse_token(mixed), row_of(made), NOW)
    assert other.text not in repr(other)
    assert row_of(made).secret_hash.hex() not in made.text


@pytest.mark.parametrize("row", [None, "revoked", "expired", "expiring"])
def test_all_that_is_refused_is_refused_alike(row: str | None) -> None:
    made = new_token()
    rows = {
        None: None,
        "revoked": row_of(made, revoked_at=NOW),
        "expired": row_of(made, expires_at=NOW - timedelta(days=1)),
        "expiring": row_of(made, expires_at=NOW),
    }
    with pytest.raises(TokenRefusedError, match="unknown, expired or revoked"):
        check_token(parse_token(made.text), rows[row], NOW)


@pytest.mark.parametrize(
    "text", ["", "kv1_", "kv2_" + "0" * 97, "kv1_" + "0" * 32 + "_" + "0" * 63, "kv1_" + "A" * 32 + "_" + "0" * 64, "é"]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenRefusedError):
        parse_token(text)


def test_what_rebuilds_a_token_is_sealed_for_that_token() -> None:
    made = new_token()
    row = row_of(made, limits=encode_limits(Limits(purposes=frozenset({"support"}))), name="of-the-support")
    event = issued(KEYS, row)
    assert not any(secret in event.body for secret in (b"of-the-support", b"support", row.secret_hash.hex().encode()))
    sealed = content_of(event)
    assert open_content(KEYS, row.id, sealed) == (row.name, row.secret_hash, row.limits)
    with pytest.raises(DecryptionFailedError, match="altered"):
        open_content(KEYS, bytes(16), sealed)


# --- limits ---------------------------------------------------------------------------------------------------------------


def test_limits_are_read_as_they_were_written() -> None:
    limits = Limits(
        accounts=frozenset({ADA, BOB}),
        kinds=frozenset({ScopeKind.CONSUMER, ScopeKind.BUSINESS}),
        purposes=frozenset({"support", "billing"}),
    )
    text = encode_limits(limits)
    assert decode_limits(text) == limits
    assert encode_limits(NO_LIMITS) is None
    assert decode_limits(None) == NO_LIMITS
    assert limits_digest(text) != limits_digest(encode_limits(replace(limits, purposes=None)))
    assert limits_digest(None) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"kinds":[]}',
        '{"kinds":["person"]}',
        '{"places":["x"]}',
        '{"purposes":"x"}',
        '{"purposes":[1]}',
        '{"accounts":["AAAA"]}',
        '{"accounts":["*"]}',
        '{"purposes":["\\ud800"]}',
        '{"purposes":null}',
    ],
)
def test_limits_that_are_not_understood_let_nothing_through(text: str) -> None:
    with pytest.raises(InvalidInputError):
        decode_limits(text)


def test_an_account_reaches_what_is_its_own_and_nothing_of_the_company() -> None:
    limits = Limits(accounts=frozenset({ADA}))
    for kind in (ScopeKind.COMMUNICATIONS, ScopeKind.CONSUMER, ScopeKind.CUSTOMER):
        limits.check_scope(kind, ADA)
        for subject in (BOB, None):
            with pytest.raises(NotPermittedError):
                limits.check_scope(kind, subject)
    for kind in (ScopeKind.USER, ScopeKind.MARKETING, ScopeKind.BUSINESS):
        with pytest.raises(NotPermittedError):
            limits.check_scope(kind, ADA)


def test_kinds_and_purposes_are_those_that_are_named() -> None:
    limits = Limits(kinds=frozenset({ScopeKind.USER}), purposes=frozenset({"support"}))
    limits.check_scope(ScopeKind.USER, ADA)
    limits.check_purpose("support")
    refused: list[Callable[[], None]] = [
        lambda: limits.check_scope(ScopeKind.CONSUMER, ADA),
        lambda: limits.check_purpose(None),
        lambda: limits.check_purpose("marketing"),
    ]
    for check in refused:
        with pytest.raises(NotPermittedError):
            check()
    NO_LIMITS.check_scope(ScopeKind.BUSINESS, None)
    NO_LIMITS.check_purpose(None)
    NO_LIMITS.check_account(ADA)
    with pytest.raises(NotPermittedError):
        Limits(accounts=frozenset({ADA})).check_account(BOB)


# --- rates ----------------------------------------------------------------------------------------------------------------


class Time:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_lets_bursts_through_and_then_so_many_a_second() -> None:
    time = Time()
    rates: Rates[str] = Rates(time, burst=2.0)
    assert [rates.take("a", 8) for _ in range(16)] == [0.0] * 16
    wait = rates.take("a", 8)
    assert wait == 1 / 8
    assert rates.wait("a", 8) == wait, "what is refused takes nothing"
    assert rates.take("b", 8) == 0.0
    time.now += wait + 1e-6
    assert rates.take("a", 8) == 0.0
    taken = 0
    for _ in range(1_000):
        time.now += 0.01
        taken += rates.take("a", 8) == 0.0
    assert 79 <= taken <= 81


def test_what_rates_keep_is_bounded_and_full_buckets_go_first() -> None:
    time = Time()
    rates: Rates[int] = Rates(time, burst=1.0, limit=10)
    assert rates.take(-1, 1) == 0.0
    for key in range(1_000):
        time.now += 0.3
        rates.take(key, 1)
        assert len(rates._full_at) <= 10
    assert rates.take(999, 1) > 0, "the newest is remembered"


# --- readings -------------------------------------------------------------------------------------------------------------


class Tokens:
    """A database of tokens; reading takes `seconds`."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.rows: dict[bytes, TokenRow] = {}
        self.reads = 0
        self.seconds = 0.0
        self.error: Exception | None = None

    def __call__(self, token_id: bytes) -> tuple[TokenRow | None, dict[Any, Any]]:
        self.reads += 1
        row = self.rows.get(token_id)
        self.time.now += self.seconds
        if self.error is not None:
            raise self.error
        return row, {}


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def tokens(time: Time) -> Tokens:
    return Tokens(time)


@pytest.fixture
def readings(time: Time, tokens: Tokens) -> TokenReadings:
    return TokenReadings(tokens, time, limit=100)


def test_a_reading_is_believed_for_half_a_second_from_before_it_was_begun(
    readings: TokenReadings, tokens: Tokens, time: Time
) -> None:
    tokens.seconds = 0.2
    assert readings.ask(b"t").row is None
    time.now += BELIEVED_SECONDS - 0.201
    assert readings.fresh(b"t") is not None
    assert readings.ask(b"t").row is None
    assert tokens.reads == 1, "also of a token that is not there"
    time.now += 0.002
    assert readings.fresh(b"t") is None
    assert readings.last(b"t") is not None
    readings.ask(b"t")
    assert tokens.reads == 2


def test_a_reading_that_took_too_long_lets_nobody_in(readings: TokenReadings, tokens: Tokens) -> None:
    tokens.seconds = LATEST_SECONDS + 0.001
    with pytest.raises(Unavailable, match="too slow"):
        readings.ask(b"t")


def test_when_the_database_is_down_a_reading_is_used_to_its_end_and_no_longer(
    readings: TokenReadings, tokens: Tokens, time: Time
) -> None:
    readings.ask(b"t")
    tokens.error = Unavailable("down")
    time.now += BELIEVED_SECONDS - 0.01
    readings.ask(b"t")
    time.now += 0.02
    for _ in range(2):
        with pytest.raises(Unavailable, match="down"):
            readings.ask(b"t")
    tokens.error = None
    assert readings.ask(b"t").row is None


def test_what_is_remembered_is_bounded_and_the_newest_stay(readings: TokenReadings, time: Time) -> None:
    for number in range(1_000):
        readings.ask(number.to_bytes(16))
        readings.ask(b"in use")
        time.now += BELIEVED_SECONDS
    assert len(readings._kept) == 100
    assert readings.last(b"in use") is not None


def test_many_who_ask_at_once_cost_one_read(time: Time) -> None:
    begun, go = threading.Event(), threading.Event()
    reads = []

    def read(token_id: bytes) -> tuple[None, dict[Any, Any]]:
        reads.append(token_id)
        begun.set()
        assert go.wait(30)
        return None, {}

    readings = TokenReadings(read, time)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(readings.ask, b"t")
        assert begun.wait(30)
        others = [pool.submit(readings.ask, b"t") for _ in range(7)]
        go.set()
        answers: list[Reading] = [future.result(30) for future in [first, *others]]
    assert len(reads) == 1
    assert len({id(answer) for answer in answers}) == 1


def test_an_error_is_told_to_all_who_waited_and_not_remembered(readings: TokenReadings, tokens: Tokens) -> None:
    tokens.error = OSError("broken")
    asked: list[Callable[[], object]] = [lambda: readings.ask(b"t")] * 2
    for ask in asked:
        with pytest.raises(OSError, match="broken"):
            ask()
    assert tokens.reads == 2
    assert readings.last(b"t") is None


def test_a_reading_in_use_is_renewed_before_it_is_too_old_and_once_for_all(time: Time) -> None:
    reads: list[bytes] = []
    go = threading.Event()

    def read(token_id: bytes) -> tuple[None, dict[Any, Any]]:
        reads.append(token_id)
        assert len(reads) == 1 or go.wait(30)
        return None, {}

    readings = TokenReadings(read, time)
    first = readings.ask(b"t")
    readings.renew(b"t", first)
    time.now += AHEAD_SECONDS
    for _ in range(3):
        readings.renew(b"t", first)
        assert readings.fresh(b"t") is first, "nobody waits"
    time.now += BELIEVED_SECONDS - AHEAD_SECONDS
    assert readings.fresh(b"t") is None, "what is renewed is believed no longer for that"
    go.set()
    renewed = readings.ask(b"t")
    assert renewed.begun == first.begun + AHEAD_SECONDS
    assert len(reads) == 2


def test_a_renewal_that_fails_is_told_to_those_who_ask_next(
    readings: TokenReadings, tokens: Tokens, time: Time
) -> None:
    first = readings.ask(b"t")
    time.now += AHEAD_SECONDS
    tokens.error = Unavailable("down")
    readings.renew(b"t", first)
    while b"t" in readings._asked:
        threading.Event().wait(0.001)
    assert tokens.reads == 2
    assert readings.fresh(b"t") is first
    time.now += BELIEVED_SECONDS
    with pytest.raises(Unavailable, match="down"):
        readings.ask(b"t")
