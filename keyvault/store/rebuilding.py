"""Writing a whole database from what the log says: rows as they are given, in the order that foreign keys ask for.

Nobody else writes: a database without its row in `system` is served by nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.events import SCHEMA_VERSION
from keyvault.scopes import ScopeKind
from keyvault.states import KeyState
from keyvault.store import scopes as scope_store
from keyvault.store.destructions import Destruction
from keyvault.store.dialects import chunks, conditions, insert_rows, pair_conditions
from keyvault.store.fenced_records import RecordKey, RecordRow
from keyvault.store.intents import ABANDONED
from keyvault.store.log import hold_creations
from keyvault.store.requests import ItemKey, RequestRow
from keyvault.store.rings import RingRow
from keyvault.store.scopes import ScopeRow
from keyvault.store.tables import (
    destructions,
    fenced_records,
    intents,
    metadata,
    outbox,
    request_items,
    requests,
    rings,
    scopes,
    subjects,
    system,
    tokens,
)
from keyvault.store.tokens import TokenRow
from keyvault.subjects import AccountStatus, SubjectKind
from keyvault.wrapped import CustodyCode

_INDEX = "rebuild_commitments"
PAGE = 5_000
"""Scopes whose names are opened together."""


def table_in_use(connection: Connection) -> str | None:
    """Return the name of a table that has rows, or None."""
    for table in metadata.sorted_tables:
        if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
            return table.name
    return None


def begin(connection: Connection) -> None:
    """Make an index that only a rebuild needs: destructions name scopes by commitment."""
    connection.execute(sa.text(f"CREATE INDEX {_INDEX} ON scopes (commitment)"))


# --- entries ----------------------------------------------------------------------------------------------------------


def write_entries(connection: Connection, first: int, events: Sequence[tuple[str, str, bytes]]) -> None:
    """Write events (id, type, exact bytes) with their indices in the log, from `first` on."""
    columns: dict[str, Sequence[object]] = {
        "event_id": [event_id for event_id, _, _ in events],
        "schema_version": [SCHEMA_VERSION] * len(events),
        "type": [kind for _, kind, _ in events],
        "body": [body for _, _, body in events],
        "leaf_index": list(range(first, first + len(events))),
    }
    _insert_columns(connection, outbox, columns)


# --- scopes -----------------------------------------------------------------------------------------------------------


def ids_of_commitments(connection: Connection, commitments: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the ids of scopes by their commitments (32 bytes each)."""
    found: dict[bytes, bytes] = {}
    for condition in conditions(connection, scopes.c.commitment, commitments):
        found |= {row.commitment: row.id for row in connection.execute(_COMMITMENTS.where(condition))}
    return found


def write_scopes(connection: Connection, *, added: Sequence[ScopeRow], changed: Sequence[ScopeRow]) -> None:
    """Change rows, and only then add others: a new generation of a name may stand beside one that is destroyed."""
    names = scope_store.COLUMNS
    _update(connection, scopes, [{name: getattr(row, name) for name in names} for row in changed], ("id",))
    if added:
        columns = {name: [getattr(row, name) for row in added] for name in names}
        _insert_columns(connection, scopes, columns)


def without_lookup(connection: Connection, *, ring_id: bytes | None, after: bytes) -> list[ScopeRow]:
    """Return up to 5,000 scopes behind an id whose sealed name is there and whose look-up is not.

    Those whose name is sealed under a node of this ring; with None, those whose name is under a key of their own.
    """
    own = scopes.c.key_ref.is_not(None)
    place = own if ring_id is None else sa.and_(scopes.c.ring_id == ring_id, ~own)
    query = sa.select(scopes.c.id).where(
        scopes.c.lookup.is_(None), scopes.c.sealed_name.is_not(None), scopes.c.id > after, place
    )
    ids = list(connection.execute(query.order_by(scopes.c.id).limit(PAGE)).scalars())
    return [row for _, row in sorted(scope_store.by_id(connection, ids).items())]


