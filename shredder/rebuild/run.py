"""The rebuild from beginning to end: verify, apply, complete, and only then the row of `system`, without which nothing is served.

Interrupted anywhere it leaves a database that no command opens and that no rebuild takes: begin again with an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from sqlalchemy.engine import Connection

from keyvault.custody.base import Custody
from keyvault.custody.dedicated import DedicatedCustody
from keyvault.custody.ring import RingCustody
from keyvault.errors import StoreError
from keyvault.events import POLICY_VERSION
from keyvault.home import LOG_DIR, make_clock, open_engine
from keyvault.initialize import FIRST_INCARNATION, LOG_ORIGIN_PREFIX
from keyvault.log_head import read_head
from keyvault.settings import Settings, load_settings
from keyvault.store import rebuilding, system
from keyvault.store.database import Database
from keyvault.store.migrate import migrate
from keyvault.store.system import SystemRow
from keyvault.system_keys import load_system_keys
from keyvault.transit.base import TransitEngine
from shredder.log.directory import LogDirectory
from shredder.log.note import ED25519, VerifierKey
from shredder.policy import Policy
from shredder.policy_file import load_policy
from shredder.rebuild.batch import apply_batch, batches
from shredder.rebuild.facts import policy_of, policy_row
from shredder.rebuild.gaps import GapCode, Gaps
from shredder.rebuild.keys import EngineReader
from shredder.rebuild.lost import fence_lost
from shredder.rebuild.verified import VerifiedLog, verify_log
from shredder.reporting import judge_all

ROLE = "shredder"
"""Reads states and opens names; the rebuild changes nothing in the engine."""

Advance = Callable[[int], None]
Progress = Callable[[str, int | None], Advance]
"""Told what begins now, and of how many; gives what is told of each portion."""


@dataclass(kw_only=True, slots=True)
class Rebuilt:
    """What a rebuild made. `live`: scopes that are neither fenced nor destroyed; `unheld`: keys that the shredder deletes now."""

    entries: int
    live: int
    unheld: int
    gaps: Gaps = field(default_factory=Gaps)


def rebuild(directory: Path, progress: Progress = lambda _title, _total: lambda _done: None) -> Rebuilt:
    """Make the database of the home in `directory` anew from its log and its engine; destructions are paused in it.

    Raises `StoreError` for a database that is not empty, what `verify_log` raises, `LogError` for an entry that cannot be taken up, and
    what opening the home raises.
    """
    settings = load_settings(directory)
    with closing(open_engine(directory, settings, role=ROLE)) as engine, closing(_empty(settings)) as database:
        return _Rebuild(directory, settings, database, engine, progress).run()


def _empty(settings: Settings) -> Database:
    """Open the home's database, with tables that are made now or empty."""
    database = Database(settings.store, create=True)
    try:
        migrate(database)
        _require_empty(database)
    except BaseException:
        database.close()
        raise
    return database


def _require_empty(database: Database) -> None:
    used = database.read(rebuilding.table_in_use)
    if used is not None:
        raise StoreError(
            f"the table {used} of the home's database has rows, and nothing was rebuilt: a rebuild needs an empty database, also after one "
            "that was interrupted; make a new one, and name it as `store` in keyvault.toml"
        )


class _Rebuild:
    def __init__(
        self, directory: Path, settings: Settings, database: Database, engine: TransitEngine, progress: Progress
    ) -> None:
        self._settings = settings
        self._database = database
        self._engine = engine
        self._progress = progress
        self._keys = load_system_keys(engine)
        self._incarnation = FIRST_INCARNATION
        self._clock = make_clock(settings)
        self._log = LogDirectory(Path(settings.log_dir) if settings.log_dir else directory.resolve() / LOG_DIR)
        self._origin = LOG_ORIGIN_PREFIX + settings.id
        self._gaps = Gaps()
        self._policy: Policy | None = None
        self._uncovered: set[datetime] = set()

    def run(self) -> Rebuilt:
        key = VerifierKey(name=self._origin, type=ED25519, public=self._keys.log_public)
        head = read_head(self._engine, self._incarnation)
        log = verify_log(self._log, head, key, self._progress("verifying", head.size))
        self._database.write(rebuilding.begin)
        self._apply(log)
        unheld = self._complete()
        self._database.write(partial(self._finish, log=log))
        self._database.forget_deleted()
        live = self._database.read(rebuilding.count_live)
        return Rebuilt(entries=log.size, live=live, unheld=unheld, gaps=self._gaps)

    def _apply(self, log: VerifiedLog) -> None:
        advance = self._progress("rebuilding", log.size)
        for entries in batches(self._log.entries(0, log.size)):
            done = self._database.write(
                partial(apply_batch, entries=entries, keys=self._keys, incarnation=self._incarnation)
            )
            self._gaps.take(done.gaps)
            for entry in done.policies:
                self._policy = policy_of(entry, load_policy(None))
            self._uncovered.update(at for index, at in done.created if index >= log.signed)
            advance(len(entries))

    def _complete(self) -> int:
        now = self._clock.now()
        custodies = _custodies(self._database, self._engine, self._settings, self._incarnation)
        reader = EngineReader(self._database, self._engine, self._keys, custodies, incarnation=self._incarnation)
        try:
            self._fence_lost([*reader.complete_rings(self._gaps, now), *reader.lost_keys()], now)
            reader.complete_lookups(self._gaps, self._progress("opening names", None))
        finally:
            for custody in custodies.values():
                custody.close()
        judge_all(self._database, self._policy or load_policy(None))
        return reader.abandon_unheld(now)

    def _fence_lost(self, ids: Sequence[bytes], now: datetime) -> None:
        version = POLICY_VERSION if self._policy is None else self._policy.version
        fence_lost(self._database, self._keys, ids, policy=version, now=now)
        for scope_id in ids:
            self._gaps.add(GapCode.FENCE, scope_id)

    def _finish(self, connection: Connection, log: VerifiedLog) -> None:
        rebuilding.hold_uncovered(connection, self._uncovered)
        row = SystemRow(
            home_id=self._settings.id,
            incarnation=self._incarnation,
            check_values=self._keys.check_values(),
            log_origin=self._origin,
            paused=True,  # no event tells of a pause, so there may have been one
        )
        system.create(connection, row)
        rebuilding.end(connection, checkpoint=log.note, size=log.signed)
        if self._policy is not None:
            system.set_policy(connection, policy_row(self._policy))


def _custodies(database: Database, engine: TransitEngine, settings: Settings, incarnation: int) -> dict[int, Custody]:
    clock = make_clock(settings)
    dedicated = DedicatedCustody(database, engine, clock)
    ring = RingCustody(
        database,
        engine,
        clock,
        incarnation=incarnation,
        capacity=settings.ring_capacity,
        lease_ttl=settings.lease_ttl,
    )
    return {dedicated.code: dedicated, ring.code: ring}
