"""The scopes of a log: each one's life from its entries, and whether the entries can follow each other. Pure.

A million scopes are kept in columns, numbered in the order of their creation.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from enum import IntEnum
from itertools import compress, count
from typing import Final, NamedTuple

from keyvault.events import instant
from keyvault.scopes import ScopeKind
from shredder.audit.columns import Column, column_of, texts_of
from shredder.audit.creations import MINUTE, Creations
from shredder.audit.events import (
    RecordResumed,
    RecordSuspended,
    ScopeMigrated,
    ScopeResumed,
    ScopeSuspended,
)
from shredder.audit.finding import Findings
from shredder.audit.forms import moment
from shredder.audit.profiles import Custody, Profile, ProfileKey, profile_of

NEVER: Final = 2**64 - 1
"""In place of an entry's index: there is none."""
ID_LENGTH: Final = 22
"""Characters of 16 bytes in base64url."""
RecordKey = tuple[int, str]
"""A scope's number, and a record's tag in it."""


class State(IntEnum):
    """What the entries so far have made of a scope or a record."""

    ACTIVE = 0
    SUSPENDED = 1
    FENCED = 2
    DESTROYED = 3


class Mark(NamedTuple):
    """What is with a record. `destruction`: the number of the one that fenced it; `since`: when its state was entered."""

    state: State
    destruction: int
    since: datetime


_SUSPENDED: Final = int(State.SUSPENDED)
_Place = tuple[ScopeKind, str | None, str, int]


