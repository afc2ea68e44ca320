"""What many scopes have in common: kind, period, custody and generation, and whether those can be. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Final, TypeAlias

from keyvault.events import instant
from keyvault.scopes import KIND_RULES, MONTH, YEAR, ScopeKind, month_due_at
from shredder.audit.forms import CLOCKS, moment

EARLIEST: Final = "1970"
"""Nothing is older than the platform's facts may be."""
ProfileKey: TypeAlias = tuple[str, str | None, str | None, str, int]
"""Kind, period, due date, custody and generation, as `scope.created` says them."""


class Custody(IntEnum):
    """Where a scope's key is. `MOVED`: in a ring, and one of its own from before."""

    RING = 0
    DEDICATED = 1
    MOVED = 2

    @property
    def is_named(self) -> str:
        """Return what events call the custody of its newer key."""
        return "dedicated" if self is Custody.DEDICATED else "ring"


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """What many scopes have in common. `earliest` and `latest`: between which instants (texts) one may be created; `problem`: what is wrong.

    Compared by identity, which costs nothing when there are a million scopes: `Scopes` has one for each `ProfileKey`.
    """

    kind: ScopeKind
    period: str | None
    custody: Custody
    generation: int
    earliest: str = ""
    latest: str = "~"
    problem: str | None = None

    def problem_at(self, at: str) -> str | None:
        """Say what is wrong with a scope of this profile that is created at an instant."""
        if self.problem is None and not self.earliest <= at <= self.latest:
            return "it was created before its period began, or after it was due"
        return self.problem


@lru_cache(maxsize=4_096)
def profile_of(key: ProfileKey) -> Profile:
    """Return the profile that a creation states; `problem` where there can be none such."""
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
