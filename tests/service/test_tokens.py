"""Tokens at the service: who is let in, how often, to what, and until when."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import httpx2
import msgspec
import pytest

from keyvault import KeyVault, connect
from keyvault.errors import (
    InvalidFormatError,
    KeyVaultError,
    NotPermittedError,
    RateLimitedError,
    StoreError,
    TokenRefusedError,
    Unavailable,
    UnknownScopeError,
)
from keyvault.home import Home
from keyvault.limits import NO_LIMITS, Limits
from keyvault.results import values_of
from keyvault.service import wire
from keyvault.service.access import FAILURE_SECONDS, Access
from keyvault.service.app import key_calls
from keyvault.service.callers import Caller
from keyvault.service.limited import LimitedCalls
from keyvault.service.token_readings import BELIEVED_SECONDS, TokenReadings
from keyvault.store import tokens as token_store
from keyvault.store.database import Database
from keyvault.testing import ManualClock
from keyvault.token_desk import TokenDesk
from keyvault.tokens import CALLS_PER_SECOND, NewToken, Role, new_token
from keyvault.values import KeyRequest, RewrapRequest, UnwrapRequest
from tests.homes import TestHome, embedded_home, in_ring_custody
from tests.service.connections import descendants, holder_of, server_side
from tests.serving import TESTER, issue_token, revoke_token, served

ADA, BOB, USER = "consumer/acct-1/ada", "consumer/acct-2/bob", "user/u-1"
MONTH, YEAR = "communications/acct-1/2026-10", "business/acct-1/2026"
PEER = "192.0.2.1"
DEADLINE = 60
"""Seconds: far beyond the second that the design gives, for machines that do much else."""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Home]:
    with embedded_home(tmp_path).opened("issuer") as home:
        yield replace(home, clock=ManualClock(home.clock.now()))


@pytest.fixture
def clock(opened: Home) -> ManualClock:
    assert isinstance(opened.clock, ManualClock)
    return opened.clock


class Reads:
    """Counts the database's reads; with `error` none succeeds."""

    def __init__(self, database: Database, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.error: KeyVaultError | None = None
        read = database.read

        def counted(work: Any) -> Any:
            self.count += 1
            if self.error is not None:
                raise self.error
            return read(work)

        patch.setattr(database, "read", counted)


@pytest.fixture
def reads(opened: Home, monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(opened.database, monkeypatch)


def issue(home: Home, role: Role = Role.ISSUER, **options: Any) -> NewToken:
    until = home.clock.now() + timedelta(hours=1)
    return TokenDesk(home).issue("test", role, TESTER, **{"expires_at": until, **options})[0]


@pytest.fixture
def access(opened: Home) -> Access:
    return Access(opened.database, opened.clock)


def bearer(token: NewToken | str) -> str:
    return f"Bearer {token if isinstance(token, str) else token.text}"


def wrong_secret(token: NewToken) -> str:
    return bearer(f"kv1_{token.id.hex()}_{'0' * 64}")


# --- who is let in --------------------------------------------------------------------------------------------------------


def test_a_token_in_use_costs_no_reads_and_no_waiting(opened: Home, access: Access, reads: Reads) -> None:
    token = issue(opened)
    assert access.admit_cached(bearer(token), Role.ISSUER, PEER) is None, "somebody must ask"
    before = reads.count
    caller = access.admit(bearer(token), Role.ISSUER, PEER)
    assert caller == access.admit_cached(bearer(token).replace("Bearer", "bearer"), Role.ISSUER, PEER)
    assert access.admit(bearer(token), Role.ISSUER, PEER) is caller
    assert reads.count == before + 1
    assert (caller.token, caller.role, caller.limits) == (token.id, Role.ISSUER, NO_LIMITS)
    assert caller.owner == opened.keys.pseudonym_of("person", TESTER.identity)


def test_a_token_is_for_its_own_role(opened: Home, access: Access) -> None:
    for role in Role:
        token = issue(opened, role)
        for other in Role:
            for admit in (access.admit, access.admit_cached):
                if other is role:
                    assert admit(bearer(token), other) is not None
                    continue
                with pytest.raises(NotPermittedError, match=f"token's role is {role}"):
                    admit(bearer(token), other)


@pytest.mark.parametrize("authorization", [None, "", "Basic YWRhOmFkYQ==", "Bearer", "Bearer " + "x" * 20_000])
def test_without_a_token_nobody_is_let_in(access: Access, reads: Reads, authorization: str | None) -> None:
    for admit in (access.admit, access.admit_cached):
        for _ in range(int(FAILURE_SECONDS) + 10):
            with pytest.raises(TokenRefusedError):
                admit(authorization, Role.ISSUER, PEER)
    assert reads.count == 0


def test_a_wrong_secret_is_refused_whatever_is_remembered(opened: Home, access: Access, reads: Reads) -> None:
    token = issue(opened)
    for _ in range(2):
        with pytest.raises(TokenRefusedError):
            access.admit(wrong_secret(token), Role.ISSUER)
    before = reads.count
    with pytest.raises(TokenRefusedError):
        access.admit_cached(wrong_secret(token), Role.ISSUER)
    assert access.admit_cached(bearer(token), Role.ISSUER) is not None
    assert reads.count == before


def test_expiry_is_judged_at_every_use(opened: Home, access: Access, clock: ManualClock) -> None:
    token = issue(opened)
    assert access.admit(bearer(token), Role.ISSUER)
    clock.jump(clock.now() + timedelta(hours=1))
    for admit in (access.admit_cached, access.admit):
        with pytest.raises(TokenRefusedError):
            admit(bearer(token), Role.ISSUER)


def test_a_revoked_token_is_believed_for_half_a_second_at_most(
    opened: Home, access: Access, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TokenReadings, "renew", lambda *_: None)  # which may tell sooner
    token = issue(opened)
    assert access.admit(bearer(token), Role.ISSUER)
    TokenDesk(opened).revoke(token.id, TESTER)
    clock.advance(timedelta(seconds=BELIEVED_SECONDS - 0.01))
    assert access.admit_cached(bearer(token), Role.ISSUER)
    clock.advance(timedelta(seconds=0.01))
    assert access.admit_cached(bearer(token), Role.ISSUER) is None
    with pytest.raises(TokenRefusedError):
        access.admit(bearer(token), Role.ISSUER)
    with pytest.raises(TokenRefusedError):
        access.admit_cached(bearer(token), Role.ISSUER)


def test_while_the_database_is_down_nobody_is_let_in_for_long(
    opened: Home, access: Access, reads: Reads, clock: ManualClock
) -> None:
    token, other = issue(opened), issue(opened)
    access.admit(bearer(token), Role.ISSUER)
    reads.error = Unavailable("down")
    assert access.admit(bearer(token), Role.ISSUER)
    with pytest.raises(Unavailable):
        access.admit(bearer(other), Role.ISSUER)
    clock.advance(timedelta(seconds=BELIEVED_SECONDS))
    with pytest.raises(Unavailable):
        access.admit(bearer(token), Role.ISSUER)
    reads.error = None
    assert access.admit(bearer(token), Role.ISSUER)


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"limits": '{"places":["x"]}'}, StoreError),
        ({"role": "auditor", "limits": '{"kinds":["user"]}'}, StoreError),
        ({"role": "emperor"}, NotPermittedError),
    ],
)
def test_what_a_later_version_wrote_lets_nobody_in(
    opened: Home, access: Access, columns: dict[str, str], error: type[KeyVaultError]
) -> None:
    made = new_token()
    _, row = TokenDesk(opened).issue("other", Role.ISSUER, TESTER, expires_at=opened.clock.now() + timedelta(days=1))
    later = replace(row, id=made.id, secret_hash=made.secret_hash, **columns)  # type: ignore[arg-type]
    opened.database.write(lambda connection: token_store.insert(connection, later))
    for role in Role:
        with pytest.raises(error):
            access.admit(bearer(made), role)


