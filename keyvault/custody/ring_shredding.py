"""Destroying scopes and records of rings: one replacement of a ring's state for all that is fenced in it, rings side by side.

A worker takes the ring's lease and looks up, in one transaction, everything of the ring that the database calls fenced or destroyed;
all of that is gone from the state it writes, whoever asked for it. The lease is for progress; that two workers at one ring do no
harm is the business of `keyvault.custody.ring_state`. The ring of a month that is due is closed in that same transaction, against
creators, and destroyed as a whole: its transit key and its state. No other ring is, however little of it seems to be live: a database
that was restored may not know of scopes that others put there since, and only of a due month is it sure that they have to go, too.

Slots of a closed ring that no scope sits in go with the rest, once they are fenced: what nobody told of cannot be opened then, either.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.concurrency import side_by_side
from keyvault.custody.base import Proof, Target
from keyvault.custody.ring_cache import RingCache
from keyvault.custody.ring_events import close, fence_slots, note_slots_destroyed, tell
from keyvault.custody.ring_records import erase_records, read_records_many
from keyvault.custody.ring_sealing import LoadedRing
from keyvault.custody.ring_state import Note, RingStates
from keyvault.errors import (
    CheckAndSetError,
    KeyMissingError,
    KeyVaultError,
    NotProvenError,
    RestoreDetected,
    Unavailable,
)
from keyvault.formats import wipe
from keyvault.puncture_records import EntryRef, leaf_of
from keyvault.puncture_state import RingState
from keyvault.results import caught
from keyvault.scopes import month_due_at
from keyvault.store import leases, rings
from keyvault.store.database import Database
from keyvault.store.rings import RingContent, RingRow
from keyvault.transit.base import TransitEngine, current_audit_event

PARALLEL_RINGS = 16
LEASE_SECONDS = 10.0
PATIENCE_SECONDS = 30.0
POLL_SECONDS = 0.02
ATTEMPTS = 5

End = Callable[[Callable[[Connection], None]], None]
"""Ends a ring's lease, in one transaction with what is noted of the ring."""

Outcomes = dict[tuple[bytes, bytes], Proof | KeyVaultError]
"""By `Target.key`."""

PUNCTURED = Proof(key="punctured", retained_ciphertext="refused", neighbour="derivable")
PUNCTURED_ALONE = Proof(key="punctured", retained_ciphertext="refused")
RING_DESTROYED = Proof(key="absent", retained_ciphertext="refused")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """A ring under lease. `whole`: nothing in it is live, and nothing can come to be."""

    ring: RingRow
    content: RingContent
    token: int
    whole: bool

    @property
    def owes_slots(self) -> bool:
        """Whether unused slots are fenced, and not proven gone yet."""
        return self.ring.slots_fenced_at is not None and self.ring.slots_destroyed_at is None