def in_slots(connection: Connection, ring_id: bytes, slots: Iterable[int]) -> list[bytes]:
    """Return the ids of the scopes in these slots of a ring."""
    found: list[bytes] = []
    for condition in conditions(connection, scopes.c.slot, slots):
        found += connection.execute(sa.select(scopes.c.id).where(scopes.c.ring_id == ring_id, condition)).scalars()
    return sorted(found)


def live_keys(connection: Connection, *, after: bytes) -> list[tuple[bytes, str]]:
    """Return up to 5,000 live scopes in dedicated custody behind an id, with the names of their keys."""
    query = sa.select(scopes.c.id, scopes.c.key_ref).where(
        scopes.c.id > after,
        scopes.c.custody == int(CustodyCode.DEDICATED),
        scopes.c.state.in_([str(KeyState.ACTIVE), str(KeyState.SUSPENDED)]),
    )
    return [(row.id, row.key_ref) for row in connection.execute(query.order_by(scopes.c.id).limit(PAGE))]


def write_lookups(connection: Connection, lookups: Mapping[bytes, bytes]) -> None:
    """Write look-up HMACs (32 bytes) by scope id."""
    _update(connection, scopes, [{"id": scope, "lookup": lookup} for scope, lookup in lookups.items()], ("id",))


def unheld_keys(connection: Connection, names: Iterable[str]) -> set[str]:
    """Return which of these names of dedicated keys no scope's row holds."""
    wanted = set(names)
    return wanted - scope_store.key_refs(connection, wanted)


def abandon_keys(connection: Connection, names: Iterable[str], *, at: datetime) -> None:
    """Hand keys that no scope holds over for deletion."""
    ordered = sorted(names)
    columns: dict[str, Sequence[object]] = {
        "key_ref": ordered,
        "state": [ABANDONED] * len(ordered),
        "created_at": [at] * len(ordered),
    }
    _insert_columns(connection, intents, columns)


# --- what else ----------------------------------------------------------------------------------------------------------


def write_rings(connection: Connection, *, added: Sequence[RingRow], changed: Sequence[RingRow]) -> None:
    """Write rings."""
    _update(connection, rings, [asdict(row) for row in changed], ("id",))
    _insert(connection, rings, [asdict(row) for row in added])


def slots_in_use(connection: Connection) -> dict[bytes, int]:
    """Return the highest slot that a scope has, by ring."""
    query = sa.select(scopes.c.ring_id, sa.func.max(scopes.c.slot)).where(scopes.c.ring_id.is_not(None))
    return {row[0]: row[1] for row in connection.execute(query.group_by(scopes.c.ring_id))}


def month_of_ring(connection: Connection, ring_id: bytes) -> str | None:
    """Return the month of a ring's account-months; None where it holds other scopes, or none."""
    query = sa.select(scopes.c.period).where(
        scopes.c.ring_id == ring_id, scopes.c.kind == str(ScopeKind.COMMUNICATIONS)
    )
    month: str | None = connection.execute(query.limit(1)).scalar()
    return month


def write_destructions(connection: Connection, *, added: Sequence[Destruction], changed: Sequence[Destruction]) -> None:
    """Write destructions."""
    _update(connection, destructions, [asdict(row) for row in changed], ("id",))
    _insert(connection, destructions, [asdict(row) for row in added])


def write_marks(
    connection: Connection, *, removed: Sequence[RecordKey], added: Sequence[RecordRow], changed: Sequence[RecordRow]
) -> None:
    """Write and remove marks of single records."""
    for condition in pair_conditions(connection, fenced_records.c.scope_id, fenced_records.c.tag, removed):
        connection.execute(sa.delete(fenced_records).where(condition))
    _update(connection, fenced_records, [_mark(row) for row in changed], ("scope_id", "tag"))
    _insert(connection, fenced_records, [_mark(row) for row in added])


def write_requests(connection: Connection, *, added: Sequence[RequestRow], changed: Sequence[RequestRow]) -> None:
    """Write requests."""
    _update(connection, requests, [asdict(row) for row in changed], ("id",))
    _insert(connection, requests, [asdict(row) for row in added])