# --- how often ------------------------------------------------------------------------------------------------------------


def test_a_token_makes_as_many_calls_as_it_may(opened: Home, access: Access, clock: ManualClock) -> None:
    slow, other = issue(opened, rate=5), issue(opened)
    for _ in range(10):
        access.admit(bearer(slow), Role.ISSUER)
    for admit in (access.admit, access.admit_cached):
        with pytest.raises(RateLimitedError) as refused:
            admit(bearer(slow), Role.ISSUER)
        assert 0 < refused.value.retry_after <= 0.21
    assert access.admit(bearer(other), Role.ISSUER).rate == CALLS_PER_SECOND[Role.ISSUER]
    clock.advance(timedelta(seconds=0.21))
    assert access.admit(bearer(slow), Role.ISSUER)


def test_guessing_ends_soon_and_keeps_nobody_out_who_was_in(
    opened: Home, access: Access, reads: Reads, clock: ManualClock
) -> None:
    known, new = issue(opened), issue(opened)
    access.admit(bearer(known), Role.ISSUER, PEER)
    before = reads.count
    for _ in range(int(FAILURE_SECONDS)):
        with pytest.raises(TokenRefusedError):
            access.admit(bearer(new_token()), Role.ISSUER, PEER)
    assert reads.count == before + FAILURE_SECONDS
    for guess in (bearer(new_token()), wrong_secret(known), bearer(new), bearer("no token")):
        with pytest.raises(RateLimitedError, match="from this address"):
            access.admit(guess, Role.ISSUER, PEER)
    assert reads.count == before + FAILURE_SECONDS, "guesses are not even looked up"
    clock.advance(timedelta(seconds=BELIEVED_SECONDS))
    assert access.admit(bearer(known), Role.ISSUER, PEER), "also when it must be read again"
    assert access.admit(bearer(new), Role.ISSUER, "192.0.2.2")
    clock.advance(timedelta(seconds=2))
    with pytest.raises(TokenRefusedError):
        access.admit(bearer(new_token()), Role.ISSUER, PEER)


