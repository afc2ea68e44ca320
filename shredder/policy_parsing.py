"""Reading the retention policy from its TOML text: complete, within bounds, and free of contradictions, or not at all. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from string import Formatter
from types import MappingProxyType

from keyvault.errors import InvalidScopeError
from keyvault.scopes import KIND_RULES, MONTH, RETENTION_MONTHS, SUBJECTS, Scope, ScopeKind
from shredder.policy import Category, Limits, Owner, Policy, Reason, Refusal, Requester, Rule
from shredder.toml_entries import MAX_NAME, MAX_NAMES, Entries

MAX_MONTHS = 1_200  # a hundred years: beyond that it is a slip of the pen
MAX_DAYS = 3_650
MAX_ANSWER_DAYS = 365
MAX_SCOPES = 1_000_000_000

NEEDS: Mapping[Rule, str | None] = MappingProxyType(
    {
        Rule.CALENDAR: "months",
        Rule.ACCOUNT: "grace_days",
        Rule.USER: "months",
        Rule.CONTACT: None,
        Rule.CLASS: "classes",
    }
)
"""What each rule counts by."""

RULE_OF_SUBJECT: Mapping[str, Rule] = MappingProxyType(
    {"account": Rule.ACCOUNT, "user": Rule.USER, "contact": Rule.CONTACT, "business": Rule.CLASS}
)

MAY_ASK: Mapping[Owner, frozenset[Requester]] = MappingProxyType(
    {
        Owner.CUSTOMER: frozenset({Requester.CUSTOMER}),
        Owner.COMPANY: frozenset({Requester.COMPANY, Requester.INDIVIDUAL, Requester.USER}),
    }
)
"""Who can be let ask at all: over a customer's data nobody but the customer; a consumer never (`consumer-direct`)."""

_CLASS_NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{MAX_NAME - 1}}}")
_CATEGORY_KEYS = (
    *("name", "owner", "rule", "months", "grace_days", "classes"),
    *("early", "early_types", "records", "refused_purposes"),
)


def parse_policy(text: str, source: str) -> Policy:
    """Read a policy. `ConfigurationError` naming `source`, the line and the key of the first thing that is wrong."""
    root = Entries.parse(text, source)
    root.only("version", "contact", "answer_days", "approval_days", "facts_days", "limits", "categories", "refusals")
    return Policy(
        version=root.text("version", most=MAX_NAME),
        contact=root.text("contact"),
        answer_days=root.number("answer_days", most=MAX_ANSWER_DAYS),
        approval_days=root.number("approval_days", most=MAX_ANSWER_DAYS),
        facts_days=root.number("facts_days", most=MAX_ANSWER_DAYS),
        limits=_limits(root.table("limits")),
        categories=_categories(root.table("categories")),
        refusals=_refusals(root.table("refusals")),
        digest=hashlib.sha256(text.encode()).digest(),
    )


def _limits(entries: Entries) -> Limits:
    entries.only("scopes", "percent", "percent_from", "clock_jump_days")
    return Limits(
        scopes=entries.number("scopes", most=MAX_SCOPES),
        percent=entries.number("percent", most=100),
        percent_from=entries.number("percent_from", most=MAX_SCOPES),
        clock_jump_days=entries.number("clock_jump_days", most=MAX_ANSWER_DAYS),
    )


def _categories(entries: Entries) -> Mapping[ScopeKind, Category]:
    entries.only(*ScopeKind)
    return MappingProxyType({kind: _category(entries.table(kind), kind) for kind in ScopeKind})


def _category(entries: Entries, kind: ScopeKind) -> Category:
    entries.only(*_CATEGORY_KEYS)
    owner, rule = entries.choice("owner", Owner), _rule(entries, kind)
    needed = NEEDS[rule]
    for unused in {"months", "grace_days", "classes"} - {needed}:
        if unused in entries.values:
            raise entries.wrong(unused, f'does not go with rule = "{rule}"')
    early = _early(entries, owner)
    return Category(
        name=entries.text("name"),
        owner=owner,
        rule=rule,
        months=_months(entries, kind) if needed == "months" else None,
        grace_days=entries.number("grace_days", most=MAX_DAYS) if needed == "grace_days" else None,
        classes=_classes(entries.table("classes")) if needed == "classes" else MappingProxyType({}),
        early=early,
        early_types=_early_types(entries, kind, early),
        records=_records(entries, kind, early),
        refused_purposes=_refused_purposes(entries, kind),
    )


