"""Facts and the policy they are judged by, as events make them. Pure.

What facts come to is not in the log: it is worked out anew, by the policy that was in force last, once all facts are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from keyvault.events import EventType
from keyvault.scopes import REFUSED_PURPOSES, ScopeKind
from keyvault.store.facts import FactRow
from keyvault.store.system import PolicyRow
from keyvault.subjects import SubjectKind
from shredder.facts import Fact, FactType, merge
from shredder.policy import Category, Policy, Rule
from shredder.rebuild.entries import Entry


class FactTables:
    """What a batch of entries makes of facts: by subject, all that is known. `kinds`: of subjects that entries name. Raises `LogError`."""

    def __init__(self, known: Mapping[bytes, list[FactRow]]) -> None:
        """`known`: what the database has of what `references` names."""
        self.kinds: dict[bytes, SubjectKind] = {}
        self.added: list[FactRow] = []
        self.removed: list[FactRow] = []
        self._before = known
        self._now = {subject: {_key(row): row for row in rows} for subject, rows in known.items()}

    def apply(self, entry: Entry) -> None:
        """Take `facts.recorded` up; anything else changes nothing."""
        if entry.type != EventType.FACTS_RECORDED:
            return
        for item in _facts(entry):
            row = _row(entry, item)
            self.kinds[row.subject] = _subject_kind(entry, item)
            rows = self._now.setdefault(row.subject, {})
            added, superseded = merge([_fact(other) for other in rows.values()], [_fact(row)])
            for fact in superseded:
                del rows[fact.key]
            if added:
                rows[_key(row)] = row

    def settle(self) -> FactTables:
        """Work out which rows the database lacks, and which are to go; return this."""
        for subject, rows in self._now.items():
            before = {_key(row): row for row in self._before.get(subject, ())}
            self.added += [row for key, row in rows.items() if key not in before]
            self.removed += [row for key, row in before.items() if key not in rows]
        return self


def references(entries: Iterable[Entry]) -> set[bytes]:
    """Return the subjects that entries are about."""
    return {
        entry.decoded(item["subject"])
        for entry in entries
        if entry.type == EventType.FACTS_RECORDED
        for item in _facts(entry)
    }


def policy_of(entry: Entry, built_in: Policy) -> Policy:
    """Return the policy of `policy.changed`, as far as facts are judged by it; the rest is that of the built-in one."""
    try:
        given: Mapping[str, Any] = entry.fields["categories"]
        categories = {ScopeKind(name): _category(built_in, name, numbers) for name, numbers in given.items()}
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise entry.wrong("its categories are not known here") from error
    return replace(built_in, version=entry.text("version"), digest=entry.data("digest"), categories=categories)


def policy_row(policy: Policy) -> PolicyRow:
    """Return what the database keeps of a policy."""
    refused = {kind: category.refused_purposes for kind, category in policy.categories.items()}
    return PolicyRow(version=policy.version, digest=policy.digest, refused_purposes={**REFUSED_PURPOSES, **refused})


def _category(built_in: Policy, name: str, numbers: Mapping[str, Any]) -> Category:
    return replace(
        built_in.categories[ScopeKind(name)],
        rule=Rule(numbers["rule"]),
        months=numbers["months"],
        grace_days=numbers["grace_days"],
        classes=dict(numbers["classes"]),
        refused_purposes=frozenset(numbers["refused_purposes"]),
    )


def _facts(entry: Entry) -> list[Mapping[str, str]]:
    facts = entry.fields.get("facts")
    if not isinstance(facts, list) or not all(isinstance(item, dict) for item in facts):
        raise entry.wrong("its facts are no list")
    return facts


def _row(entry: Entry, item: Mapping[str, str]) -> FactRow:
    try:
        return FactRow(
            subject=entry.decoded(item["subject"]),
            type=FactType(item["type"]),
            detail=item["detail"],
            at=entry.instant(item["at"]),
            reported_at=entry.at,
            not_before=entry.moment("not_before"),
        )
    except (LookupError, ValueError) as error:
        raise entry.wrong("a fact in it is not known here") from error


def _subject_kind(entry: Entry, item: Mapping[str, str]) -> SubjectKind:
    try:
        return SubjectKind(item["kind"])
    except (LookupError, ValueError) as error:
        raise entry.wrong("a subject in it is of a kind that is not known here") from error


def _fact(row: FactRow) -> Fact:
    return Fact(type=FactType(row.type), detail=row.detail, at=row.at, not_before=row.not_before)


def _key(row: FactRow) -> tuple[str, str, Any]:
    return _fact(row).key
