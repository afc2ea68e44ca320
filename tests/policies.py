"""The built-in policy for tests, with what a test changes of it."""

from __future__ import annotations

from dataclasses import replace

from keyvault.scopes import ScopeKind
from shredder.policy import Limits, Policy
from shredder.policy_file import load_policy

UNLIMITED = Limits(scopes=10**9, percent=100, percent_from=10**9, clock_jump_days=2)


def built_in(*, limits: Limits | None = None, months: int | None = None) -> Policy:
    """Return the built-in policy; `months`: for how long communication records are kept."""
    policy = load_policy(None)
    categories = dict(policy.categories)
    if months is not None:
        communications = categories[ScopeKind.COMMUNICATIONS]
        categories[ScopeKind.COMMUNICATIONS] = replace(communications, months=months)
    return replace(policy, limits=limits or policy.limits, categories=categories)
