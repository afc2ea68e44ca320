"""Destructions of a log: fence before erasure, each thing once, and evidence that says what it must. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from msgspec import UNSET

from keyvault.scopes import ScopeKind
from shredder.audit.causes import Causes
from shredder.audit.events import DestroyFailed, DestroyFenced, KeyDestroyed, Proof, RecordDestroyed
from shredder.audit.finding import Findings
from shredder.audit.forms import CLOCKS, moment
from shredder.audit.profiles import Custody
from shredder.audit.scopes import Mark, Scopes, State

BACKUP_HORIZON: Final = timedelta(days=90)
LONGEST_LEASE: Final = timedelta(seconds=3_660)
"""The longest lease that a home may have, and the clock skew."""
PROOFS: Final = {
    ("absent", "none"): frozenset({"dedicated", "ring"}),
    ("punctured", "derivable"): frozenset({"ring"}),
    ("punctured", "none"): frozenset({"ring"}),
}
"""What can be proven of a key and its neighbour, and of which custodies."""


@dataclass(slots=True)
class _Destruction:
    """A destruction. `stamp`: when its fence was committed and the last lease ends, as the first of its later events says."""

    fence: str
    at: datetime
    entry: int
    records_of: int | None
    scopes: int
    stamp: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """What is fenced, and not proven gone yet: a scope by its commitment (base64url), or a record of it; `entry`: its fence."""

    scope: str
    record: str | None
    entry: int
    since: datetime


class Destructions:
    """All destructions, by the id that their events share."""

    def __init__(self, findings: Findings, scopes: Scopes, causes: Causes) -> None:
        self._findings = findings
        self._scopes = scopes
        self._causes = causes
        self._all: list[_Destruction] = []
        self.numbers: dict[str, int] = {}
        """Of each destruction, by its id."""
        self._engine: str | None = None
        self.records_destroyed = 0

    # --- the fence -----------------------------------------------------------------------------------------------

    def fence(self, event: DestroyFenced) -> None:
        """Take in `destroy.fenced`."""
        number = len(self._all)
        if self.numbers.setdefault(event.destroy_id, number) != number:
            self._findings.add("destroyed-twice", f"destruction {event.destroy_id} was fenced before")
            return
        self._scopes.check_order(event.scopes)
        self._scopes.check_order(event.records)
        found = [scope for commitment in event.scopes if (scope := self._scopes.find(commitment)) is not None]
        of_records = found[0] if event.records and found else None
        self._all.append(_Destruction(event.id, moment(event.at), self._findings.entry, of_records, len(found)))
        if event.records:
            self._fence_records(event, number, found)
        else:
            self._fence_scopes(event, number, found)

    def _fence_scopes(self, event: DestroyFenced, number: int, found: Sequence[int]) -> None:
        live = [scope for scope in found if self._is_live(scope, event.destroy_id)]
        self._causes.check_fence(event, [(scope, "") for scope in live])
        for scope in live:
            self._scopes.fence(scope, number)

    def _fence_records(self, event: DestroyFenced, number: int, found: Sequence[int]) -> None:
        if len(event.scopes) != 1:
            self._findings.add(
                "wrong-records", f"destruction {event.destroy_id} is of records, and names {len(event.scopes)} scopes"
            )
        for scope in found[:1]:
            if not self._is_live(scope, event.destroy_id):
                return
            if self._scopes.kind(scope) is not ScopeKind.COMMUNICATIONS:
                self._findings.add(
                    "wrong-records", f"destruction {event.destroy_id}: scope {event.scopes[0]} has no records"
                )
            items = [(scope, tag) for tag in event.records if self._is_unfenced(scope, tag)]
            self._causes.check_fence(event, items)
            for item in items:
                self._scopes.records[item] = Mark(State.FENCED, number, moment(event.at))

    def _is_live(self, scope: int, destroy_id: str) -> bool:
        if self._scopes.is_live(scope):
            return True
        state = State(self._scopes.states[scope]).name.lower()
        self._findings.add(
            "destroyed-twice",
            f"destruction {destroy_id} fences scope {self._scopes.commitments[scope]}, which was {state} before",
        )
        return False

    def _is_unfenced(self, scope: int, tag: str) -> bool:
        mark = self._scopes.records.get((scope, tag))
        if mark is None or mark.state is State.SUSPENDED:
            return True
        what = f"record {tag} of scope {self._scopes.commitments[scope]}"
        self._findings.add("destroyed-twice", f"{what} was {mark.state.name.lower()} before it is fenced")
        return False

    # --- the evidence --------------------------------------------------------------------------------------------

    def destroy(self, event: KeyDestroyed) -> None:
        """Take in `key.destroyed`."""
        number = self._evidence(event)
        if number is None:
            return
        self._scopes.check_order(event.scopes)
        known = [scope for commitment in event.scopes if (scope := self._scopes.find(commitment)) is not None]
        for scope in known:
            if self._scopes.states[scope] == State.DESTROYED:
                self._findings.add("destroyed-twice", f"scope {self._scopes.commitments[scope]} was destroyed before")
            elif self._scopes.destruction_of(scope) != number:
                self._findings.add(
                    "no-fence",
                    f"scope {self._scopes.commitments[scope]} was not fenced by destruction {event.destroy_id}",
                )
            else:
                self._scopes.destroy(scope)
        self._check_custody(event, known)

    def destroy_records(self, event: RecordDestroyed) -> None:
        """Take in `record.destroyed`."""
        number = self._evidence(event)
        scope = self._scopes.find(event.scope)
        if number is None or scope is None:
            return
        self._scopes.check_order(event.records)
        if event.custody != ["ring"] or event.proof.key != "punctured" or event.proof.former is not UNSET:
            self._findings.add(
                "wrong-proof", f"destruction {event.destroy_id}: keys of single records are in rings, and punctured"
            )
        for tag in event.records:
            mark = self._scopes.records.get((scope, tag))
            what = f"record {tag} of scope {event.scope}"
            if mark is None or mark.destruction != number:
                self._findings.add("no-fence", f"{what} was not fenced by destruction {event.destroy_id}")
            elif mark.state is State.DESTROYED:
                self._findings.add("destroyed-twice", f"{what} was destroyed before")
            else:
                self._scopes.records[scope, tag] = mark._replace(state=State.DESTROYED)
                self.records_destroyed += 1

    def fail(self, event: DestroyFailed) -> None:
        """Take in `destroy.failed`."""
        number = self._fenced(event)
        if number is None:
            return
        self._scopes.check_order(event.scopes)
        self._scopes.check_order(event.records)
        if event.errors != sorted(set(event.errors)):
            self._findings.add("listed-twice", "its errors are not sorted, each once")
        for commitment in event.scopes:
            scope = self._scopes.find(commitment)
            if scope is not None and not self._is_of(number, scope, event.records):
                self._findings.add(
                    "no-fence", f"what failed of scope {commitment} was not fenced by destruction {event.destroy_id}"
                )
        self._check_stamp(number, event.destroy_id, event.fenced_at, event.lease_bound)

    def _is_of(self, number: int, scope: int, tags: Sequence[str]) -> bool:
        if not tags:
            return self._scopes.destruction_of(scope) == number
        marks = [self._scopes.records.get((scope, tag)) for tag in tags]
        return all(mark is not None and mark.destruction == number for mark in marks)

    def _fenced(self, event: KeyDestroyed | RecordDestroyed | DestroyFailed) -> int | None:
        """Return the number of an event's destruction; None, with a finding, where its fence is not before it."""
        number = self.numbers.get(event.destroy_id)
        if number is None or self._all[number].fence != event.fence:
            self._findings.add(
                "no-fence", f"destruction {event.destroy_id}: its fence {event.fence} is not in the log before it"
            )
            return None
        return number

    def _evidence(self, event: KeyDestroyed | RecordDestroyed) -> int | None:
        number = self._fenced(event)
        at = moment(event.at)
        if moment(event.horizon) != at + BACKUP_HORIZON:
            self._findings.add(
                "wrong-dates", f"destruction {event.destroy_id}: its backup horizon is not 90 days after it"
            )
        if moment(event.fenced_at) > at + CLOCKS:
            self._findings.add("wrong-dates", f"destruction {event.destroy_id} was destroyed before it was fenced")
        self._engine = self._engine or event.engine
        if self._engine != event.engine:
            self._findings.add(
                "other-engine", f"destruction {event.destroy_id} is proven by another engine than those before it"
            )
        if number is not None:
            self._check_stamp(number, event.destroy_id, event.fenced_at, event.lease_bound)
        return number

    def _check_stamp(self, number: int, destroy_id: str, fenced_at: str, lease_bound: str) -> None:
        destruction = self._all[number]
        stamp = fenced_at, lease_bound
        destruction.stamp = destruction.stamp or stamp
        if destruction.stamp != stamp:
            self._findings.add("wrong-dates", f"destruction {destroy_id}: two events disagree on when it was fenced")
        fenced, bound = moment(fenced_at), moment(lease_bound)
        if fenced + CLOCKS < destruction.at:
            self._findings.add("wrong-dates", f"destruction {destroy_id}: fenced_at is before its fence")
        if not timedelta() < bound - fenced <= LONGEST_LEASE:
            self._findings.add("wrong-dates", f"destruction {destroy_id}: lease_bound is not one lease after fenced_at")

    def _check_custody(self, event: KeyDestroyed, scopes: Sequence[int]) -> None:
        custodies = {self._scopes.profiles[scope].custody for scope in scopes}
        named = sorted({custody.is_named for custody in custodies})
        if named != event.custody:
            self._findings.add(
                "wrong-custody", f"destruction {event.destroy_id}: its keys were in {named}, not {event.custody}"
            )
        if not PROOFS.get((event.proof.key, event.proof.neighbour), frozenset()).issuperset(event.custody):
            self._findings.add(
                "wrong-proof",
                f"destruction {event.destroy_id}: {_said(event.proof)} proves nothing of keys in {event.custody}",
            )
        moved = event.proof.former is not UNSET
        if custodies and {custody is Custody.MOVED for custody in custodies} != {moved}:
            self._findings.add(
                "wrong-proof",
                f"destruction {event.destroy_id}: `former` belongs to scopes that were moved to a ring, all of them and no others",
            )

    # --- what is left --------------------------------------------------------------------------------------------

    def pending(self) -> Iterator[Pending]:
        """Give what is fenced and not proven gone; records of a scope that is gone are gone with it."""
        scope = -1
        while (scope := self._scopes.states.find(State.FENCED, scope + 1)) >= 0:
            yield self._pending(scope, None, self._scopes.destruction_of(scope))
        for (scope, tag), mark in self._scopes.records.items():
            if mark.state is State.FENCED and self._scopes.states[scope] != State.DESTROYED:
                yield self._pending(scope, tag, mark.destruction)

    def _pending(self, scope: int, tag: str | None, number: int) -> Pending:
        fence = self._all[number]
        return Pending(scope=self._scopes.commitments[scope], record=tag, entry=fence.entry, since=fence.at)


def _said(proof: Proof) -> str:
    return f"key {proof.key}, neighbour {proof.neighbour}"
