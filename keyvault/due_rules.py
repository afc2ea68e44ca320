"""Automatic rules of a retention policy as values, and what the store counts by them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keyvault.scopes import ScopeKind

CLOSED = "closed"
"""The status of a subject of kind account that was closed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DueRule:
    """One way in which scopes of some kinds become due, and the reason code of their destruction.

    Without `subject` the calendar decides: `scopes.due_at` is not after `until`. With it, facts about that kind of subject do:
    `subjects.due_at` is not after `until`; `closed` narrows that to accounts that were closed, or to those that were not.
    `deleted_after`: only what a user deleted goes with its account, whole scopes and single records, where the calendar has not made it
    due already: its `due_at` is after this.
    """

    reason: str
    kinds: frozenset[ScopeKind]
    until: datetime
    subject: str | None = None
    closed: bool | None = None
    deleted_after: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DueCount:
    """How much of a kind became due in a month (`2026-11`, UTC)."""

    kind: ScopeKind
    month: str
    count: int