class Scopes:
    """All scopes that entries have created, and the marks of single records."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._numbers: dict[str, int] = {}
        self._commitments: list[str] = []
        self._accounts: dict[str, str] = {}
        self._profiles: dict[ProfileKey, Profile] = {}
        self._after_migration: dict[Profile, Profile] = {}
        self.profiles: list[Profile] = []
        self.ids = Column(ID_LENGTH)
        self.accounts: list[str] = []
        self.states = bytearray()
        self.created = array("Q")
        self._ended = array("Q")
        self._destruction = array("Q")
        self.records: dict[RecordKey, Mark] = {}
        """Of each record that is suspended, fenced or destroyed."""
        self.suspended: dict[int, datetime] = {}
        """When account-months were suspended that still are: they go with their account."""
        self._in_rings = 0
        self._minute = ""
        self._by_minute: list[tuple[str, int]] = []
        """How many scopes were in rings when the first one of a minute (`2026-11-24T20:43`) came."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def commitments(self) -> Sequence[str]:
        """All commitments (base64url) by the scopes' numbers."""
        if len(self._commitments) != len(self._numbers):
            self._commitments = list(self._numbers)
        return self._commitments

    def number(self, commitment: str) -> int | None:
        """Return the number of a scope by its commitment; None where there is none."""
        return self._numbers.get(commitment)

    def kind(self, number: int) -> ScopeKind:
        """Return a scope's kind."""
        return self.profiles[number].kind

    def month(self, number: int) -> str | None:
        """Return the month of an account-month (empty where it states none that can be); None of other kinds."""
        return _month_of(self.profiles[number])

    def numbers(self, commitments: Iterable[str]) -> list[int] | None:
        """Return the numbers of many scopes by their commitments; None where there is no scope of one of them."""
        try:
            return [*map(self._numbers.__getitem__, commitments)]
        except KeyError:
            return None

    def accounts_of(self, numbers: Iterable[int]) -> list[str]:
        """Return the accounts of many scopes."""
        return [*map(self.accounts.__getitem__, numbers)]

    def months_beside(self, numbers: Iterable[int], beside: Iterable[str]) -> set[tuple[str | None, str]]:
        """Return what `month` gives of scopes, each with the text beside its number: every such pair once."""
        pairs = set(zip(map(self.profiles.__getitem__, numbers), beside, strict=True))
        return {(_month_of(profile), text) for profile, text in pairs}

    def account_months(self) -> int:
        """Return how many of all scopes are account-months."""
        counted = Counter(self.profiles)
        return sum(many for profile, many in counted.items() if profile.kind is ScopeKind.COMMUNICATIONS)

    def is_live(self, number: int) -> bool:
        """Tell whether a scope is neither fenced nor destroyed."""
        return self.states[number] <= State.SUSPENDED

    def create(self, run: Creations) -> None:
        """Take in `scope.created`, of the entries from that on which is looked at."""
        commitments = texts_of(run.scopes)
        before = self._number(commitments)
        problems = {place: f"scope {commitments[place]}: {problem}" for place, problem in run.problems}
        for place in sorted(problems.keys() | before):
            entry = self._findings.entry + place
            if place in before:
                message = f"scope {commitments[place]} was created before: each life has a commitment of its own"
                self._findings.add("created-twice", message, entry=entry)
            else:
                self._findings.add("wrong-dates", problems[place], entry=entry)
        for minute, scopes in run.in_rings:
            self._count_in_rings(minute, scopes)
        self._add(run, commitments, before)

    def _number(self, commitments: Sequence[str]) -> set[int]:
        """Number commitments on; return the places of those that are of a scope already, or stand in an earlier place, and get no number."""
        first = len(self)
        if [*map(self._numbers.setdefault, commitments, count(first))] == [*range(first, first + len(commitments))]:
            return set()
        while len(self._numbers) > first:  # the last one put in is the first one out
            self._numbers.popitem()
        before: set[int] = set()
        for place, commitment in enumerate(commitments):
            if self._numbers.setdefault(commitment, len(self._numbers)) != first + place - len(before):
                before.add(place)
        return before

    def _add(self, run: Creations, commitments: list[str], left_out: set[int]) -> None:
        """Add the scopes of a run, but for those in some of its places."""
        entry = self._findings.entry
        stated = [self._profiles.get(key) or self._profiles.setdefault(key, profile_of(key)) for key in run.stated]
        profiles = [stated[place] for place in run.places]
        accounts, entries, ids = texts_of(run.accounts), [*range(entry, entry + run.count)], run.ids
        if left_out:
            kept = [place not in left_out for place in range(run.count)]
            if not any(kept):
                return
            ids = column_of([*compress(texts_of(ids), kept)])
            commitments, profiles, accounts, entries = (
                [*compress(commitments, kept)],
                [*compress(profiles, kept)],
                [*compress(accounts, kept)],
                [*compress(entries, kept)],
            )
        self.profiles += profiles
        self.accounts += map(self._accounts.setdefault, accounts, accounts)
        self.ids.extend(ids)
        self.states += bytes(len(commitments))
        self.created.extend(entries)

    def fence(self, number: int, destruction: int) -> None:
        """Mark a scope as fenced by a destruction, by that one's number."""
        self.states[number] = State.FENCED
        self._destruction.extend([NEVER] * (number + 1 - len(self._destruction)))
        self._destruction[number] = destruction
        self.suspended.pop(number, None)

    def destruction_of(self, number: int) -> int:
        """Return the number of the destruction that fenced a scope; `NEVER` where none has."""
        return self._destruction[number] if number < len(self._destruction) else NEVER

    def destroy(self, number: int) -> None:
        """Mark a scope as destroyed by the entry that is looked at."""
        self.states[number] = State.DESTROYED
        self._ended.extend([NEVER] * (number + 1 - len(self._ended)))
        self._ended[number] = self._findings.entry

    def _count_in_rings(self, minute: str, scopes: int) -> None:
        if minute != self._minute:
            self._by_minute.append((minute, self._in_rings))
            self._minute = minute
        self._in_rings += scopes

    def in_rings_before(self, at: datetime) -> int:
        """Return how many scopes had been put into rings, ever, by the minute of `at`."""
        limit = instant(at)[:MINUTE]
        return next((count for minute, count in self._by_minute if minute > limit), self._in_rings)

    def find(self, commitment: str) -> int | None:
        """Return the number of a scope; None, with a finding, where no entry so far has created it."""
        number = self._numbers.get(commitment)
        if number is None:
            self._findings.add("never-created", f"scope {commitment} is named, and no entry before has created it")
        return number

    def suspend(self, event: ScopeSuspended) -> int | None:
        """Take in `scope.suspended`; return the scope's number, None where it cannot be."""
        number = self._move(event, State.ACTIVE, State.SUSPENDED)
        if number is not None and self.kind(number) is ScopeKind.COMMUNICATIONS:
            self.suspended[number] = moment(event.at)
        return number

    def resume(self, event: ScopeResumed) -> None:
        """Take in `scope.resumed`."""
        number = self._move(event, State.SUSPENDED, State.ACTIVE)
        if number is not None:
            self.suspended.pop(number, None)

    def migrate(self, event: ScopeMigrated) -> None:
        """Take in `scope.migrated`."""
        number = self._named(event)
        if number is None:
            return
        if not self.is_live(number) or self.profiles[number].custody is not Custody.DEDICATED:
            self._impossible(event.scope, number, "moved to a ring")
            return
        self.profiles[number] = self._moved(self.profiles[number])
        self._count_in_rings(event.at[:MINUTE], 1)

    def _moved(self, profile: Profile) -> Profile:
        """Return what becomes of a profile with the migration of its scopes."""
        return self._after_migration.setdefault(profile, replace(profile, custody=Custody.MOVED))

    def suspend_records(self, event: RecordSuspended) -> None:
        """Take in `record.suspended`."""
        self._move_records(event, None, State.SUSPENDED)

    def resume_records(self, event: RecordResumed) -> None:
        """Take in `record.resumed`."""
        self._move_records(event, State.SUSPENDED, None)

    def live(self) -> Iterator[int]:
        """Give the numbers of all scopes that are neither fenced nor destroyed."""
        return (number for number, state in enumerate(self.states) if state <= _SUSPENDED)

    def check_ids(self) -> None:
        """Note each scope whose id another one had before."""
        for number in self.ids.repeated():
            self._findings.add(
                "id-used-twice",
                f"scope {self.commitments[number]} has the id {self.ids[number]} of another scope",
                entry=self.created[number],
            )

    def check_generations(self) -> None:
        """Note each renewal that no destroyed generation before it allows: of the same kind, period and account, and earlier in the log.

        Names are not in the log, so that it cannot be told whose renewal a destroyed scope allowed.
        """
        if all(profile.generation == 1 for profile in self._profiles.values()):
            return
        renewed = [number for number, profile in enumerate(self.profiles) if profile.generation > 1]
        ended: dict[_Place, list[int]] = {self._place(number, former=True): [] for number in renewed}
        for number, entry in enumerate(self._ended):
            if entry != NEVER and (place := self._place(number)) in ended:
                ended[place].append(entry)
        for entries in ended.values():
            entries.sort(reverse=True)
        for number in renewed:
            entries = ended[self._place(number, former=True)]
            if not entries or entries.pop() > self.created[number]:
                self._findings.add(
                    "generation-without-former",
                    f"scope {self.commitments[number]} is generation {self.profiles[number].generation}, and no generation before it "
                    "was destroyed",
                    entry=self.created[number],
                )

    def _place(self, number: int, *, former: bool = False) -> _Place:
        """Return what a scope has in common with its next generation, or with the former."""
        profile = self.profiles[number]
        return profile.kind, profile.period, self.accounts[number], profile.generation - former

    def _named(
        self, event: ScopeSuspended | ScopeResumed | ScopeMigrated | RecordSuspended | RecordResumed
    ) -> int | None:
        """Return the number of the scope that an event names by commitment and id."""
        number = self.find(event.scope)
        if number is not None and self.ids[number] != event.scope_id:
            self._findings.add(
                "other-id", f"scope {event.scope} has not the id {event.scope_id} that it was created with"
            )
            return None
        return number

    def _move(self, event: ScopeSuspended | ScopeResumed, before: State, after: State) -> int | None:
        number = self._named(event)
        if number is None:
            return None
        if self.states[number] != before:
            self._impossible(event.scope, number, event.type.partition(".")[2])
            return None
        self.states[number] = after
        return number

    def _move_records(self, event: RecordSuspended | RecordResumed, before: State | None, after: State | None) -> None:
        number = self._named(event)
        if number is None:
            return
        what = event.type.partition(".")[2]
        if not self.is_live(number) or self.kind(number) is not ScopeKind.COMMUNICATIONS:
            self._impossible(event.scope, number, f"the scope of records that are {what}")
            return
        self.check_order(event.records)
        for tag in event.records:
            mark = self.records.get((number, tag))
            state = None if mark is None else mark.state
            if state is not before:
                self._findings.add(
                    "impossible-step", f"record {tag} of scope {event.scope} is {what}, and was {_called(state)}"
                )
            elif after is None:
                del self.records[number, tag]
            else:
                self.records[number, tag] = Mark(after, NEVER, moment(event.at))

    def check_order(self, texts: Sequence[str]) -> None:
        """Note when one thing is listed twice."""
        if len(set(texts)) != len(texts):
            self._findings.add("listed-twice", "it lists one thing twice")

    def _impossible(self, commitment: str, number: int, what: str) -> None:
        state = State(self.states[number])
        self._findings.add(
            "impossible-step",
            f"scope {commitment} is {what}, and was {_called(state)}, {self.profiles[number].custody.name.lower()}",
        )


def _month_of(profile: Profile) -> str | None:
    return profile.period or "" if profile.kind is ScopeKind.COMMUNICATIONS else None


def _called(state: State | None) -> str:
    return "unmarked" if state is None else state.name.lower()