def test_one_network_is_one_guesser(access: Access) -> None:
    for number in range(int(FAILURE_SECONDS)):
        with pytest.raises(TokenRefusedError):
            access.admit(bearer(new_token()), Role.ISSUER, f"2001:db8::{number:x}")
    with pytest.raises(RateLimitedError):
        access.admit(bearer(new_token()), Role.ISSUER, "2001:db8::ffff")
    with pytest.raises(TokenRefusedError):
        access.admit(bearer(new_token()), Role.ISSUER, "2001:db8:0:1::1")


# --- to what --------------------------------------------------------------------------------------------------------------


class Asked:
    """The key calls as a caller with some limits meets them."""

    def __init__(self, home: Home, vault: KeyVault, **limits: Sequence[str]) -> None:
        none: dict[str, tuple[str, ...]] = {"accounts": (), "kinds": (), "purposes": ()}
        found = TokenDesk(home).limits(**{**none, **{name: tuple(values) for name, values in limits.items()}})
        self.limits: Limits = found
        self._calls = {call.path: call for call in key_calls(vault, LimitedCalls(home.database, home.keys))}

    def __call__(self, path: str, body: msgspec.Struct) -> list[str | None]:
        """Return the errors' types, in order; None where an item was answered."""
        caller = Caller(token=bytes(16), role=Role.ISSUER, owner=bytes(32), limits=self.limits)
        answer = self._calls[path].work(caller, body)
        items: list[Any] = next(value for value in msgspec.structs.astuple(answer) if isinstance(value, list))
        return [None if item.error is None else item.error.type for item in items]


@pytest.fixture
def vault(opened: Home) -> KeyVault:
    vault = KeyVault(opened, leased=True)
    values_of(vault.ensure_scopes([ADA, BOB, USER, MONTH, YEAR]))
    return vault


def wrapped_under(vault: KeyVault, *scopes: Sequence[str]) -> list[bytes]:
    return [key.wrapped for key in values_of(vault.generate_data_keys([KeyRequest(scopes=tuple(s)) for s in scopes]))]


REFUSED = NotPermittedError.__name__


def test_an_account_is_a_limit_for_names_and_for_wrapped_keys(opened: Home, vault: KeyVault) -> None:
    asked = Asked(opened, vault, accounts=["acct-1", "acct-3"])
    everything = [ADA, BOB, USER, MONTH, YEAR, "consumer/acct-3/new"]
    allowed = [None, REFUSED, REFUSED, None, REFUSED, None]
    assert asked("/v1/scopes/ensure", wire.EnsureScopes(names=everything)) == allowed
    for path in ("/v1/scopes/describe", "/v1/scopes/suspend", "/v1/scopes/resume"):
        assert asked(path, wire.ScopeNames(names=everything)) == allowed
    generate = wire.GenerateKeys(keys=[wire.KeyItem(scopes=(name,)) for name in everything])
    assert asked("/v1/keys/generate", generate) == allowed
    wrap = wire.WrapKeys(keys=[wire.WrapItem(scopes=(name,), data_key=bytes(32)) for name in everything])
    assert asked("/v1/keys/wrap", wrap) == allowed
    keys = wrapped_under(vault, *[[name] for name in everything], [ADA, MONTH], [ADA, BOB])
    unwrap = wire.UnwrapKeys(keys=[wire.UnwrapItem(wrapped=key) for key in keys])
    assert asked("/v1/keys/unwrap", unwrap) == [*allowed, None, REFUSED]
    state = vault.describe([BOB])[0]
    assert not isinstance(state, KeyVaultError)
    assert state.state == "active", "a refused suspension suspends nothing"


