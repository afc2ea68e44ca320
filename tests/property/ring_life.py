"""The life of ring scopes and their records as a state machine against a model, and against the root that each ring grew from."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keyvault import KeyState, KeyVault, OpenRequest, ScopeInfo, SealRequest
from keyvault.admission import tag_of
from keyvault.custody import ring_sealing as sealing
from keyvault.custody.ring_records import read_records
from keyvault.errors import KeyVaultError, ScopeDestroyedError, ScopeFencedError, UnknownScopeError
from keyvault.home import Home, assemble
from keyvault.puncture_records import EntryRef, encode_frontier
from keyvault.puncture_state import encode_state
from keyvault.store import fenced_records, rings
from keyvault.store import scopes as scope_store
from keyvault.store.rings import RingRow
from keyvault.store.scopes import ScopeRow
from keyvault.testing import FaultyDatabase, faulty_engine
from shredder.destroy import Destroyer
from shredder.unused_slots import destroy_unused_slots
from tests import puncture_oracle as oracle
from tests.homes import embedded_home
from tests.property.model import AFTER_A_FENCE, REFUSALS
from tests.ring_homes import CAUSE, OLD_MONTH, consumer, month, states_of, with_capacity

CAPACITY = 8
MONTHS = (month("a"), month("b"), month("a", OLD_MONTH), month("b", OLD_MONTH))
NAMES = (*MONTHS, consumer(0), consumer(1))
RECORDS = ("rec-0", "rec-1", "rec-2", "rec-3")

some_names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
a_month = st.sampled_from(MONTHS)
some_records = st.lists(st.sampled_from(RECORDS), min_size=1, max_size=2, unique=True)
steps = st.integers(1, 50)
Roots = dict[bytes, bytes]


def a_month_from_now() -> datetime:
    """Return when every ring that takes scopes now does so no more."""
    return datetime.now(UTC) + timedelta(days=31)


class Died(BaseException):
    """The process is gone."""


@dataclass(kw_only=True)
class Fault:
    """Ends the process at a step of engine calls and commits: from there on nothing that it tries comes to pass."""

    left: int

    def __call__(self, _step: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died


@dataclass(kw_only=True, eq=False)
class Scope:
    """What a scope and its records should be; a record without a mark is active."""

    id: bytes
    state: KeyState = KeyState.ACTIVE
    records: dict[str, KeyState] = field(default_factory=dict)

    def state_of(self, record: str | None) -> KeyState:
        """Return what decides on a key of the scope, or of a record of it."""
        if self.state is not KeyState.ACTIVE or record is None:
            return self.state
        return self.records.get(record, KeyState.ACTIVE)


class Item(NamedTuple):
    """Something sealed."""

    scope: Scope
    record: str | None
    content: bytes
    envelope: bytes


class RingLife(RuleBasedStateMachine):
    """A home of its own for each run, with rings of a few slots."""

    def __init__(self, roots: Roots) -> None:
        """`roots` is told the seed that each ring grows from, by the ring's id."""
        super().__init__()
        self.roots = roots
        self.folder = tempfile.TemporaryDirectory(prefix="keyvault-rings-")
        self.home = with_capacity(embedded_home(Path(self.folder.name), custody="ring"), CAPACITY)
        self.scopes: dict[str, Scope] = {}
        self.items: list[Item] = []
        self.opened = ExitStack()
        self.enter()

    def enter(self) -> None:
        """Open the home as its two users do."""
        self.issuing = self.opened.enter_context(self.home.opened("issuer"))
        self.shredding = self.opened.enter_context(self.home.opened("shredder"))
        self.vault, self.destroyer = KeyVault(self.issuing), Destroyer(self.shredding)

    def teardown(self) -> None:
        """Finish, and compare what is stored of every ring with what its root gives."""
        try:
            self.finish()
            self.check_rings()
        finally:
            self.opened.close()
            self.folder.cleanup()

    @initialize()
    def begin(self) -> None:
        """Have something to lose from the start."""
        self.ensure(list(NAMES[:5]))
        for name in MONTHS[:3]:
            for record in RECORDS[:3]:
                self.seal(name, record)
        self.seal(NAMES[4], None)

    # --- scopes, keys, data --------------------------------------------------------------------------------------

    @rule(names=some_names)
    def ensure(self, names: list[str]) -> None:
        """Create what is missing."""
        for name, result in zip(names, self.vault.ensure_scopes(names), strict=True):
            scope = self.scopes.get(name)
            if scope is None:
                assert isinstance(result, ScopeInfo)
                self.scopes[name] = Scope(id=result.id)
            elif scope.state in AFTER_A_FENCE:
                assert isinstance(result, ScopeFencedError | ScopeDestroyedError)
            else:
                assert isinstance(result, ScopeInfo)
                assert result.id == scope.id

    @rule(name=st.sampled_from(NAMES), record=st.sampled_from([None, *RECORDS]))
    def seal(self, name: str, record: str | None) -> None:
        """Seal something under a scope, or a record of it."""
        content, record = secrets.token_bytes(8), record if name in MONTHS else None
        (result,) = self.vault.seal_many([SealRequest(plaintext=content, scopes=(name,), record=record)])
        scope = self.scopes.get(name)
        if scope is None:
            assert isinstance(result, UnknownScopeError)
        elif (why := REFUSALS.get(scope.state_of(record))) is not None:
            assert type(result) is why
        else:
            assert isinstance(result, bytes)
            self.items.append(Item(scope, record, content, result))

    @rule(name=a_month, records=some_records, resume=st.booleans())
    def suspend_or_resume(self, name: str, records: list[str], *, resume: bool) -> None:
        """Suspend or resume records; what is fenced stays so."""
        scope = self.scopes.get(name)
        if scope is None or scope.state in AFTER_A_FENCE:
            return
        results = (self.vault.resume_records if resume else self.vault.suspend_records)(name, records)
        for record, result in zip(records, results, strict=True):
            if scope.records.get(record) in AFTER_A_FENCE:
                assert isinstance(result, ScopeFencedError | ScopeDestroyedError)
                continue
            assert result is (KeyState.ACTIVE if resume else KeyState.SUSPENDED)
            scope.records[record] = result

    # --- destruction ---------------------------------------------------------------------------------------------

    @rule(names=some_names)
    def shred(self, names: list[str]) -> None:
        """Destroy scopes."""
        known = [name for name in names if name in self.scopes]
        outcomes = self.destroyer.destroy(known, **CAUSE)
        assert [outcome.error for outcome in outcomes] == [None] * len(known)
        for name in known:
            self.scopes[name].state = KeyState.DESTROYED

    @rule(name=a_month, records=some_records)
    def shred_records(self, name: str, records: list[str]) -> None:
        """Destroy records of an account-month."""
        scope = self.scopes.get(name)
        if scope is None or scope.state in AFTER_A_FENCE:
            return
        outcomes = self.destroyer.destroy_records(name, records, **CAUSE)
        assert [outcome.error for outcome in outcomes] == [None] * len(records)
        scope.records |= dict.fromkeys(records, KeyState.DESTROYED)

    @rule(period=st.sampled_from([OLD_MONTH, month("a").rpartition("/")[2]]))
    def shred_month(self, period: str) -> None:
        """Destroy all account-months of a month, and so its rings as a whole."""
        self.shred([name for name in MONTHS if name.endswith(period)])
        known = self.shredding.database.read(lambda c: rings.by_id(c, rings.all_ring_ids(c)))
        assert all(ring.destroyed_at for ring in known.values() if ring.month == period and ring.chunks)

    @rule()
    def close_rings(self) -> None:
        """Close all rings, and destroy the slots in them that no scope sits in."""
        assert destroy_unused_slots(self.shredding, a_month_from_now()).problems == ()

    @rule()
    def finish(self) -> None:
        """Finish what died on the way."""
        assert [outcome.error for outcome in self.destroyer.finish_pending() if outcome.error] == []
        assert destroy_unused_slots(self.shredding, datetime.now(UTC)).problems == ()
        for scope in self.scopes.values():
            for record, state in scope.records.items():
                if state is KeyState.DEACTIVATED:
                    # With the whole scope gone first, its records are not told of one by one.
                    scope.records[record] = KeyState.DESTROYED
            if scope.state is KeyState.DEACTIVATED:
                scope.state = KeyState.DESTROYED

    # --- crashes -------------------------------------------------------------------------------------------------

    @rule(names=some_names, fatal=steps)
    def create_and_die(self, names: list[str], fatal: int) -> None:
        """Create, and die on the way: what came to be is whole."""
        self.dying(self.issuing, fatal, lambda home: KeyVault(home).ensure_scopes(names))
        for name, found in zip(names, self.vault.describe(names), strict=True):
            if isinstance(found, ScopeInfo) and name not in self.scopes:
                self.scopes[name] = Scope(id=found.id)

    @precondition(lambda self: self.scopes)
    @rule(names=some_names, fatal=steps)
    def shred_and_die(self, names: list[str], fatal: int) -> None:
        """Destroy, and die on the way: each scope is as it was, fenced, or destroyed."""
        known = [name for name in names if name in self.scopes]
        self.dying(self.shredding, fatal, lambda home: Destroyer(home).destroy(known, **CAUSE))
        for name, found in zip(known, self.vault.describe(known), strict=True):
            assert isinstance(found, ScopeInfo)
            scope = self.scopes[name]
            if found.state in AFTER_A_FENCE:
                assert scope.state is not KeyState.DESTROYED or found.state is KeyState.DESTROYED
                scope.state = found.state
            assert found.state is scope.state

    @rule(name=a_month, records=some_records, fatal=steps)
    def shred_records_and_die(self, name: str, records: list[str], fatal: int) -> None:
        """Destroy records, and die on the way."""
        scope = self.scopes.get(name)
        if scope is None or scope.state in AFTER_A_FENCE:
            return
        self.dying(self.shredding, fatal, lambda home: Destroyer(home).destroy_records(name, records, **CAUSE))
        for record in records:
            state = self.stored_state(scope, record)
            if state in AFTER_A_FENCE:
                assert scope.records.get(record) is not KeyState.DESTROYED or state is KeyState.DESTROYED
                scope.records[record] = state
            assert state is scope.records.get(record, KeyState.ACTIVE)

    @rule(fatal=steps)
    def close_rings_and_die(self, fatal: int) -> None:
        """Close all rings, and die on the way: no scope loses anything, and what is fenced goes later."""
        self.dying(self.shredding, fatal, lambda home: destroy_unused_slots(home, a_month_from_now()))

    @rule()
    def restart(self) -> None:
        """Close the home and open it again: nothing rests on what a process remembers."""
        self.opened.close()
        self.enter()

    # --- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def what_is_active_opens_and_nothing_else(self) -> None:
        """Nothing that ended ever opens again, by an issuer with states at hand or without; everything else does."""
        for _ in range(2):
            results = self.vault.open_many([OpenRequest(envelope=item.envelope) for item in self.items])
            for item, result in zip(self.items, results, strict=True):
                why = REFUSALS.get(item.scope.state_of(item.record))
                assert (result == item.content) if why is None else (type(result) is why)
            self.issuing.custody.close()  # wipes the states at hand, and goes on without

    # --- within --------------------------------------------------------------------------------------------------

    def stored_state(self, scope: Scope, record: str) -> KeyState:
        """Return what the database says of a record."""
        tag = self.tags(scope, [record]).pop()
        marks = self.shredding.database.read(lambda c: fenced_records.by_key(c, [(scope.id, tag)]))
        return marks[scope.id, tag].state if marks else KeyState.ACTIVE

    def tags(self, scope: Scope, records: Sequence[str]) -> set[bytes]:
        """Return the tags of a scope's records."""
        row = self.shredding.database.read(lambda c: scope_store.by_id(c, [scope.id]))[scope.id]
        return {tag_of(row, record, self.shredding.keys.index) for record in records}

    def check_rings(self) -> None:
        """Hold every ring to its root."""
        rows = self.shredding.database.read(lambda c: scope_store.page(c, after=b"", limit=1_000))
        known = self.shredding.database.read(lambda c: rings.by_id(c, rings.all_ring_ids(c)))
        for ring_id, ring in known.items():
            self.check_ring(ring, [row for row in rows if row.ring_id == ring_id])

    def check_ring(self, ring: RingRow, rows: Sequence[ScopeRow]) -> None:
        """Hold the stored state to the oracle: byte by byte what is left of its root without what was destroyed."""
        if ring.destroyed_at is not None:
            assert all(row.state is KeyState.DESTROYED for row in rows)
            assert self.shredding.engine.read_keys([sealing.key_name(ring.id)]) == [None]
            assert self.shredding.engine.list_state(sealing.folder(ring.id)) == []
            return
        if ring.opened_at is None:
            return  # announced, perhaps made, and nothing in it
        state, root = states_of(self.shredding).load(ring.id).state, self.roots[ring.id]
        punctured = {row.slot or 0 for row in rows if row.state is KeyState.DESTROYED}
        assert (ring.closed_at is None) == (ring.slots_destroyed_at is None)
        if ring.closed_at is not None:
            punctured |= set(range(ring.capacity)) - {row.slot for row in rows}
        refs: dict[int, oracle.Ref] = {}
        for row in rows:
            scope = next(scope for scope in self.scopes.values() if scope.id == row.id)
            gone = self.tags(scope, [name for name, how in scope.records.items() if how is KeyState.DESTROYED])
            if row.state is KeyState.DESTROYED or not gone:
                continue
            ref = state.derive(row.slot or 0).records
            assert isinstance(ref, EntryRef)
            left = read_records(self.shredding.engine, ring.id, row.id, ref, next(iter(gone)))
            seed = oracle.records_seed(root, ring.capacity, row.slot or 0)
            assert encode_frontier(left) == oracle.records(seed, {int.from_bytes(tag, "big") for tag in gone})
            refs[row.slot or 0] = oracle.Ref(epoch=ref.epoch, name=ref.name, key=bytes(ref.key))
        assert encode_state(state) == oracle.state(root, ring.capacity, punctured, refs)

    @staticmethod
    def dying(home: Home, fatal: int, action: Callable[[Home], object]) -> None:
        """Run in a process that is gone from step `fatal` on."""
        fault, armed = Fault(left=fatal), False

        def hook(step: str) -> None:
            if armed:
                fault(step)

        database = FaultyDatabase(home.settings.store, hook)
        try:
            made = assemble(home.settings, database, faulty_engine(home.engine, hook), path=home.path)
            armed = True
            action(made)
        except (Died, KeyVaultError):
            return
        finally:
            database.close()
