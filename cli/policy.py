"""For the security team: what the retention policy says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cli.app import App, json_option

if TYPE_CHECKING:
    from keyvault.scopes import ScopeKind
    from shredder.policy import Category, Policy


@click.group()
def policy() -> None:
    """Show the retention policy."""


@policy.command()
@json_option
@click.pass_obj
def show(app: App) -> None:
    """Show the policy of this home: what is due when, who may ask for it sooner, and what is refused.

    It is in policy.toml in the home; without one, the built-in policy holds. A policy with a mistake in it is none: the line is named, and
    nothing is destroyed by it.
    """
    from keyvault.store import system
    from shredder.policy_file import load_policy, policy_path

    app.settings()
    path = policy_path(app.home)
    found = load_policy(path)
    with app.database() as (_, database):
        stored = database.read(system.policy)
    recorded = stored is not None and stored.digest == found.digest
    app.emit({"file": None if path is None else str(path), "recorded": recorded, **_as_json(found)})
    _show(app, found, source="built in" if path is None else str(path), recorded=recorded)


def _show(app: App, found: Policy, *, source: str, recorded: bool) -> None:
    app.say(f"policy        {found.version}")
    app.say(f"file          {source}")
    app.say(f"recorded      {'yes' if recorded else 'no: the next facts, request or sweep does it'}")
    app.say(f"contact       {found.contact}")
    app.say()
    app.table(
        ("scopes", "category", "owner", "due", "sooner, if asked by", "no keys for"),
        [(str(kind), *_category(category)) for kind, category in found.categories.items()],
    )
    app.say()
    app.table(
        ("refused", "because", "to send back"),
        [(str(reason), item.text, item.reply.format(contact=found.contact)) for reason, item in found.refusals.items()],
    )
    app.say()
    app.table(("limit", ""), _limits(found))


def _category(category: Category) -> tuple[str, ...]:
    return (
        category.name,
        str(category.owner),
        _due(category),
        _asking(category),
        ", ".join(sorted(category.refused_purposes)) or "-",
    )


def _due(category: Category) -> str:
    """Say a rule in words."""
    from shredder.policy import Rule

    classes = ", ".join(f"{name} {months}" for name, months in category.classes.items())
    words = {
        Rule.CALENDAR: f"{category.months} months after the month's end",
        Rule.ACCOUNT: f"when the account is closed, or {category.grace_days} days after it lost its good standing",
        Rule.USER: f"when no access is left and {category.months} months have passed since the last sign-in",
        Rule.CONTACT: "when marked no longer valuable",
        Rule.CLASS: f"months after the year's end by class: {classes}",
    }
    return words[category.rule]


def _asking(category: Category) -> str:
    asking = ", ".join(sorted(category.early)) or "nobody"
    if category.early_types is not None:
        types = ", ".join(sorted(category.early_types)) or "none"
        return f"{asking}; while the account is active, of the types: {types}"
    return f"{asking}; single records, too" if category.records else asking


def _limits(found: Policy) -> list[tuple[str, str]]:
    limits = found.limits
    return [
        ("unconfirmed", f"{limits.scopes} scopes; {limits.percent} % of the live ones, from {limits.percent_from} on"),
        ("clock", f"stops a sweep when it is more than {limits.clock_jump_days} days ahead of the last trusted time"),
        ("answer", f"within {found.answer_days} days of a request's receipt"),
        ("approval", f"expires after {found.approval_days} days"),
        ("facts", f"what they make due waits {found.facts_days} days from their report"),
    ]


def _as_json(found: Policy) -> dict[str, object]:
    limits = found.limits
    return {
        "version": found.version,
        "digest": found.digest.hex(),
        "contact": found.contact,
        "answer_days": found.answer_days,
        "approval_days": found.approval_days,
        "facts_days": found.facts_days,
        "limits": {
            "scopes": limits.scopes,
            "percent": limits.percent,
            "percent_from": limits.percent_from,
            "clock_jump_days": limits.clock_jump_days,
        },
        "categories": {str(kind): _category_as_json(kind, category) for kind, category in found.categories.items()},
        "refusals": {
            str(reason): {"text": item.text, "reply": item.reply.format(contact=found.contact)}
            for reason, item in found.refusals.items()
        },
    }


def _category_as_json(kind: ScopeKind, category: Category) -> dict[str, object]:
    types = category.early_types
    return {
        "name": category.name,
        "scopes": ["/".join([str(kind), *shape]) for shape in _shapes(kind)],
        "owner": str(category.owner),
        "rule": str(category.rule),
        "months": category.months,
        "grace_days": category.grace_days,
        "classes": dict(category.classes),
        "early": sorted(category.early),
        "early_types": None if types is None else sorted(types),
        "records": category.records,
        "refused_purposes": sorted(category.refused_purposes),
    }


def _shapes(kind: ScopeKind) -> tuple[tuple[str, ...], ...]:
    from keyvault.scopes import KIND_RULES

    return KIND_RULES[kind].shapes
