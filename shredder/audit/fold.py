"""The completeness fold: all entries of a log in order, and everything that they show together. Pure.

Given every entry, it decides what the log alone can: created = destroyed + pending + live; each destruction has its fence, its evidence and its
cause; nothing that is due is live. Each thing that is wrong is a finding that names the entry.

What it cannot know, and so cannot find changed: what nothing else refers to (the time of an event by less than an hour, its id, a pseudonym
of an account without facts, a sealed value, an erasure's id, the program's version); whether a sealed value opens; and what the platform
never reported. Whose signature is under the log says whether any of that was changed since (`shredder.log`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from keyvault.events import POLICY_VERSION
from keyvault.scopes import ScopeKind
from shredder.audit import events
from shredder.audit.causes import Causes
from shredder.audit.columns import Column, column_of
from shredder.audit.creations import Creations
from shredder.audit.destructions import Destructions, Pending
from shredder.audit.due import Due, Facts, Policies
from shredder.audit.events import Event
from shredder.audit.finding import Finding, Findings
from shredder.audit.forms import CLOCK_STEP, moment
from shredder.audit.inventory import Attested, Inventory
from shredder.audit.reading import Read, entries_of, read_bundle
from shredder.audit.scopes import Scopes, State
from shredder.audit.tokens import Tokens

GRACE: Final = timedelta(days=2)
"""How long what is due may be live: a sweep runs once a day."""
UUID_LENGTH: Final = 36
BUILTIN_ONLY: Final = frozenset(
    [
        "scope.migrated",
        "record.suspended",
        "record.resumed",
        "key.destroyed",
        "record.destroyed",
        "destroy.failed",
        "unused_keys.deleted",
        "ring.changed",
        "slots.fenced",
        "slots.destroyed",
        "token.issued",
        "token.revoked",
    ]
)
"""Types that rest on no rule of the home's policy; those of creations are looked at with their forms."""
IN_FORCE_ONLY: Final = frozenset(
    [
        "policy.changed",
        "facts.recorded",
        "request.received",
        "request.listed",
        "request.moved",
        "request.refused",
        "request.approved",
        "request.cancelled",
    ]
)
"""Types that rest on the home's policy."""