def _rule(entries: Entries, kind: ScopeKind) -> Rule:
    """Return the rule, which a kind's period or the facts about its subjects leave no choice about."""
    rule = entries.choice("rule", Rule)
    fitting = Rule.CALENDAR if _has_months(kind) else RULE_OF_SUBJECT[SUBJECTS[kind]]
    if rule is not fitting:
        why = "has no month to count from" if rule is Rule.CALENDAR else f'is decided by rule = "{fitting}"'
        raise entries.wrong("rule", f'cannot be "{rule}": a {kind} scope {why}')
    return rule


def _months(entries: Entries, kind: ScopeKind) -> int:
    if not _has_months(kind):
        return entries.number("months", most=MAX_MONTHS)
    return entries.number("months", most=RETENTION_MONTHS, because=f"no {kind} are kept longer")


def _classes(entries: Entries) -> Mapping[str, int]:
    for name in entries.values:
        if not _CLASS_NAME.fullmatch(name):
            raise entries.wrong(name, "is no name for a class: use small letters, digits, '-' and '_', 64 at most")
    if not 1 <= len(entries.values) <= MAX_NAMES:
        raise entries.wrong(None, f"must name 1 to {MAX_NAMES} classes")
    return MappingProxyType({name: entries.number(name, most=MAX_MONTHS) for name in entries.values})


def _early(entries: Entries, owner: Owner) -> frozenset[Requester]:
    early = entries.choices("early", Requester)
    if Requester.CONSUMER in early:
        raise entries.wrong("early", 'cannot name "consumer": no request is taken from a consumer directly')
    if excluded := sorted(early - MAY_ASK[owner]):
        raise entries.wrong("early", f'cannot name "{excluded[0]}": the owner is the {owner}')
    return early


def _early_types(entries: Entries, kind: ScopeKind, early: frozenset[Requester]) -> frozenset[str] | None:
    typed = kind is ScopeKind.CUSTOMER
    if "early_types" not in entries.values and not (typed and early):
        return None
    types = entries.names("early_types")
    if not typed:
        raise entries.wrong("early_types", f"does not go with {kind} scopes, which have no types")
    if not early:
        raise entries.wrong("early_types", "says for what, and `early` names nobody who may ask")
    for name in types:
        try:
            Scope.of(kind, "ACCOUNT", name)
        except InvalidScopeError as error:
            raise entries.wrong("early_types", f"lists what cannot stand in a scope's name: {error}") from error
    return types


def _records(entries: Entries, kind: ScopeKind, early: frozenset[Requester]) -> bool:
    records = "records" in entries.values and entries.flag("records")
    if records and not _has_months(kind):
        raise entries.wrong("records", f"does not go with {kind} scopes, which have no records of their own")
    if records and not early:
        raise entries.wrong("records", "can be asked for by nobody: `early` is empty")
    return records


def _refused_purposes(entries: Entries, kind: ScopeKind) -> frozenset[str]:
    purposes = entries.names("refused_purposes") if "refused_purposes" in entries.values else frozenset()
    if missing := sorted(KIND_RULES[kind].refused_purposes - purposes):
        raise entries.wrong("refused_purposes", f'must name "{missing[0]}": {kind} scopes are never used for that')
    return purposes


def _refusals(entries: Entries) -> Mapping[Reason, Refusal]:
    entries.only(*Reason)
    return MappingProxyType({reason: _refusal(entries.table(reason)) for reason in Reason})


def _refusal(entries: Entries) -> Refusal:
    entries.only("text", "reply")
    return Refusal(text=_sentence(entries, "text"), reply=_sentence(entries, "reply"))


def _sentence(entries: Entries, name: str) -> str:
    sentence = entries.text(name)
    try:
        holes = {hole[1:] for hole in Formatter().parse(sentence) if hole[1] is not None}
    except ValueError as error:
        raise entries.wrong(name, f"has a brace too many or too few: {error}") from error
    if not holes <= {("contact", "", None)}:
        raise entries.wrong(name, "has a placeholder other than {contact}")
    return sentence


def _has_months(kind: ScopeKind) -> bool:
    return all(MONTH in shape for shape in KIND_RULES[kind].shapes)
