"""The retention policy as data: who owns what, when it goes by itself, who may ask for it sooner, and what is refused. Pure.

The built-in policy is `policy.toml` beside this module; a home may hold one of its own. What code decides, it looks up here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from keyvault.scopes import ScopeKind


class Requester(StrEnum):
    """On whose behalf a request is made."""

    CUSTOMER = "customer"
    CONSUMER = "consumer"
    INDIVIDUAL = "individual"
    COMPANY = "company"
    USER = "user"


class RequestKind(StrEnum):
    """What a request asks for. `ANONYMIZE` and `DELETE` destroy keys; `UNDELETE` resumes what was suspended; the others are refused."""

    ANONYMIZE = "anonymize"
    DELETE = "delete"
    EXTEND = "extend"
    HOLD = "hold"
    RESTORE = "restore"
    UNDELETE = "undelete"


class Owner(StrEnum):
    """Who decides over a category's data."""

    CUSTOMER = "customer"
    COMPANY = "company"


class Rule(StrEnum):
    """What makes a category's scopes due by themselves: the calendar, or facts about an account, user, contact or business year."""

    CALENDAR = "calendar"
    ACCOUNT = "account"
    USER = "user"
    CONTACT = "contact"
    CLASS = "class"


class Reason(StrEnum):
    """Why a request is not carried out (or, `AWAITING_BILLING`, not yet)."""

    CONSUMER_DIRECT = "consumer-direct"
    EXTENSION = "extension"
    LEGAL_HOLD = "legal-hold"
    RESTORE_FROM_BACKUP = "restore-from-backup"
    NOT_ENTITLED = "not-entitled"
    AWAITING_BILLING = "awaiting-billing"
    ACTIVE_ACCOUNT = "active-account"
    ACCOUNT_INACTIVE = "account-inactive"
    RETENTION_REQUIRED = "retention-required"
    UNKNOWN_SCOPE = "unknown-scope"
    ALREADY_DESTROYED = "already-destroyed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """What holds for one kind of scope.

    `months`: with `Rule.CALENDAR` after the period's last instant, with `Rule.USER` since the last sign-in. `grace_days`: with
    `Rule.ACCOUNT`, from the loss of good standing. `classes`: with `Rule.CLASS`, months after the year's last instant by class.
    `early`: who may ask for destruction sooner; `early_types` narrows that, while the account is active, to scopes of these types (None:
    to none). `records`: single records can be asked for.
    """

    name: str
    owner: Owner
    rule: Rule
    months: int | None = None
    grace_days: int | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    early: frozenset[Requester] = frozenset()
    early_types: frozenset[str] | None = None
    records: bool = False
    refused_purposes: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A refusal in the policy's words: `text` for whoever works here, `reply` to send back."""

    text: str
    reply: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request or sweep may destroy without its exact count as confirmation, and how far the clock may have run ahead."""

    scopes: int
    percent: int
    percent_from: int
    clock_jump_days: int

    def needs_confirmation(self, count: int, live: int) -> bool:
        """Tell whether destroying `count` of `live` scopes is more than goes unconfirmed."""
        return count > self.scopes or (live >= self.percent_from and count * 100 > live * self.percent)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A whole policy. `digest`: SHA-256 of the file it was read from, 32 bytes."""

    version: str
    contact: str
    answer_days: int
    approval_days: int
    facts_days: int
    limits: Limits
    categories: Mapping[ScopeKind, Category]
    refusals: Mapping[Reason, Refusal]
    digest: bytes