def test_a_move_needs_both_ends(opened: Home, vault: KeyVault) -> None:
    asked = Asked(opened, vault, accounts=["acct-1"])
    mine, theirs = wrapped_under(vault, [ADA], [BOB])
    moves = [(mine, MONTH), (theirs, MONTH), (mine, BOB), (theirs, BOB)]
    body = wire.RewrapKeys(keys=[wire.RewrapItem(scopes=(name,), wrapped=key) for key, name in moves])
    assert asked("/v1/keys/rewrap", body) == [None, REFUSED, REFUSED, REFUSED]


def test_kinds_and_purposes_are_limits_item_by_item(opened: Home, vault: KeyVault) -> None:
    asked = Asked(opened, vault, kinds=["consumer"], purposes=["support"])
    item = wire.KeyItem
    items = [item(scopes=(ADA,), purpose="support"), item(scopes=(ADA,)), item(scopes=(ADA,), purpose="marketing")]
    items.append(item(scopes=(MONTH,), purpose="support"))
    assert asked("/v1/keys/generate", wire.GenerateKeys(keys=items)) == [None, REFUSED, REFUSED, REFUSED]
    (key, month) = wrapped_under(vault, [ADA], [MONTH])
    unwrap = [wire.UnwrapItem(wrapped=key, purpose=purpose) for purpose in ("support", None)]
    unwrap.append(wire.UnwrapItem(wrapped=month, purpose="support"))
    assert asked("/v1/keys/unwrap", wire.UnwrapKeys(keys=unwrap)) == [None, REFUSED, REFUSED]
    records = wire.RecordNames(scope=MONTH, records=["r-1", "r-2"])
    assert asked("/v1/records/suspend", records) == [REFUSED, REFUSED]
    assert Asked(opened, vault, kinds=["communications"])("/v1/records/suspend", records) == [None, None]


def test_what_is_malformed_or_unknown_is_told_as_such_and_stays_closed(opened: Home, vault: KeyVault) -> None:
    asked = Asked(opened, vault, kinds=["consumer"])
    names = ["consumer/acct-1/nobody", "nonsense"]
    assert asked("/v1/scopes/describe", wire.ScopeNames(names=names)) == ["UnknownScopeError", "InvalidScopeError"]
    (key,) = wrapped_under(vault, [ADA])
    elsewhere = key.replace(vault_id(vault, ADA), bytes(16))
    items = [wire.UnwrapItem(wrapped=data) for data in (b"nonsense", elsewhere, key)]
    assert asked("/v1/keys/unwrap", wire.UnwrapKeys(keys=items)) == [InvalidFormatError.__name__, REFUSED, None]
    unlimited = Asked(opened, vault)("/v1/keys/unwrap", wire.UnwrapKeys(keys=items))
    assert unlimited == [InvalidFormatError.__name__, UnknownScopeError.__name__, None]


def vault_id(vault: KeyVault, name: str) -> bytes:
    (info,) = values_of(vault.describe([name]))
    return info.id


def test_limits_cost_one_read_and_none_without_them(opened: Home, vault: KeyVault, reads: Reads) -> None:
    keys = wrapped_under(vault, [ADA], [BOB], [MONTH])
    body = wire.UnwrapKeys(keys=[wire.UnwrapItem(wrapped=key) for key in keys])
    counts = []
    for limits in ({}, {"kinds": ["consumer", "communications"]}):
        asked, before = Asked(opened, vault, **limits), reads.count
        asked("/v1/keys/unwrap", body)
        asked("/v1/keys/unwrap", body)
        before, reads.count = reads.count, reads.count
        asked("/v1/keys/unwrap", body)
        counts.append(reads.count - before)
    assert counts[1] == counts[0] + 1


