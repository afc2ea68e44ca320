"""Subjects: the accounts, users, marketing contacts and business years whose facts decide over scopes. Pure.

A subject is known by its pseudonym, `SystemKeys.pseudonym_of(kind, id)`, 32 bytes; `Scope.subject` gives kind and id.
"""

from __future__ import annotations

from enum import StrEnum

from keyvault.scopes import SUBJECTS, ScopeKind


class SubjectKind(StrEnum):
    """What a subject is, as `keyvault.scopes.SUBJECTS` spells it."""

    ACCOUNT = "account"
    USER = "user"
    CONTACT = "contact"
    BUSINESS = "business"


class AccountStatus(StrEnum):
    """What the facts about an account come to; an account without facts counts as active."""

    ACTIVE = "active"
    LAPSED = "lapsed"
    CLOSED = "closed"


FOLLOW_STANDING = frozenset(kind for kind in SUBJECTS if kind is not ScopeKind.COMMUNICATIONS)
"""Kinds of scope that are suspended with their subject. Communication records are due by the calendar alone (design, section 5)."""