class RingShredder:
    """Destroys keys in rings. Thread-safe."""

    def __init__(
        self, database: Database, engine: TransitEngine, clock: Clock, states: RingStates, cache: RingCache
    ) -> None:
        """`states` are those of the deployment's incarnation; in `cache` is what the fence has opened just before."""
        self._database = database
        self._engine = engine
        self._clock = clock
        self._states = states
        self._cache = cache

    def destroy(self, targets: Sequence[Target]) -> list[Proof | KeyVaultError]:
        """Destroy fenced scopes and records, all of a ring at once; an outcome for each, in input order."""
        groups: dict[bytes, list[Target]] = defaultdict(list)
        for target in targets:
            groups[target.row.ring_id or b""].append(target)
        outcomes: Outcomes = {}
        for done in side_by_side(lambda group: self._destroy_in(*group), list(groups.items()), PARALLEL_RINGS):
            outcomes |= done
        return [outcomes[target.key] for target in targets]

    def destroy_unused(self, ring_ids: Sequence[bytes]) -> dict[bytes, KeyVaultError]:
        """Destroy the unused slots of rings in which they are fenced, and all else that has to go there; return what failed, by ring."""
        done = side_by_side(lambda ring_id: caught(self._work, ring_id, []), ring_ids, PARALLEL_RINGS)
        return {
            ring_id: result for ring_id, result in zip(ring_ids, done, strict=True) if isinstance(result, KeyVaultError)
        }

    def _destroy_in(self, ring_id: bytes, targets: Sequence[Target]) -> Outcomes:
        done = caught(self._work, ring_id, targets)
        return {target.key: done for target in targets} if isinstance(done, KeyVaultError) else done

    def _work(self, ring_id: bytes, targets: Sequence[Target]) -> Outcomes:
        with self._leased(ring_id) as (job, end):
            if job.whole:
                self._states.destroy(ring_id)
                end(partial(_note_destroyed, ring_id=ring_id, at=self._clock.now()))
                return {target.key: RING_DESTROYED for target in targets}
            for _ in range(ATTEMPTS - 1):
                with suppress(KeyMissingError):  # another worker replaced the state since it was read, and its entries
                    return self._puncture(job, targets, end)
            return self._puncture(job, targets, end)

    def _puncture(self, job: _Job, targets: Sequence[Target], end: End) -> Outcomes:
        outcomes: Outcomes = {}

        def judge(stored: LoadedRing) -> None:
            content = self._known(stored, job.content)
            proof = _proof_by(stored, content.live)
            outcomes.update(self._proven(stored, targets, proof))
            slots = proof if job.owes_slots and job.content.ended <= set(stored.state.punctured) else None
            end(partial(_note_punctured, stored=stored, slots=slots, at=self._clock.now()))

        self._replaced(job, judge).state.wipe()
        return outcomes

    # --- the lease --------------------------------------------------------------------------------------------------

    @contextmanager
    def _leased(self, ring_id: bytes) -> Iterator[tuple[_Job, End]]:
        """Give the ring under lease, and what ends the lease in one transaction with a note; else it ends with the context."""
        job = self._wait_for(ring_id)

        def end(note: Callable[[Connection], None]) -> None:
            unended.pop_all()
            self._database.write(partial(self._release, job=job, note=note))

        with ExitStack() as unended:
            unended.callback(end, lambda _: None)
            yield job, end

    def _release(self, connection: Connection, *, job: _Job, note: Callable[[Connection], None]) -> None:
        note(connection)
        leases.release(connection, _lease(job.ring.id), job.token, now=self._database.clock())

    def _wait_for(self, ring_id: bytes) -> _Job:
        patience = time.monotonic() + PATIENCE_SECONDS
        while (job := self._database.write(lambda connection: self._take(connection, ring_id))) is None:
            if time.monotonic() > patience:
                raise NotProvenError(
                    f"ring {ring_id.hex()}: another run has been working on it for {PATIENCE_SECONDS:.0f} s; the next run finishes what it leaves"
                )
            time.sleep(POLL_SECONDS)
        return job

    def _take(self, connection: Connection, ring_id: bytes) -> _Job | None:
        """Take the lease, look up all that must go, and close the ring when nothing of it may stay."""
        now = self._database.clock()
        until = now + timedelta(seconds=LEASE_SECONDS)
        token = leases.acquire(connection, _lease(ring_id), now=now, until=until)
        if token is None:
            return None
        ring = rings.by_id(connection, [ring_id], lock=True).get(ring_id)
        if ring is None:
            raise NotProvenError(f"ring {ring_id.hex()} is not in this database, so nothing of it can be destroyed")
        content = rings.content(connection, ring)
        whole = content.live is None and is_due(ring.month, self._trusted(connection))
        if whole:
            close(connection, ring_id, at=self._clock.now())
            fence_slots(connection, ring_id, at=self._clock.now())
        return _Job(ring=ring, content=content, token=token, whole=whole)

    def _trusted(self, connection: Connection) -> datetime:
        """Return the earlier of the two clocks: one that is ahead must not destroy a whole ring before its month is due."""
        own, of_database = self._clock.now(), self._database.own_now(connection, self._clock)
        return own if of_database is None else min(own, of_database)

    # --- the ring ---------------------------------------------------------------------------------------------------

    def _replaced(self, job: _Job, note: Note) -> LoadedRing:
        """Return the ring's stored state without anything that must go, its predecessors proven dead; tell `note` of it before."""
        ring, content = job.ring, job.content
        for _ in range(ATTEMPTS):
            opened = self._cache.take(ring.id)
            loaded = self._states.load(ring.id) if opened is None else self._states.reload(opened)
            if loaded.epoch < ring.epoch:
                loaded.state.wipe()
                raise RestoreDetected(
                    f"ring {ring.id.hex()} is at epoch {loaded.epoch} in the engine, and the database has seen epoch {ring.epoch}: the engine "
                    "is an older copy. Nothing is destroyed in it until the replay is done"
                )
            try:
                content = self._known(loaded, content)
            except KeyVaultError:
                loaded.state.wipe()
                raise
            if self._is_gone(loaded, content):
                loaded.state.wipe()
                return self._states.resume(ring.id, note=note)
            try:
                return self._states.replace(
                    loaded,
                    partial(self._without, ring.id, content),
                    is_punctured=partial(_lacks, content=content),
                    highest_version=ring.highest_version,
                    proven_epoch=ring.epoch,  # noted once it was proven
                    note=note,
                )
            except CheckAndSetError:
                continue
            finally:
                loaded.state.wipe()
        raise Unavailable(f"ring {ring.id.hex()}: other workers keep replacing its state: try again")

    def _known(self, loaded: LoadedRing, content: RingContent) -> RingContent:
        """Return what the database says of the ring, asked again where the state lacks more than that: another worker was here.

        Raises `RestoreDetected` when the database calls alive what the state lacks, which no database does that fenced it.
        """
        gone = set(loaded.state.punctured)
        if gone <= content.ended:
            return content
        content = self._database.read(lambda connection: _content_now(connection, loaded.ring_id))
        if gone <= content.ended:
            return content
        raise RestoreDetected(
            f"ring {loaded.ring_id.hex()}: scopes were destroyed in it of which this database knows nothing: the database is an older copy. "
            "Nothing is destroyed in it until the replay is done"
        )

    def _without(self, ring_id: bytes, content: RingContent, state: RingState, epoch: int) -> RingState:
        """Return the state without ended slots and erased records; the entries of what is left of those are written first."""
        moved: dict[int, EntryRef] = {}
        try:
            for (slot, scope_id), tags in content.erased.items():
                node = state.derive(slot)
                try:
                    moved[slot] = erase_records(self._engine, ring_id, scope_id, epoch, node, tags)
                finally:
                    node.wipe()
            if not moved:
                return state.puncture_slots(content.ended)
            with_records = state.move_records(moved)
        finally:
            for ref in moved.values():
                wipe(ref.key)
        try:
            return with_records.puncture_slots(content.ended)
        finally:
            with_records.wipe()

    def _is_gone(self, loaded: LoadedRing, content: RingContent) -> bool:
        """Tell whether an earlier run has done it all, and only its acknowledgement is missing."""
        return _lacks(loaded.state, content) and all(
            erased for place, tags in content.erased.items() for _, erased in self._erased(loaded, place, tags)
        )

    # --- the proof --------------------------------------------------------------------------------------------------

    def _proven(self, stored: LoadedRing, targets: Sequence[Target], proof: Proof) -> Outcomes:
        """Judge each target by the stored state, which was opened anew after the flip."""
        gone = set(stored.state.punctured)
        outcomes: Outcomes = {}
        records: dict[tuple[int, bytes], list[bytes]] = defaultdict(list)
        for target in targets:
            row, tag = target
            if row.slot in gone:
                outcomes[target.key] = proof
            elif tag and row.slot is not None:
                records[row.slot, row.id].append(tag)
            else:
                outcomes[target.key] = NotProvenError(f"scope {row.id.hex()}: its ring's state still holds its node")
        for place, tags in records.items():
            left = NotProvenError(f"scope {place[1].hex()}: the key of a record that was erased can still be derived")
            for tag, erased in self._erased(stored, place, tags):
                outcomes[place[1], tag] = proof if erased else left
        return outcomes

    def _erased(
        self, ring: LoadedRing, place: tuple[int, bytes], tags: Iterable[bytes]
    ) -> Iterator[tuple[bytes, bool]]:
        """Tell of each record whether nothing derives its key: not the state, nor the entries it refers to."""
        slot, scope_id = place
        node = ring.state.derive(slot)
        try:
            if not isinstance(node.records, EntryRef):
                yield from ((tag, False) for tag in tags)
                return
            for records, some in read_records_many(self._engine, ring.ring_id, scope_id, node.records, tags):
                gone = set(records.punctured)
                yield from ((tag, leaf_of(tag) in gone) for tag in some)
        finally:
            node.wipe()