class Month(NamedTuple):
    """An account-month of the population: its commitment (32 bytes, base64url), period (`2026-11`), account's pseudonym, state, entry."""

    commitment: str
    period: str
    account: str
    state: State
    entry: int


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What the whole log comes to at an instant.

    `live` counts what is neither destroyed nor fenced, so that created = live + pending + destroyed. `pending`: fenced, and not proven
    gone yet. `without_request`: destructions that somebody ran without a request. `owed`: ids of requests that were executed under
    break-glass and that nobody has signed. `lost`: ids of destructions that a rebuilt database fenced anew, and whose cause was lost with
    the former. `attested`: what the engine listed last.
    """

    at: datetime
    entries: int
    findings: Sequence[Finding]
    created: int
    destroyed: int
    live: int
    records_destroyed: int
    pending: Sequence[Pending]
    without_request: int
    owed: Sequence[str]
    lost: Sequence[str]
    policy: str
    attested: Attested | None
    scopes: Scopes

    def months(self) -> Iterator[Month]:
        """Give every account-month that was ever created."""
        for number, profile in enumerate(self.scopes.profiles):
            if profile.kind is ScopeKind.COMMUNICATIONS:
                yield Month(
                    self.scopes.commitments[number],
                    profile.period or "",
                    self.scopes.accounts[number],
                    State(self.scopes.states[number]),
                    self.scopes.created[number],
                )


class Fold:
    """Takes in entries in the order of the log, from the first."""

    def __init__(self, *, grace: timedelta = GRACE) -> None:
        """`grace`: how long what is due may be live."""
        self._grace = grace
        self._findings = Findings()
        self._next = 0
        self._ids = Column(UUID_LENGTH)
        self._before = ""
        self._scopes = Scopes(self._findings)
        self._policies = Policies(self._findings)
        self._facts = Facts(self._findings, self._policies)
        self._due = Due(self._scopes, self._policies, self._facts)
        self._causes = Causes(self._findings, self._scopes, self._policies, self._due)
        self._destructions = Destructions(self._findings, self._scopes, self._causes)
        self._inventory = Inventory(self._findings, self._scopes)
        self._tokens = Tokens(self._findings)
        self._takers = self._taken_by()

    def _taken_by(self) -> Mapping[type[Event], Callable[[Any], None]]:
        return {
            events.ScopeSuspended: self._suspend,
            events.ScopeResumed: self._scopes.resume,
            events.ScopeMigrated: self._scopes.migrate,
            events.RecordSuspended: self._scopes.suspend_records,
            events.RecordResumed: self._scopes.resume_records,
            events.DestroyFenced: self._destructions.fence,
            events.KeyDestroyed: self._destructions.destroy,
            events.RecordDestroyed: self._destructions.destroy_records,
            events.DestroyFailed: self._destructions.fail,
            events.UnusedKeysDeleted: lambda event: self._scopes.check_order(event.keys),
            events.PolicyChanged: self._policies.change,
            events.FactsRecorded: self._facts.record,
            events.RequestReceived: self._causes.receive,
            events.RequestListed: self._causes.list_,
            events.RequestMoved: self._causes.move,
            events.RequestRefused: lambda event: self._causes.refuse(event, self._destructions.numbers),
            events.RequestApproved: self._causes.approve,
            events.RequestCancelled: self._causes.cancel,
            events.RingChanged: self._inventory.change,
            events.SlotsFenced: self._inventory.fence,
            events.SlotsDestroyed: self._inventory.destroy,
            events.InventoryAttested: self._inventory.attest,
            events.TokenIssued: self._tokens.issue,
            events.TokenRevoked: self._tokens.revoke,
        }

    @property
    def entries(self) -> int:
        """Return how many entries were taken in."""
        return self._next

    def add(self, index: int, entry: bytes) -> None:
        """Take in one entry. `ValueError` when it is not the next of the log."""
        self.add_bundle(index, [entry])

    def add_bundle(self, first: int, entries: Sequence[bytes]) -> None:
        """Take in entries from index `first` on. `ValueError` when they are not the next of the log."""
        self.add_read(first, read_bundle(first, entries))

    def add_read(self, first: int, read: Sequence[Read]) -> None:
        """Take in what entries from index `first` on say, as `read_bundle` gives it. `ValueError` when they are not the next of the log."""
        if first != self._next:
            raise ValueError(f"entry {first} is not the next one: {self._next} is")
        self._findings.found += [item for item in read if isinstance(item, Finding)]
        for item in read:
            self._findings.entry = self._next
            self._next += entries_of(item)
            if isinstance(item, Creations):
                self._create(item)
            elif isinstance(item, Finding):
                self._ids.skip()
            else:
                self._take(item)

    def _create(self, run: Creations) -> None:
        self._ids.extend(run.events)
        self._check_clock(run.first_at)
        self._before = run.last_at
        self._scopes.create(run)

    def _take(self, event: Event) -> None:
        self._ids.extend(column_of([event.id]))
        self._check_clock(event.at)
        self._before = event.at
        self._takers[type(event)](event)
        self._check_policy(event)

    def _check_clock(self, at: str) -> None:
        if at < self._before and moment(at) < moment(self._before) - CLOCK_STEP:
            self._findings.add("clock-went-back", f"it was made at {at}, and the entry before it at {self._before}")

    def _suspend(self, event: events.ScopeSuspended) -> None:
        number = self._scopes.suspend(event)
        if event.cause == "user" and event.policy != POLICY_VERSION:
            self._findings.add(
                "other-policy", f"a user's deletion rests on policy {event.policy!r}, and on none that is in force"
            )
        if number is not None and event.cause == "facts" and not self._due.may_be_withheld(number, moment(event.at)):
            self._findings.add("no-cause", f"scope {event.scope} is suspended by facts, and none before it says so")

    def _check_policy(self, event: Event) -> None:
        if event.policy == POLICY_VERSION and event.type not in IN_FORCE_ONLY:
            return
        version = POLICY_VERSION if event.type in BUILTIN_ONLY else self._policies.current.version
        if event.policy != version and not isinstance(
            event, events.DestroyFenced
        ):  # a fence's is looked at with its cause
            self._findings.add("other-policy", f"it rests on policy {event.policy!r}, and {version!r} is what it must")

    def finish(self, *, at: datetime) -> Ledger:
        """Return what the log comes to at `at` (aware, UTC): by then a sweep has had time to destroy what is due."""
        if self._before and moment(self._before) > at + CLOCK_STEP:
            self._findings.add(
                "clock-went-back",
                f"the log's last entry was made at {self._before}, after the time of this verification",
            )
        for index in self._ids.repeated():
            self._findings.add("id-used-twice", f"event {self._ids[index]} is in the log before", entry=index)
        self._scopes.check_ids()
        self._scopes.check_generations()
        self._causes.finish(self._next)
        self._inventory.finish()
        self._check_due(at)
        states = self._scopes.states
        return Ledger(
            at=at,
            entries=self._next,
            findings=self._findings.found,
            created=len(self._scopes),
            destroyed=states.count(State.DESTROYED),
            live=states.count(State.ACTIVE) + states.count(State.SUSPENDED),
            records_destroyed=self._destructions.records_destroyed,
            pending=list(self._destructions.pending()),
            without_request=self._causes.without_request,
            owed=self._causes.owed(),
            lost=self._causes.lost,
            policy=self._policies.current.version,
            attested=self._inventory.last,
            scopes=self._scopes,
        )

    def _check_due(self, at: datetime) -> None:
        for number, tag, since in self._due.overdue(at - self._grace):
            scope = f"scope {self._scopes.commitments[number]}"
            what = f"record {tag} of {scope}" if tag else scope
            message = f"{what} has been due since {since.isoformat()}, and is live"
            self._findings.add("overdue", message, entry=self._scopes.created[number])
