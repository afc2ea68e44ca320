"""The scopes of a log: each one's life from its entries, and whether the entries can follow each other. Pure.

A million scopes are kept in columns, numbered in the order of their creation.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final, NamedTuple

from keyvault.events import instant
from keyvault.scopes import KIND_RULES, MONTH, YEAR, ScopeKind, month_due_at
from shredder.audit.events import (
    RecordResumed,
    RecordSuspended,
    ScopeCreated,
    ScopeMigrated,
    ScopeResumed,
    ScopeSuspended,
)
from shredder.audit.finding import Findings
from shredder.audit.forms import CLOCKS, moment

NEVER: Final = 2**64 - 1
"""In place of an entry's index: there is none."""
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


class Custody(IntEnum):
    """Where a scope's key is. `MOVED`: in a ring, and one of its own from before."""

    RING = 0
    DEDICATED = 1
    MOVED = 2

    @property
    def is_named(self) -> str:
        """Return what events call the custody of its newer key."""
        return "dedicated" if self is Custody.DEDICATED else "ring"


_ACTIVE: Final = int(State.ACTIVE)
_ProfileKey = tuple[str, str | None, str | None, str, int]
_Place = tuple[ScopeKind, str | None, str, int]


class Profile(NamedTuple):
    """What many scopes have in common. `earliest` and `latest`: between which instants (texts) one may be created; `problem`: what is wrong."""

    kind: ScopeKind
    period: str | None
    custody: Custody
    generation: int
    earliest: str = ""
    latest: str = "~"
    problem: str | None = None


class Scopes:
    """All scopes that entries have created, and the marks of single records."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._numbers: dict[str, int] = {}
        self._commitments: list[str] = []
        self._accounts: dict[str, str] = {}
        self._profiles: dict[_ProfileKey, Profile] = {}
        self.profiles: list[Profile] = []
        self.ids: list[str] = []
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

    def kind(self, number: int) -> ScopeKind:
        """Return a scope's kind."""
        return self.profiles[number].kind

    def is_live(self, number: int) -> bool:
        """Tell whether a scope is neither fenced nor destroyed."""
        return self.states[number] <= State.SUSPENDED

    def create(self, event: ScopeCreated) -> None:
        """Take in `scope.created`."""
        number = len(self.ids)
        if self._numbers.setdefault(event.scope, number) != number:
            self._findings.add(
                "created-twice", f"scope {event.scope} was created before: each life has a commitment of its own"
            )
            return
        key = event.kind, event.period, event.due_at, event.custody, event.generation
        profile = self._profiles.get(key) or self._profiles.setdefault(key, _profile(key))
        if profile.problem is not None or not profile.earliest <= event.at <= profile.latest:
            problem = profile.problem or "it was created before its period began, or after it was due"
            self._findings.add("wrong-dates", f"scope {event.scope}: {problem}")
        if event.custody == "ring":
            self._count_in_ring(event.at)
        self.profiles.append(profile)
        self.ids.append(event.scope_id)
        self.accounts.append(self._accounts.setdefault(event.account, event.account))
        self.states.append(_ACTIVE)
        self.created.append(self._findings.entry)

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

    def _count_in_ring(self, at: str) -> None:
        minute = at[:16]
        if minute != self._minute:
            self._by_minute.append((minute, self._in_rings))
            self._minute = minute
        self._in_rings += 1

    def in_rings_before(self, at: datetime) -> int:
        """Return how many scopes had been put into rings, ever, by the minute of `at`."""
        limit = instant(at)[:16]
        return next((count for minute, count in self._by_minute if minute > limit), self._in_rings)

    def find(self, commitment: str) -> int | None:
        """Return the number of a scope; None, with a finding, where no entry so far has created it."""
        number = self._numbers.get(commitment)
        if number is None:
            self._findings.add("never-created", f"scope {commitment} is named, and no entry before has created it")
        return number

    def suspend(self, event: ScopeSuspended) -> None:
        """Take in `scope.suspended`."""
        number = self._move(event, State.ACTIVE, State.SUSPENDED)
        if number is not None and self.kind(number) is ScopeKind.COMMUNICATIONS:
            self.suspended[number] = moment(event.at)

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
        self.profiles[number] = self.profiles[number]._replace(custody=Custody.MOVED)
        self._count_in_ring(event.at)

    def suspend_records(self, event: RecordSuspended) -> None:
        """Take in `record.suspended`."""
        self._move_records(event, None, State.SUSPENDED)

    def resume_records(self, event: RecordResumed) -> None:
        """Take in `record.resumed`."""
        self._move_records(event, State.SUSPENDED, None)

    def live(self) -> Iterator[int]:
        """Give the numbers of all scopes that are neither fenced nor destroyed."""
        return (number for number, state in enumerate(self.states) if state <= State.SUSPENDED)

    def check_ids(self) -> None:
        """Note each scope whose id another one had before."""
        for number in repeated(self.ids):
            self._findings.add(
                "id-used-twice",
                f"scope {self.commitments[number]} has the id {self.ids[number]} of another scope",
                entry=self.created[number],
            )

    def check_generations(self) -> None:
        """Note each renewal that no destroyed generation before it allows: of the same kind, period and account, and earlier in the log.

        Names are not in the log, so that it cannot be told whose renewal a destroyed scope allowed.
        """
        renewed = [number for number, profile in enumerate(self.profiles) if profile.generation > 1]
        if not renewed:
            return
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


def repeated(texts: Sequence[str | None]) -> list[int]:
    """Return where in a list a text stands that stood in it before; None stands for nothing."""
    if len(set(texts)) == len(texts):
        return []
    seen: set[str | None] = {None}
    found = []
    for number, text in enumerate(texts):
        if text is not None and text in seen:
            found.append(number)
        seen.add(text)
    return found


def _called(state: State | None) -> str:
    return "unmarked" if state is None else state.name.lower()


def _profile(key: _ProfileKey) -> Profile:
    name, period, due_at, custody, generation = key
    kind, where = ScopeKind(name), Custody[custody.upper()]
    problem = _calendar_problem(kind, period, due_at)
    if problem is not None or period is None:
        return Profile(kind, None, where, generation, problem=problem)
    year, _, month = period.partition("-")
    start = datetime(int(year), int(month or 1), 1, tzinfo=UTC)
    latest = "~" if due_at is None else instant(moment(due_at) + CLOCKS)
    return Profile(kind, period, where, generation, instant(start - CLOCKS), latest)


def _calendar_problem(kind: ScopeKind, period: str | None, due_at: str | None) -> str | None:
    """Say what is wrong with a period or with the due date that is worked out from it."""
    form = next((shape[-1] for shape in KIND_RULES[kind].shapes if shape[-1] in {MONTH, YEAR}), None)
    if (form is None) != (period is None) or (period is not None and not _is_period(period, form)):
        return f"a {kind} scope has {'no period' if form is None else f'a period {form}'}"
    due = instant(month_due_at(period)) if form == MONTH and period is not None else None
    return None if due == due_at else f"its due_at must be {due or 'null'}"


def _is_period(period: str, form: str | None) -> bool:
    try:
        datetime.strptime(period, "%Y-%m" if form == MONTH else "%Y")  # noqa: DTZ007 - a month has no time zone
    except ValueError:
        return False
    return len(period) == len(form or "") and period >= EARLIEST


EARLIEST: Final = "1970"
"""Nothing is older than the platform's facts may be."""
