"""What a request is about, read from the store: rows, what the policy must know of each, and the exact list that an approval is for.

The store holds no names. What only a name says (the type of a `customer` scope) is read from it, opened by the scope's own key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.engine import Connection

from keyvault.admission import tag_of
from keyvault.custody.former import named_in
from keyvault.errors import InvalidInputError
from keyvault.home import Home
from keyvault.identity import decode_identity
from keyvault.results import values_of
from keyvault.scopes import Scope, ScopeKind
from keyvault.states import KeyState, SuspendedBy
from keyvault.store import fenced_records, subjects
from keyvault.store import scopes as scope_store
from keyvault.store.fenced_records import RecordRow
from keyvault.store.requests import ItemKey, RequestRow
from keyvault.store.scopes import ScopeRow
from keyvault.store.subjects import SubjectRow
from keyvault.subjects import AccountStatus
from shredder.entitlement import ACCOUNT_KINDS, Situation, Standing, Target, Verdict, decide, joined
from shredder.fence import LIVE
from shredder.policy import Policy, Requester, RequestKind
from shredder.request_digest import digest_of
from shredder.submission import Submission

__all__ = [
    "GOING",
    "Found",
    "Radius",
    "digest_of",
    "find_account",
    "find_again",
    "find_left",
    "find_submitted",
    "left_of",
    "radius_of",
    "types_left",
]

GOING = frozenset({KeyState.DEACTIVATED, KeyState.DESTROYED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a request is about. `items` are in order; `rows` by scope id; `situations` one for each thing that is judged.

    `destroyed_by`: the id (16 bytes) of the destruction that was there first, if anything named is destroyed already.
    """

    items: tuple[ItemKey, ...]
    rows: Mapping[bytes, ScopeRow]
    situations: tuple[tuple[ScopeKind, Situation], ...]
    destroyed_by: bytes | None = None

    def verdict(self, policy: Policy, requester: Requester, request: RequestKind) -> Verdict:
        """Return what the policy says: all that is named is carried out, or nothing."""
        return joined(
            decide(policy, kind=kind, requester=requester, request=request, situation=situation)
            for kind, situation in self.situations
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Radius:
    """What carrying a request out would take away, for people to read before they approve. None of it comes back."""

    scopes: int
    records: int
    accounts: int
    kinds: Mapping[ScopeKind, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Scopes and records: what is confirmed where the policy wants a confirmation."""
        return self.scopes + self.records


def radius_of(found: Found) -> Radius:
    """Count what a request is about."""
    whole = [scope for scope, tag in found.items if not tag]
    rows = {scope: found.rows[scope] for scope, _ in found.items}
    kinds = sorted(found.rows[scope].kind for scope in whole)
    return Radius(
        scopes=len(whole),
        records=len(found.items) - len(whole),
        accounts=len({row.account for row in rows.values() if row.kind in ACCOUNT_KINDS}),
        kinds={kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    )


def find_submitted(home: Home, policy: Policy, submission: Submission) -> Found:
    """Read what a submission names.

    Raises `RecordsNotSupportedError` for records of an account-month in dedicated custody, `InvalidInputError` where the policy knows no
    records of such scopes.
    """
    if submission.account is not None:
        return find_account(home, policy, home.keys.pseudonym_of("account", submission.account), submission.kind)
    scopes = {home.keys.lookup(scope.canonical): scope for scope in submission.parsed}
    rows = home.database.read(lambda connection: scope_store.newest_by_lookup(connection, scopes))
    known = [rows[lookup] for lookup in scopes if lookup in rows]
    items: list[ItemKey] = [(row.id, b"") for row in known]
    if submission.records and known:
        if not policy.categories[known[0].kind].records:
            raise InvalidInputError(f"the policy knows no requests for single records of {known[0].kind} scopes")
        items = [(known[0].id, tag_of(known[0], record, home.keys.index)) for record in set(submission.records)]
    types = {rows[key].id: scope.segments[1] for key, scope in scopes.items() if key in rows and _has_type(scope.kind)}
    missing = [scope.kind for lookup, scope in scopes.items() if lookup not in rows]
    return _found(home, policy, known, items, missing=missing, types=types)


def find_again(home: Home, policy: Policy, request: RequestRow, items: Sequence[ItemKey]) -> Found:
    """Read anew what an earlier request is about: of an account all that it has by now, else what was named then."""
    if request.account is not None:
        return find_account(home, policy, request.account, RequestKind(request.kind))
    return _found(home, policy, _rows_of(home, items), items)


def find_left(home: Home, policy: Policy, request: RequestRow, items: Sequence[ItemKey]) -> Found:
    """Read what is left to do of an approved list; what is gone, or going, is not judged again."""
    types = types_left(home, policy, request, items)
    return home.database.read(partial(left_of, policy=policy, request=request, items=items, types=types))


def types_left(home: Home, policy: Policy, request: RequestRow, items: Sequence[ItemKey]) -> dict[bytes, str]:
    """Read the types of what an approved list names, by scope id, where they matter. They never change."""
    if request.account is not None:
        return {}
    return _types(home, policy, [row for row in _rows_of(home, items) if row.state in LIVE])


def left_of(
    connection: Connection,
    *,
    policy: Policy,
    request: RequestRow,
    items: Sequence[ItemKey],
    types: Mapping[bytes, str],
    keep: bool = False,
) -> Found:
    """As `find_left`, within a transaction; `keep` lets nobody change the facts about these accounts until it ends."""
    rows = list(scope_store.by_id(connection, {scope for scope, _ in items}).values())
    context = _context_of(connection, rows, items, keep=keep)
    gone = {row.id for row in rows if row.state in GOING}
    marks = context.marks
    left = [key for key in items if key[0] not in gone and (key not in marks or marks[key].state not in GOING)]
    target = Target.SCOPE if request.account is None else Target.ACCOUNT
    return _assembled(policy, rows, left, context, types=types, target=target)


def find_account(home: Home, policy: Policy, account: bytes, request: RequestKind) -> Found:
    """Read everything of an account (by its pseudonym, 32 bytes): what lives of it, or for an undelete what a user deleted."""
    rows = home.database.read(lambda connection: scope_store.of_account(connection, account, ACCOUNT_KINDS))
    live = [row for row in rows if row.state in LIVE]
    if request is RequestKind.UNDELETE:
        live = [row for row in live if row.suspended_by is SuspendedBy.USER] or live
    if live:
        return _found(home, policy, live, [(row.id, b"") for row in live], target=Target.ACCOUNT)
    situation = Situation(standing=Standing.DESTROYED if rows else Standing.UNKNOWN, target=Target.ACCOUNT)
    return Found(
        items=(),
        rows={},
        situations=tuple((kind, situation) for kind in ACCOUNT_KINDS),
        destroyed_by=next((row.destroy_id for row in rows if row.destroy_id), None),
    )


def _rows_of(home: Home, items: Sequence[ItemKey]) -> list[ScopeRow]:
    wanted = {scope for scope, _ in items}
    return list(home.database.read(lambda connection: scope_store.by_id(connection, wanted)).values())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Context:
    """What the policy must know beside the scopes: their accounts, and the marks of single records."""

    accounts: Mapping[bytes, SubjectRow]
    marks: Mapping[ItemKey, RecordRow]


def _context_of(
    connection: Connection, rows: Sequence[ScopeRow], items: Sequence[ItemKey], *, keep: bool = False
) -> _Context:
    owners = {row.account for row in rows if row.account is not None and row.kind in ACCOUNT_KINDS}
    return _Context(
        accounts=subjects.by_id(connection, owners, keep=keep),
        marks=fenced_records.by_key(connection, [key for key in items if key[1]]),
    )


def _found(
    home: Home,
    policy: Policy,
    rows: Sequence[ScopeRow],
    items: Sequence[ItemKey],
    *,
    missing: Sequence[ScopeKind] = (),
    types: Mapping[bytes, str] | None = None,
    target: Target = Target.SCOPE,
) -> Found:
    context = home.database.read(partial(_context_of, rows=rows, items=items))
    if types is None:
        named = {scope for scope, _ in items}
        types = {} if target is Target.ACCOUNT else _types(home, policy, [row for row in rows if row.id in named])
    return _assembled(policy, rows, items, context, missing=missing, types=types, target=target)


def _assembled(
    policy: Policy,
    rows: Sequence[ScopeRow],
    items: Sequence[ItemKey],
    context: _Context,
    *,
    types: Mapping[bytes, str],
    target: Target,
    missing: Sequence[ScopeKind] = (),
) -> Found:
    by_id = {row.id: row for row in rows}
    situations = [(kind, Situation(standing=Standing.UNKNOWN)) for kind in missing]
    for key in sorted(items):
        row = by_id[key[0]]
        account = context.accounts.get(row.account or b"")
        situation = Situation(
            standing=_standing(row, context.marks.get(key)),
            target=Target.RECORDS if key[1] else target,
            account=_status(account),
            billed=_billed(row, account, target),
            early_type=types.get(row.id) in (policy.categories[row.kind].early_types or ()),
        )
        situations.append((row.kind, situation))
    every: list[ScopeRow | RecordRow] = [*rows, *context.marks.values()]
    return Found(
        items=tuple(sorted(items)),
        rows=by_id,
        situations=tuple(dict.fromkeys(situations)),
        destroyed_by=next((row.destroy_id for row in every if row.state in GOING), None),
    )


def _standing(row: ScopeRow, mark: RecordRow | None) -> Standing:
    """Return what is with a scope or, where it has a mark of its own, with a record of it."""
    state = row.state if mark is None or row.state in GOING else mark.state
    if state is KeyState.SUSPENDED:
        withheld = row.suspended_by in {SuspendedBy.FACTS, SuspendedBy.WAITING}
        return Standing.WITHHELD if withheld else Standing.SUSPENDED
    return _STANDINGS[state]


_STANDINGS: Mapping[KeyState, Standing] = {
    KeyState.ACTIVE: Standing.LIVE,
    KeyState.DEACTIVATED: Standing.FENCED,
    KeyState.DESTROYED: Standing.DESTROYED,
}


def _status(account: SubjectRow | None) -> AccountStatus:
    return AccountStatus.ACTIVE if account is None else AccountStatus(account.status)


def _billed(row: ScopeRow, account: SubjectRow | None, target: Target) -> bool:
    """Tell whether usage is billed through an account-month's end, or for the rest through the end of the account's good standing."""
    if account is None or account.billed_through is None:
        return False
    through = account.suspend_at
    if row.kind is ScopeKind.COMMUNICATIONS and row.period is not None and target is not Target.ACCOUNT:
        through = Scope.of(row.kind, "any", row.period).period_end
    return through is not None and account.billed_through >= through


def _has_type(kind: ScopeKind) -> bool:
    return kind is ScopeKind.CUSTOMER


def _types(home: Home, policy: Policy, rows: Sequence[ScopeRow]) -> dict[bytes, str]:
    """Read the types of scopes that the policy tells apart by type from their names, which their own keys open."""
    wanted = {row.id: named_in(row) for row in rows if policy.categories[row.kind].early_types and _has_type(row.kind)}
    types: dict[bytes, str] = {}
    for code, custody in home.custodies.items():
        some = [row for row in wanted.values() if row.custody == code and row.state not in GOING]
        for row, opened in zip(some, values_of(custody.open_identities(some)), strict=True):
            types[row.id] = Scope.parse(decode_identity(opened).name).segments[1]
    return types