def write_items(connection: Connection, *, emptied: Iterable[bytes], lists: Mapping[bytes, Sequence[ItemKey]]) -> None:
    """Take away all that some requests name, and then add items to those and others."""
    for condition in conditions(connection, request_items.c.request_id, emptied):
        connection.execute(sa.delete(request_items).where(condition))
    items = [(request, scope, tag) for request, keys in lists.items() for scope, tag in keys]
    _insert(
        connection, request_items, [dict(zip(("request_id", "scope_id", "tag"), item, strict=True)) for item in items]
    )


def add_subjects(connection: Connection, kinds: Mapping[bytes, SubjectKind]) -> None:
    """Make rows of subjects that have none, to be judged once all facts are there."""
    ordered = sorted(kinds)
    if ordered:
        columns: dict[str, Sequence[object]] = {
            "id": ordered,
            "kind": [str(kinds[subject]) for subject in ordered],
            "status": [str(AccountStatus.ACTIVE)] * len(ordered),
            "settled": [False] * len(ordered),
        }
        insert_rows(connection, subjects, columns)


def requests_by_id(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, RequestRow]:
    """Return the requests of these ids."""
    found: dict[bytes, RequestRow] = {}
    for condition in conditions(connection, requests.c.id, ids):
        for row in connection.execute(sa.select(requests).where(condition)):
            found[row.id] = RequestRow(**row._mapping)  # noqa: SLF001 - the documented way to a row's mapping
    return found


def write_tokens(connection: Connection, *, added: Sequence[TokenRow], changed: Sequence[TokenRow]) -> None:
    """Write tokens."""
    _update(connection, tokens, [asdict(row) for row in changed], ("id",))
    _insert(connection, tokens, [asdict(row) for row in added])


# --- the end ------------------------------------------------------------------------------------------------------------


def hold_uncovered(connection: Connection, created_at: Collection[datetime]) -> None:
    """Let no key be issued of scopes created at these instants until a checkpoint covers all events that are here."""
    if created_at:
        hold_creations(connection, created_at, connection.execute(sa.select(sa.func.max(outbox.c.id))).scalar_one())


def end(connection: Connection, *, checkpoint: str | None, size: int) -> None:
    """Drop the index, and remember the newest signed checkpoint. The caller has written the row of `system` in this transaction."""
    connection.execute(sa.text(f"DROP INDEX {_INDEX}"))
    connection.execute(sa.update(system).values(checkpoint=checkpoint, log_size=size))


def count_live(connection: Connection) -> int:
    """Return how many scopes are neither fenced nor destroyed."""
    counted = scope_store.count_by_state(connection)
    return counted[KeyState.ACTIVE] + counted[KeyState.SUSPENDED]


_COMMITMENTS = sa.select(scopes.c.commitment, scopes.c.id)


def _mark(row: RecordRow) -> dict[str, object]:
    return {name: value for name, value in asdict(row).items() if name != "fenced_at"}


def _insert(connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        _insert_columns(connection, table, {name: [row[name] for row in rows] for name in rows[0]})


def _insert_columns(connection: Connection, table: sa.Table, columns: Mapping[str, Sequence[object]]) -> None:
    """Insert rows that are given column by column; SQLite runs one statement for each, which needs no text of its own for each batch."""
    if connection.dialect.name == "postgresql":
        insert_rows(connection, table, columns, conflicts=False)
        return
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if rows:
        connection.execute(sa.insert(table), rows)


def _update(connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, object]], keys: Sequence[str]) -> None:
    """Set the columns of rows, found by `keys`; the driver runs one statement many times."""
    if not rows:
        return
    columns = [name for name in rows[0] if name not in keys]
    statement = (
        sa.update(table)
        .where(*(table.c[name] == sa.bindparam(f"key_{name}") for name in keys))
        .values({name: sa.bindparam(name) for name in columns})
    )
    for some in chunks(rows, PAGE):
        connection.execute(
            statement,
            [{(f"key_{name}" if name in keys else name): value for name, value in row.items()} for row in some],
        )
