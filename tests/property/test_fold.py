"""Random legal histories have nothing wrong, and one change that matters in any of them is found."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shredder.audit.fold import Fold
from shredder.audit.scopes import State
from tests.entries import Entries, name32, shown, tag

ABSENT = {"key": "absent", "neighbour": "none", "retained_ciphertext": "refused"}
PUNCTURED = {**ABSENT, "key": "punctured"}


class History:
    """A random history, and what is true of its scopes."""

    def __init__(self, choices: st.DataObject) -> None:
        self._choices = choices
        self.log = Entries()
        self.log.policy()
        self.custody: dict[str, str] = {}
        self.state: dict[str, State] = {}
        self.fences: dict[str, dict[str, Any]] = {}
        self.deleted: set[tuple[str, str]] = set()

    def pick(self, *states: State) -> str | None:
        names = [name for name, state in self.state.items() if state in states]
        return self._choices.draw(st.sampled_from(names)) if names else None

    def create(self) -> None:
        name = f"s{len(self.state)}"
        custody = self._choices.draw(st.sampled_from(["ring", "dedicated"]))
        month = self._choices.draw(st.booleans())
        self.log.created(
            name,
            account=name32(f"account {name}"),
            custody=custody,
            kind="communications" if month else "consumer",
            period="2026-11" if month else None,
        )
        self.custody[name], self.state[name] = custody, State.ACTIVE

    def suspend(self) -> None:
        if (name := self.pick(State.ACTIVE)) is not None:
            self.log.of_scope("scope.suspended", name)
            self.state[name] = State.SUSPENDED

    def resume(self) -> None:
        if (name := self.pick(State.SUSPENDED)) is not None:
            self.log.of_scope("scope.resumed", name)
            self.state[name] = State.ACTIVE

    def migrate(self) -> None:
        name = self.pick(State.ACTIVE, State.SUSPENDED)
        if name is not None and self.custody[name] == "dedicated":
            self.log.of_scope("scope.migrated", name, custody="ring", placement="A" * 40)
            self.custody[name] = "moved"

    def fence(self) -> None:
        name = self.pick(State.ACTIVE, State.SUSPENDED)
        if name is None:
            return
        how = self._choices.draw(st.sampled_from(["alone", "request", "break-glass"]))
        destroy = f"d-{name}"
        if how == "alone":
            self.fences[name] = self.log.fenced(name, destroy=destroy)
        else:
            urgent = how == "break-glass"
            received = self.log.received(
                f"r-{name}", [name], break_glass=urgent, state="approved" if urgent else "awaiting-approval"
            )
            if not urgent:
                self.log.approved(received)
            said: dict[str, Any] = {"approvals": 1, "approved_by": None} if urgent else {}
            self.fences[name] = self.log.fenced_for(received, name, destroy=destroy, **said)
        self.state[name] = State.FENCED

    def close(self) -> None:
        """Close an account, and let the sweep destroy what goes with it."""
        name = self.pick(State.ACTIVE, State.SUSPENDED)
        if name is None or self.log_kind(name) != "consumer":
            return
        self.log.facts(("account", f"account {name}", "closed"))
        self.fences[name] = self.log.swept(name, reason="account-closed", destroy=f"d-{name}")
        self.state[name] = State.FENCED

    def finish(self) -> None:
        if (name := self.pick(State.FENCED)) is not None:
            custody = self.custody[name]
            proof = {"ring": PUNCTURED, "dedicated": ABSENT, "moved": {**PUNCTURED, "former": ABSENT}}[custody]
            named = "dedicated" if custody == "dedicated" else "ring"
            self.log.destroyed(name, fence=self.fences[name], custody=[named], proof=proof)
            self.state[name] = State.DESTROYED

    def wait(self) -> None:
        self.log.at += timedelta(minutes=1)

    def delete_record(self) -> None:
        name = self.pick(State.ACTIVE, State.SUSPENDED)
        if name is not None and self.log_kind(name) == "communications":
            record = f"r{len(self.deleted)}"
            self.log.of_scope("record.suspended", name, records=[tag(record)])
            self.deleted.add((name, record))

    def log_kind(self, name: str) -> str:
        return next(str(event["kind"]) for event in self.log.events if event.get("scope") == name32(name))


STEPS = [
    "create",
    "create",
    "suspend",
    "resume",
    "migrate",
    "fence",
    "close",
    "finish",
    "finish",
    "wait",
    "delete_record",
]


def lived(choices: st.DataObject) -> History:
    history = History(choices)
    for step in choices.draw(st.lists(st.sampled_from(STEPS), max_size=30)):
        getattr(history, step)()
    return history


@given(choices=st.data())
@settings(max_examples=60, deadline=None)
def test_a_legal_history_has_nothing_wrong(choices: st.DataObject) -> None:
    history = lived(choices)
    ledger = history.log.ledger()
    assert not ledger.findings, shown(ledger.findings)
    states = list(history.state.values())
    assert ledger.created == len(states)
    assert ledger.destroyed == states.count(State.DESTROYED)
    assert {pending.scope for pending in ledger.pending} == {
        name32(name) for name, state in history.state.items() if state is State.FENCED
    }
    assert ledger.created == ledger.destroyed + len(ledger.pending) + ledger.live


@given(choices=st.data(), cut=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_how_entries_are_bundled_changes_nothing(choices: st.DataObject, cut: int) -> None:
    log = lived(choices).log
    fold = Fold()
    for first in range(0, len(log.bytes), cut):
        fold.add_bundle(first, log.bytes[first : first + cut])
    assert fold.finish(at=log.at).findings == log.ledger().findings == []


NEEDED = {"scope.created", "destroy.fenced", "policy.changed"}
"""What a destruction that comes later rests on."""


@given(choices=st.data())
@settings(max_examples=60, deadline=None)
def test_one_change_is_found_and_named(choices: st.DataObject) -> None:
    history = lived(choices)
    events = history.log.events
    for name in [name for name, state in history.state.items() if state is not State.DESTROYED]:
        if history.state[name] is not State.FENCED:
            history.fences[name] = history.log.fenced(name, destroy=f"d-{name}")
            history.state[name] = State.FENCED
    while State.FENCED in history.state.values():
        history.finish()
    assert not history.log.codes()
    index = choices.draw(st.integers(0, len(events) - 1))
    event = events[index]
    change = choices.draw(st.sampled_from(["drop", "twice", "last", "first", "other scope"]))
    if change == "drop" and event["type"] in NEEDED and (index or len(history.log.bytes) > 1):
        del events[index]
    elif change == "last" and event["type"] in {"scope.created", "destroy.fenced"}:
        events.append(events.pop(index))
    elif change == "first" and event["type"] in {"destroy.fenced", "key.destroyed", "scope.suspended", "scope.resumed"}:
        events.insert(0, events.pop(index))
    elif change == "other scope" and "scope" in event:
        event["scope"] = name32("nobody")
    elif change == "other scope" and "scopes" in event and isinstance(event["scopes"], list):
        event["scopes"] = [name32("nobody")]
    else:
        events.insert(index, dict(event))
    assert history.log.codes() or rests_on_nothing(event, history)


def rests_on_nothing(event: dict[str, Any], history: History) -> bool:
    """Tell whether a policy is the log's only one and no rule or request rests on it."""
    return event["type"] == "policy.changed" and all(other["policy"] == "builtin/1" for other in history.log.events)
