"""One batch of entries in one transaction: read what they are about, apply them, write what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.engine import Connection

from keyvault.events import EventType
from keyvault.store import destructions, fenced_records, rebuilding
from keyvault.store import facts as fact_store
from keyvault.store import rings as ring_store
from keyvault.store import scopes as scope_store
from keyvault.store import tokens as token_store
from keyvault.system_keys import SystemKeys
from shredder.rebuild import facts, requests, rings, scopes, tokens
from shredder.rebuild.entries import Entry, read_entry
from shredder.rebuild.facts import FactTables
from shredder.rebuild.gaps import Gaps
from shredder.rebuild.requests import RequestTables
from shredder.rebuild.rings import RingTables
from shredder.rebuild.scopes import ScopeTables
from shredder.rebuild.tokens import TokenTables

BATCH_BYTES = 2_000_000
"""Of entries that are applied together; a destruction names a scope in 46 of them, so that some 45,000 rows are in memory."""


@dataclass(kw_only=True, slots=True)
class Applied:
    """What a batch leaves for the end. `policies`: the events `policy.changed`; `created`: when scopes were created, by index."""

    gaps: Gaps = field(default_factory=Gaps)
    policies: list[Entry] = field(default_factory=list)
    created: list[tuple[int, datetime]] = field(default_factory=list)


def batches(bodies: Iterable[bytes]) -> Iterator[list[Entry]]:
    """Read entries, from the first of the log on, and cut them into batches. Raises `LogError`."""
    batch: list[Entry] = []
    size = 0
    for index, body in enumerate(bodies):
        if batch and size + len(body) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(read_entry(index, body))
        size += len(body)
    if batch:
        yield batch


def apply_batch(connection: Connection, *, entries: Sequence[Entry], keys: SystemKeys, incarnation: int) -> Applied:
    """Write entries, and the rows that they make. Raises `LogError`."""
    done = Applied()
    rebuilding.write_entries(connection, entries[0].index, [(entry.id, entry.type, entry.body) for entry in entries])
    scope_tables = _scopes(connection, entries, keys, done.gaps)
    ring_tables = RingTables(ring_store.by_id(connection, rings.references(entries)), incarnation=incarnation)
    request_tables = RequestTables(keys, done.gaps, rebuilding.requests_by_id(connection, requests.references(entries)))
    token_tables = TokenTables(keys, token_store.by_ids(connection, tokens.references(entries)))
    fact_tables = FactTables(fact_store.of_subjects(connection, facts.references(entries)))
    for entry in entries:
        for tables in (ring_tables, scope_tables, request_tables, fact_tables, token_tables):
            tables.apply(entry)
        if entry.type == EventType.POLICY_CHANGED:
            done.policies.append(entry)
        if entry.type == EventType.SCOPE_CREATED:
            done.created.append((entry.index, entry.at))
    _write_rings(connection, ring_tables, scope_tables)
    _write_scopes(connection, scope_tables)
    _write_requests(connection, request_tables)
    _write_facts(connection, fact_tables.settle())
    rebuilding.write_tokens(connection, added=token_tables.tokens.added, changed=token_tables.tokens.changed)
    return done


def _scopes(connection: Connection, entries: Sequence[Entry], keys: SystemKeys, gaps: Gaps) -> ScopeTables:
    ids, commitments, destroy_ids = scopes.references(entries)
    by_commitment = rebuilding.ids_of_commitments(connection, commitments)
    rows = scope_store.by_id(connection, ids.union(by_commitment.values()))
    return ScopeTables(
        keys,
        gaps,
        # The instants are the destruction's, and stand in its own row.
        scopes={key: row._replace(fenced_at=None, lease_bound=None, ring_epoch=0) for key, row in rows.items()},
        marks=fenced_records.by_key(connection, scopes.record_keys(entries, by_commitment)),
        destructions=destructions.by_id(connection, sorted(destroy_ids)),
    )


def _write_rings(connection: Connection, tables: RingTables, scope_tables: ScopeTables) -> None:
    used = {
        row.ring_id for row in scope_tables.scopes.now.values() if row.ring_id is not None
    } - tables.rings.now.keys()
    for ring_id in used - ring_store.by_id(connection, used).keys():
        tables.expect(ring_id)
    rebuilding.write_rings(connection, added=tables.rings.added, changed=tables.rings.changed)


def _write_scopes(connection: Connection, tables: ScopeTables) -> None:
    rows, marks, causes = tables.scopes, tables.marks, tables.destructions
    rebuilding.write_destructions(connection, added=causes.added, changed=causes.changed)
    rebuilding.write_scopes(connection, added=rows.added, changed=rows.changed)
    rebuilding.write_marks(connection, removed=marks.removed, added=marks.added, changed=marks.changed)


def _write_requests(connection: Connection, tables: RequestTables) -> None:
    rows = tables.requests
    rebuilding.write_requests(connection, added=rows.added, changed=rows.changed)
    rebuilding.write_items(connection, emptied=tables.emptied, lists=tables.lists)


def _write_facts(connection: Connection, tables: FactTables) -> None:
    rebuilding.add_subjects(connection, tables.kinds)
    fact_store.remove(connection, tables.removed)
    fact_store.insert(connection, tables.added)