def _proof_by(stored: LoadedRing, live: int | None) -> Proof:
    """Return what is proven of what the stored state lacks: beside it, the node of a live slot can be derived."""
    if live is None:
        return PUNCTURED_ALONE
    stored.state.derive(live).wipe()
    return PUNCTURED


def _content_now(connection: Connection, ring_id: bytes) -> RingContent:
    return rings.content(connection, rings.by_id(connection, [ring_id])[ring_id])


def _note_punctured(connection: Connection, *, stored: LoadedRing, slots: Proof | None, at: datetime) -> None:
    """Note how far a ring has come; `slots`: the proof that its unused slots are gone, where that is to be told."""
    rings.note_state(connection, stored.ring_id, epoch=stored.epoch, version=stored.key_version)
    if slots is not None:
        proof = {"key": slots.key, "neighbour": slots.neighbour, "retained_ciphertext": slots.retained_ciphertext}
        note_slots_destroyed(connection, stored.ring_id, proof=proof, erasure=current_audit_event(), at=at)


def _note_destroyed(connection: Connection, ring_id: bytes, at: datetime) -> None:
    if rings.note_destroyed(connection, ring_id, at=at):
        tell(connection, ring_id, at=at)


def is_due(month: str | None, now: datetime) -> bool:
    """Tell whether every account-month in a ring of this month is due, also those that the database does not know of."""
    return month is not None and month_due_at(month) <= now


def _lacks(state: RingState, content: RingContent) -> bool:
    """Tell whether a state lacks the ended slots, and keeps no root of records of those with erased ones."""
    return content.ended <= set(state.punctured) and all(
        not isinstance(state.derive(slot).records, bytearray) for slot, _ in content.erased
    )


def _lease(ring_id: bytes) -> str:
    return f"ring/{ring_id.hex()}"
