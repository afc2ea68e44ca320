"""The store's queries, the same cases on SQLite and on PostgreSQL."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from keyvault.errors import ConfigurationError, StoreError, StoreVersionError, Unavailable
from keyvault.events import EventType, make_event
from keyvault.scopes import ScopeKind
from keyvault.states import KeyState
from keyvault.store import destructions, groups, intents, issuable, outbox, rings, system, tables
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.destructions import Destruction
from keyvault.store.dialects import CHUNK
from keyvault.store.migrate import migrate
from keyvault.store.scopes import ScopeRow
from keyvault.store.system import SystemRow
from keyvault.store.tables import SHAPED_BY_DIALECT, metadata

NOW = datetime(2026, 11, 23, 12, 30, 15, 123456, tzinfo=UTC)
LIVE = (KeyState.ACTIVE, KeyState.SUSPENDED)


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty(request: pytest.FixtureRequest, dialect: str, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'store.db'}" if dialect == "sqlite" else request.getfixturevalue("postgres_url")
    with closing(Database(url, create=True)) as database:
        yield database


@pytest.fixture
def store(request: pytest.FixtureRequest, dialect: str) -> Iterator[Database]:
    if dialect == "sqlite":
        empty: Database = request.getfixturevalue("empty")
        migrate(empty)
        yield empty
        return
    with closing(Database(request.getfixturevalue("store_url"))) as database:
        yield database


def row(**changes: Any) -> ScopeRow:
    values: dict[str, Any] = {
        "id": secrets.token_bytes(16),
        "generation": 1,
        "custody": 1,
        "key_ref": f"k-{secrets.token_hex(16)}",
        "kind": ScopeKind.CONSUMER,
        "lookup": secrets.token_bytes(32),
        "commitment": secrets.token_bytes(32),
        "sealed_name": "sealed",
        "state": KeyState.ACTIVE,
        "created_at": NOW,
    }
    return ScopeRow(**{**values, **changes})


def insert(store: Database, *rows: ScopeRow) -> set[bytes]:
    return store.write(lambda connection: scope_store.insert_new(connection, rows))


def destruction() -> Destruction:
    return Destruction(
        id=secrets.token_bytes(16),
        reason="test",
        ticket=bytes(32),
        requested_by=bytes(32),
        fence_event=secrets.token_hex(18),
        created_at=NOW,
    )


def test_the_migrations_make_exactly_the_tables_that_the_code_knows(store: Database) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        def same_everywhere(_: object, name: str | None, *__: object) -> bool:
            return name not in SHAPED_BY_DIALECT

        opts = {"compare_type": False, "include_object": same_everywhere}
        context = MigrationContext.configure(connection, opts=opts)
        return list(compare_metadata(context, metadata))

    assert store.read(differences) == []
    store.check_version()
    migrate(store)
    store.check_version()


def test_a_database_without_tables_and_one_from_a_newer_program_are_told_apart(empty: Database) -> None:
    with pytest.raises(StoreVersionError, match="holds no keyvault tables"):
        empty.check_version()
    migrate(empty)
    empty.write(lambda connection: connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(StoreVersionError, match="at migration 9999"):
        empty.check_version()
    with pytest.raises(StoreVersionError):
        migrate(empty)


def test_a_row_comes_back_as_it_went_in(store: Database) -> None:
    cause = destruction()
    store.write(lambda connection: destructions.insert(connection, cause))
    full = row(
        period="2026-10",
        due_at=NOW + timedelta(days=1),
        account=secrets.token_bytes(32),
        salt=secrets.token_bytes(32),
        destroyed_at=NOW.astimezone(timezone(timedelta(hours=5))),
        horizon=NOW,
        destroy_id=cause.id,
        state=KeyState.DESTROYED,
    )
    assert insert(store, full) == {full.id}
    assert store.read(lambda connection: scope_store.by_id(connection, [full.id])) == {full.id: full}
    assert store.read(lambda connection: destructions.by_id(connection, [cause.id])) == {cause.id: cause}


def test_a_naive_time_is_refused(store: Database) -> None:
    with pytest.raises(sa.exc.StatementError, match="naive"):
        insert(store, row(created_at=NOW.replace(tzinfo=None)))


def test_one_live_generation_a_name_and_each_number_once(store: Database) -> None:
    first = row()
    assert insert(store, first) == {first.id}
    assert insert(store, row(lookup=first.lookup)) == set()
    assert insert(store, row(lookup=first.lookup, generation=2)) == set(), "the first one still lives"
    store.write(lambda c: scope_store.change_state(c, [first.id], before=LIVE, after=KeyState.DESTROYED))
    assert insert(store, row(lookup=first.lookup)) == set(), "its number is taken for good"
    second = row(lookup=first.lookup, generation=2)
    assert insert(store, second) == {second.id}
    assert first.lookup is not None
    newest = store.read(lambda connection: scope_store.newest_by_lookup(connection, [first.lookup or b""]))
    assert newest[first.lookup].id == second.id


def test_only_rows_in_an_expected_state_change(store: Database) -> None:
    active, suspended = row(), row(state=KeyState.SUSPENDED)
    destroyed = row(state=KeyState.DESTROYED)
    insert(store, active, suspended, destroyed)
    ids = [active.id, suspended.id, destroyed.id, bytes(16)]
    changed = store.write(lambda c: scope_store.change_state(c, ids, before=LIVE, after=KeyState.DEACTIVATED))
    assert changed == {active.id, suspended.id}
    counts = store.read(scope_store.count_by_state)
    assert counts == {KeyState.ACTIVE: 0, KeyState.SUSPENDED: 0, KeyState.DEACTIVATED: 2, KeyState.DESTROYED: 1}


def test_a_fence_takes_what_is_live_and_tells_where_its_keys_sit(store: Database) -> None:
    ring_id, cause, late = secrets.token_bytes(16), destruction(), destruction()
    active, suspended = row(custody=2, ring_id=ring_id, slot=7), row(state=KeyState.SUSPENDED)
    destroyed = row(state=KeyState.DESTROYED)
    store.write(lambda c: rings.announce(c, ring_id, incarnation=1, capacity=256, month=None))
    for new in (cause, late):
        store.write(partial(destructions.insert, row=new))
    insert(store, active, suspended, destroyed)
    ids = [active.id, suspended.id, destroyed.id, bytes(16)]
    places = store.write(lambda c: scope_store.fence(c, ids, cause.id))
    assert places == {active.id: (2, ring_id, 7), suspended.id: (1, None, None)}
    assert store.write(lambda c: scope_store.fence(c, ids, late.id)) == {}
    rows = store.read(lambda c: scope_store.by_id(c, ids))
    assert {rows[scope].destroy_id for scope in places} == {cause.id}


def test_only_scopes_that_these_destructions_fenced_are_acknowledged(store: Database) -> None:
    causes = [destruction(), destruction(), destruction()]
    fenced = [row(), row(kind=ScopeKind.BUSINESS, period="2026", salt=bytes(32)), row()]
    live = row()
    insert(store, *fenced, live)
    for cause, scope in zip(causes, fenced, strict=True):
        store.write(partial(destructions.insert, row=cause))
        store.write(partial(scope_store.fence, ids=[scope.id], destroy_id=cause.id))

    def work(connection: sa.Connection) -> set[bytes]:
        return scope_store.acknowledge(
            connection,
            [scope.id for scope in [*fenced, live]],
            destroy_ids=[cause.id for cause in causes[:2]],
            people=[ScopeKind.CONSUMER],
            at=NOW,
            horizon=NOW,
        )

    assert store.write(work) == {scope.id for scope in fenced[:2]}
    assert store.write(work) == set(), "each is acknowledged once"
    rows = store.read(lambda c: scope_store.by_id(c, [scope.id for scope in [*fenced, live]]))
    assert [rows[scope.id].state for scope in [*fenced, live]] == [
        KeyState.DESTROYED,
        KeyState.DESTROYED,
        KeyState.DEACTIVATED,
        KeyState.ACTIVE,
    ]
    assert [rows[scope.id].sealed_name is None for scope in fenced] == [True, True, False]
    assert rows[fenced[1].id].salt == bytes(32), "the salt of what names no person stays"


def grouped(store: Database, *members: ScopeRow) -> Destruction:
    """Fence scopes as one group."""
    cause = replace(destruction(), scopes=len(members))
    insert(store, *members)
    store.write(partial(destructions.insert, row=cause))
    fenced = store.write(partial(scope_store.fence, ids=[row.id for row in members], destroy_id=cause.id, grouped=True))
    assert len(fenced) == len(members)
    return cause


def acknowledge_group(store: Database, cause: Destruction, proven: int) -> set[bytes]:
    return store.write(partial(groups.acknowledge, proven={cause.id: proven}, at=NOW, horizon=NOW + timedelta(days=90)))


def states(store: Database, *members: ScopeRow) -> list[KeyState]:
    """Return the states of scopes, after a look whether all that can be asked agrees on them."""
    ids = [row.id for row in members]
    rows = store.read(partial(scope_store.by_id, ids=ids))
    found = [rows[scope].state for scope in ids]
    issuable_rows = store.read(partial(issuable.by_id, ids=ids))
    assert [issuable_rows[scope].state for scope in ids] == found
    lookups = [row.lookup or b"" for row in members]
    by_name = store.read(partial(scope_store.newest_by_lookup, lookups=lookups))
    assert [by_name[lookup].state for lookup in lookups] == found
    issuable_by_name = store.read(partial(issuable.newest_by_lookup, lookups=lookups))
    assert [issuable_by_name[lookup].state for lookup in lookups] == found
    counted = store.read(scope_store.count_by_state)
    assert {state: count for state, count in counted.items() if count} == Counter(found)
    for state in KeyState:
        page = store.read(partial(scope_store.page, after=b"", limit=9, state=state))
        assert {row.id for row in page} == {scope for scope in ids if rows[scope].state is state}
    pending = store.read(scope_store.awaiting_destruction)
    assert set(pending) == {scope for scope in ids if rows[scope].state is KeyState.DEACTIVATED}
    assert store.read(partial(scope_store.awaiting_destruction, limit=1)) == pending[:1]
    return found


def test_a_group_is_destroyed_by_one_row_and_everybody_sees_it(store: Database) -> None:
    members = [row(), row(kind=ScopeKind.BUSINESS, period="2026", salt=bytes(32))]
    cause = grouped(store, *members)
    assert states(store, *members) == [KeyState.DEACTIVATED] * 2
    assert acknowledge_group(store, cause, 2) == {cause.id}
    assert states(store, *members) == [KeyState.DESTROYED] * 2
    rows = store.read(partial(scope_store.by_id, ids=[row.id for row in members]))
    for scope in rows.values():
        assert (scope.destroyed_at, scope.horizon, scope.sealed_name) == (NOW, NOW + timedelta(days=90), None)
    assert acknowledge_group(store, cause, 2) == set(), "each is acknowledged once"


def test_a_group_of_which_less_is_proven_stays_pending(store: Database) -> None:
    members = [row(), row()]
    cause = grouped(store, *members)
    for proven in (1, 3):
        assert acknowledge_group(store, cause, proven) == set()
    assert states(store, *members) == [KeyState.DEACTIVATED] * 2


def test_a_parted_group_is_acknowledged_scope_by_scope_and_never_again_as_a_whole(store: Database) -> None:
    members = [row(), row()]
    cause = grouped(store, *members)
    one_by_one = partial(
        scope_store.acknowledge, destroy_ids=[cause.id], people=[ScopeKind.CONSUMER], at=NOW, horizon=NOW
    )
    assert store.write(partial(one_by_one, ids=[members[0].id])) == set(), "it is in a group"
    store.write(partial(groups.part, destroy_ids=[cause.id]))
    assert states(store, *members) == [KeyState.DEACTIVATED] * 2
    assert store.write(partial(one_by_one, ids=[members[0].id])) == {members[0].id}
    assert acknowledge_group(store, cause, 2) == set()
    assert states(store, *members) == [KeyState.DESTROYED, KeyState.DEACTIVATED]


def test_a_group_that_is_destroyed_is_not_parted(store: Database) -> None:
    members = [row(), row()]
    cause = grouped(store, *members)
    acknowledge_group(store, cause, 2)
    store.write(partial(groups.part, destroy_ids=[cause.id]))
    assert states(store, *members) == [KeyState.DESTROYED] * 2


def test_at_its_horizon_a_group_becomes_rows_that_hold_no_name(store: Database) -> None:
    members = [row(), row(kind=ScopeKind.BUSINESS, period="2026", salt=bytes(32))]
    cause, pending = grouped(store, *members), row()
    acknowledge_group(store, cause, 2)
    grouped(store, pending)
    before = store.read(partial(scope_store.by_id, ids=[row.id for row in members]))

    def settle(now: datetime) -> int:
        return store.write(partial(groups.settle, people=[ScopeKind.CONSUMER], now=now, limit=5))

    assert settle(NOW + timedelta(days=89)) == 0
    assert settle(NOW + timedelta(days=90)) == 1
    assert settle(NOW + timedelta(days=90)) == 0, "once"
    assert states(store, *members, pending) == [KeyState.DESTROYED, KeyState.DESTROYED, KeyState.DEACTIVATED]
    assert store.read(partial(scope_store.by_id, ids=[row.id for row in members])) == before
    query = sa.select(tables.scopes.c.sealed_name, tables.scopes.c.salt).where(
        tables.scopes.c.id.in_([row.id for row in members])
    )
    kept = store.read(lambda connection: set(map(tuple, connection.execute(query))))
    assert kept == {(None, None), (None, bytes(32))}


def test_a_name_whose_scope_is_fenced_gets_no_second_one(store: Database) -> None:
    fenced = row()
    cause = grouped(store, fenced)
    again = row(lookup=fenced.lookup, generation=1)
    assert insert(store, again) == set()
    acknowledge_group(store, cause, 1)
    assert insert(store, again) == set(), "its generation was used"
    renewed = row(lookup=fenced.lookup, generation=2)
    assert insert(store, renewed) == {renewed.id}
    newest = store.read(partial(scope_store.newest_by_lookup, lookups=[fenced.lookup or b""]))
    assert newest[fenced.lookup or b""].id == renewed.id


def test_a_fence_is_stamped_once(store: Database) -> None:
    cause = destruction()
    scope = row(state=KeyState.DEACTIVATED, destroy_id=cause.id)
    store.write(lambda connection: destructions.insert(connection, cause))
    insert(store, scope)
    for moment in (NOW, NOW + timedelta(hours=1)):
        stamped = store.write(
            lambda c, at=moment: destructions.stamp_fence(c, [cause.id], fenced_at=at, lease_bound=at)  # type: ignore[misc]
        )
        assert stamped == {cause.id: replace(cause, fenced_at=NOW, lease_bound=NOW)}, "also to who came second"
    assert store.read(lambda c: scope_store.by_id(c, [scope.id]))[scope.id].fenced_at == NOW
    assert store.read(lambda c: scope_store.awaiting_destruction(c, limit=5)) == [scope.id]


def test_a_fence_stamped_by_the_databases_clock_has_one_time(store: Database) -> None:
    cause = destruction()
    store.write(lambda connection: destructions.insert(connection, cause))
    clock, lease = store.transaction_clock(), timedelta(seconds=65)
    stamped = store.write(
        lambda c: destructions.stamp_fence(c, [cause.id], fenced_at=clock, lease_bound=clock + lease)
    )[cause.id]
    assert stamped.fenced_at is not None
    assert stamped.lease_bound == stamped.fenced_at + lease
    assert abs(stamped.fenced_at - datetime.now(UTC)) < timedelta(minutes=5)


def test_more_rows_than_one_statement_takes(store: Database) -> None:
    rows = [row() for _ in range(CHUNK * 2 + 1)]
    assert insert(store, *rows) == {item.id for item in rows}
    found = store.read(lambda connection: scope_store.by_id(connection, [item.id for item in rows]))
    assert len(found) == len(rows)
    seen, after = 0, b""
    while page := store.read(lambda c, a=after: scope_store.page(c, after=a, limit=400)):  # type: ignore[misc]
        seen, after = seen + len(page), page[-1].id
    assert seen == len(rows)


def test_an_open_intent_is_taken_once_and_an_abandoned_one_never(store: Database) -> None:
    store.write(lambda connection: intents.announce(connection, ["k-1", "k-2", "k-3"], at=NOW))
    assert store.write(lambda connection: intents.take(connection, ["k-1", "k-9"])) == {"k-1"}
    assert store.write(lambda connection: intents.take(connection, ["k-1"])) == set()
    store.write(lambda connection: intents.abandon(connection, ["k-2"]))
    assert store.write(lambda connection: intents.take(connection, ["k-2"])) == set()
    store.write(lambda connection: intents.abandon_older_than(connection, NOW))
    assert store.read(lambda connection: intents.abandoned(connection, limit=9)) == ["k-2"]
    store.write(lambda connection: intents.abandon_older_than(connection, NOW + timedelta(seconds=1)))
    assert store.read(lambda connection: intents.abandoned(connection, limit=9)) == ["k-2", "k-3"]
    store.write(lambda connection: intents.forget(connection, ["k-2", "k-3"]))
    assert store.read(intents.count) == 0


def test_events_keep_their_bytes_and_order(store: Database) -> None:
    events = [make_event(EventType.SCOPE_CREATED, {"n": number}, at=NOW) for number in range(3)]
    store.write(lambda connection: outbox.append(connection, events))
    stored = store.read(outbox.bodies)
    assert [body for _, body in stored] == [event.body for event in events]
    assert store.read(lambda connection: outbox.bodies(connection, after=stored[0][0])) == stored[1:]
    with pytest.raises(StoreError):
        store.write(lambda connection: outbox.append(connection, events[:1]))


def test_a_failed_transaction_leaves_nothing(store: Database) -> None:
    def fail(connection: sa.Connection) -> None:
        intents.announce(connection, ["k-1"], at=NOW)
        raise Unavailable("half-way")

    with pytest.raises(Unavailable, match="half-way"):
        store.write(fail)
    assert store.read(intents.count) == 0


def test_the_system_row_is_written_once(store: Database) -> None:
    made = SystemRow(home_id="h", incarnation=1, check_values={"index": "00"}, log_origin="o")
    assert store.read(system.load) is None
    store.write(lambda connection: system.create(connection, made))
    assert store.read(system.load) == made
    with pytest.raises(StoreError, match="another"):
        store.write(lambda connection: system.create(connection, made))
    assert [store.write(lambda c: system.set_paused(c, paused=True)) for _ in range(2)] == [True, False]
    assert store.read(system.is_paused) is True
    for _ in range(2):
        store.write(lambda connection: system.beat(connection, "node", NOW))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "does not parse"),
        ("mysql://host/name", "no store for mysql"),
        ("sqlite://", "needs a file"),
        ("sqlite:////nowhere/at/all.db", "cannot be made"),
    ],
)
def test_urls_that_name_no_store(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Database(url, create=True)


def test_a_server_that_is_not_there() -> None:
    database = Database("postgresql://user:secret@127.0.0.1:1/name")
    with pytest.raises(Unavailable, match="cannot be reached") as raised:
        database.check_version()
    assert "secret" not in str(raised.value)
    database.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database" * 1000)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="not a database"):
        database.check_version()
    database.close()


def test_creators_that_take_slots_of_one_ring_at_once_never_stand_in_each_others_way(store: Database) -> None:
    """A creator notes its chunk and holds the ring open; that must not need a lock that another creator shares."""
    creators = 6
    ring_id = secrets.token_bytes(16)
    store.write(lambda c: rings.announce(c, ring_id, incarnation=1, capacity=4096, month=None))
    begin = Barrier(creators)
    attempts: list[int] = []

    def create(number: int) -> None:
        def work(connection: sa.Connection) -> None:
            attempts.append(number)
            assert rings.take_slots(connection, {ring_id: number}) == {ring_id}

        begin.wait(timeout=10)
        for _ in range(5):
            store.write(work)

    with ThreadPoolExecutor(creators) as pool:
        list(pool.map(create, range(1, creators + 1)))
    assert len(attempts) == creators * 5, "a transaction was ended by a deadlock, and run again"
    assert store.read(lambda c: rings.by_id(c, [ring_id]))[ring_id].chunks == creators


@pytest.mark.parametrize("newest_by_lookup", [scope_store.newest_by_lookup, issuable.newest_by_lookup])
def test_live_look_ups_are_joined_and_not_compared_each_with_each(newest_by_lookup: Any, postgres_url: str) -> None:
    """PostgreSQL compares again what a hash index found: with the whole array, which took minutes of large batches."""
    database = Database(postgres_url)
    migrate(database)
    asked: list[tuple[str, Any]] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))

    def plan(connection: sa.Connection) -> str:
        newest_by_lookup(connection, [secrets.token_bytes(32) for _ in range(500)])
        live, values = asked[0]
        return "\n".join(line for (line,) in connection.exec_driver_sql(f"EXPLAIN {live}", values))

    found = database.read(plan)
    database.close()
    assert "on unnest wanted" in found
    assert "lookup = ANY" not in found, "states may be compared with an array of two, look-ups not"