# --- the service itself ---------------------------------------------------------------------------------------------------


@in_ring_custody
def test_a_limited_token_over_the_wire(home: TestHome, tmp_path: Path) -> None:
    everything = issue_token(home.path)
    limited = issue_token(home.path, accounts=("acct-1",), purposes=("support",))
    with (
        served(home.path, log=tmp_path / "log") as service,
        connect(service.url, token=everything) as full,
        connect(service.url, token=limited) as vault,
    ):
        values_of(full.ensure_scopes([ADA, BOB]))
        results = vault.ensure_scopes([ADA, BOB])
        assert [type(result) is NotPermittedError for result in results] == [False, True]
        sealed, other = full.seal(b"hello", [ADA]), full.seal(b"hello", [BOB])
        assert vault.open(sealed, purpose="support") == b"hello"
        for data, purpose in ((other, "support"), (sealed, None), (sealed, "billing")):
            with pytest.raises(NotPermittedError):
                vault.open(data, purpose=purpose)
        assert full.open(other) == b"hello"
        keys = full.generate_data_keys([KeyRequest(scopes=(ADA,)), KeyRequest(scopes=(BOB,))])
        wrapped = [key.wrapped for key in values_of(keys)]
        opened = vault.unwrap_data_keys([UnwrapRequest(wrapped=key, purpose="support") for key in wrapped])
        assert [type(result) is NotPermittedError for result in opened] == [False, True]
        (moved,) = vault.rewrap_data_keys([RewrapRequest(scopes=(ADA,), wrapped=wrapped[1], purpose="support")])
        assert isinstance(moved, NotPermittedError)


class Connection:
    """One connection that stays open, and so one worker."""

    def __init__(self, url: str) -> None:
        self._client = httpx2.Client(base_url=url, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, token: str) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        return self._client.post("/v1/scopes/describe", headers=headers, content=b'{"names":["user/nobody"]}')

    def ask(self, token: str) -> int:
        """Return the status of a call; one that a slow database kept out is made again, as clients do."""
        until = time.monotonic() + DEADLINE
        while (status := self.call(token).status_code) == 503 and time.monotonic() < until:
            time.sleep(0.1)
        return status

    def worker(self, port: int, processes: Sequence[int]) -> int | None:
        """Return the process at the other end."""
        pool: Any = self._client._transport._pool  # type: ignore[attr-defined]
        stream = pool.connections[0]._connection._network_stream
        client: socket.socket = stream.get_extra_info("socket")
        inode = server_side(client.getsockname()[1], port)
        return None if inode is None else holder_of(inode, processes)


def test_a_revoked_token_stops_on_all_workers(tmp_path: Path) -> None:
    """Each worker believes a reading for half a second from before it was begun, so that a second is enough for all."""
    home = embedded_home(tmp_path)
    token = issue_token(home.path)
    with served(home.path, "--workers", "2", log=tmp_path / "log") as service, ExitStack() as stack:
        port, deadline = int(service.url.rpartition(":")[2]), time.monotonic() + DEADLINE
        by_worker: dict[int, Connection] = {}
        while len(by_worker) < 2:
            assert time.monotonic() < deadline, service.log.read_text()
            connection = stack.enter_context(Connection(service.url))
            assert connection.ask(token) == 200
            worker = connection.worker(port, descendants(service.process.pid))
            assert worker is not None
            by_worker.setdefault(worker, connection)
        assert [connection.ask(token) for connection in by_worker.values()] == [200, 200]
        revoke_token(home.path, token)
        deadline = time.monotonic() + DEADLINE
        for connection in by_worker.values():
            while (status := connection.ask(token)) == 200:
                assert time.monotonic() < deadline, "a revoked token is still let in"
            assert status == 401
        for _ in range(20):
            assert [connection.ask(token) for connection in by_worker.values()] == [401, 401]


def test_the_service_says_how_long_to_wait(tmp_path: Path) -> None:
    home = embedded_home(tmp_path)
    with home.opened("issuer") as opened:
        until = opened.clock.now() + timedelta(hours=1)
        made, _ = TokenDesk(opened).issue("slow", Role.ISSUER, TESTER, expires_at=until, rate=1)
    with served(home.path, log=tmp_path / "log") as service, Connection(service.url) as connection:
        assert connection.ask(made.text) == 200
        answers = (connection.call(made.text) for _ in range(200))
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "RateLimitedError"
