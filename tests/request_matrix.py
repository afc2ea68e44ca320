"""Every case that a request can meet, and the policy's answer. `python -m tests.request_matrix` writes docs/request-matrix.md anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from keyvault.scopes import ScopeKind
from keyvault.subjects import AccountStatus
from shredder.entitlement import ACCOUNT_KINDS, Decision, Situation, Standing, Target, Verdict, decide
from shredder.policy import Policy, Requester, RequestKind
from shredder.policy_file import load_policy

PAGE = Path(__file__).parents[1] / "docs" / "request-matrix.md"
HEAD = """# Every request and its answer

By the built-in policy, for every kind of scope, requester, kind of request and situation. This page is generated: `python -m
tests.request_matrix` writes it, and `tests/unit/test_entitlement.py` compares it, and every case, with a second statement of the policy.

A column is a requester. **yes**: carried out (where two people are required, once approved); *waits*: carried out by itself once the
usage is billed; else the code of the refusal. A row names the target (a scope, records of one, a whole account) and in which states of
it, of the account and of billing the answers hold; a slash stands for "or". An account of which nothing was reported is active.

"""


def situations(kind: ScopeKind) -> Iterator[Situation]:
    """Yield every situation that a scope of a kind can be in."""
    belongs = kind in ACCOUNT_KINDS
    targets = [Target.SCOPE]
    if belongs:
        targets.append(Target.ACCOUNT)
    if kind is ScopeKind.COMMUNICATIONS:
        targets.append(Target.RECORDS)
    accounts = tuple(AccountStatus) if belongs else (AccountStatus.ACTIVE,)
    billed = (False, True) if belongs else (False,)
    types = (False, True) if kind is ScopeKind.CUSTOMER else (False,)
    for target, standing, account, paid, early in product(targets, Standing, accounts, billed, types):
        yield Situation(standing=standing, target=target, account=account, billed=paid, early_type=early)


def answer(verdict: Verdict) -> str:
    """Write a verdict as the page does."""
    if verdict.decision is Decision.CARRY_OUT:
        return "**yes**"
    return "*waits*" if verdict.decision is Decision.WAIT else str(verdict.reason)


def page(policy: Policy) -> str:
    """Return the page's text."""
    parts = [HEAD]
    for kind in ScopeKind:
        parts.append(f"## `{kind}`: {policy.categories[kind].name}\n")
        parts += [f"\n**{request}**\n\n{_table(policy, kind, request)}" for request in RequestKind]
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def _table(policy: Policy, kind: ScopeKind, request: RequestKind) -> str:
    rows: dict[tuple[Target, tuple[str, ...]], list[Situation]] = {}
    for situation in situations(kind):
        answers = tuple(
            answer(decide(policy, kind=kind, requester=requester, request=request, situation=situation))
            for requester in Requester
        )
        rows.setdefault((situation.target, answers), []).append(situation)
    lines = [f"| situation | {' | '.join(Requester)} |", f"|---|{'---|' * len(Requester)}"]
    if len({answers for _, answers in rows}) == 1:
        return "\n".join([*lines, f"| any | {' | '.join(next(iter(rows))[1])} |"]) + "\n"
    for (target, answers), found in sorted(rows.items(), key=lambda item: (list(Target).index(item[0][0]), item[0][1])):
        prefix = f"{target}: " if kind in ACCOUNT_KINDS else ""
        lines.append(f"| {prefix}{'; '.join(_described(kind, found))} | {' | '.join(answers)} |")
    return "\n".join(lines) + "\n"


def _described(kind: ScopeKind, found: list[Situation]) -> list[str]:
    """Name situations, those together that differ in nothing but one thing."""
    texts: dict[tuple[str, ...], list[str]] = {}
    for situation in found:
        rest: list[str] = []
        if kind in ACCOUNT_KINDS:
            rest.append(f"account {situation.account}")
            rest.append("billed" if situation.billed else "not billed")
        if kind is ScopeKind.CUSTOMER:
            rest.append("type listed" if situation.early_type else "type not listed")
        texts.setdefault(tuple(rest), []).append(str(situation.standing))
    merged: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for rest, standings in texts.items():
        merged.setdefault(tuple(standings), []).append(rest)
    return [f"{'/'.join(standings)}{_together(rests)}" for standings, rests in merged.items()]


def _together(rests: list[tuple[str, ...]]) -> str:
    """Write combinations as the values of each thing, where they are all combinations of these; else one by one."""
    columns = [tuple(dict.fromkeys(column)) for column in zip(*rests, strict=True)]
    if not columns:
        return ""
    if len(list(product(*columns))) == len(rests):
        return " (" + ", ".join("/".join(column) for column in columns) + ")"
    return " (" + " or ".join(", ".join(rest) for rest in rests) + ")"


if __name__ == "__main__":
    PAGE.write_text(page(load_policy(None)))
