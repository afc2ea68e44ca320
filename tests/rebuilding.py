"""A history with everything in it, and what a database holds after it, to be compared with one that was made anew."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault import KeyVault
from keyvault.errors import ListChangedError, NotProvenError
from keyvault.home import Home
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.scopes import KIND_RULES
from keyvault.states import KeyState
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.scopes import ScopeRow
from keyvault.store.tables import metadata
from keyvault.testing import ManualClock
from keyvault.wrapped import CustodyCode
from shredder.destroy import Destroyer
from shredder.erase import finish
from shredder.fence import Cause, fence, fence_records, stamp
from shredder.policy import Requester, RequestKind
from shredder.policy_file import POLICY_FILE, home_policy
from shredder.reporting import record_facts
from shredder.request_execution import execute, execute_approved
from shredder.requests import Requests, RequestView
from shredder.submission import Submission
from tests.facts import report
from tests.homes import TestHome
from tests.token_histories import give_tokens

NOW = datetime.now(UTC)
PERIOD = f"{NOW:%Y-%m}"
MONTH, GONE_MONTH, OWN_MONTH = (f"communications/{account}/{PERIOD}" for account in ("acct-1", "acct-2", "acct-3"))
YEAR, GONE_YEAR = f"business/acct-1/{NOW:%Y}", f"business/acct-2/{NOW:%Y}"
ANN, BOB, CAT, DAN, EVE, FAY = (f"consumer/acct-1/{name}" for name in ("ann", "bob", "cat", "dan", "eve", "fay"))
SETTINGS, USER, CONTACT = "customer/acct-1/settings", "user/u-1", "marketing/m-1"
LAPSED, LAPSED_LATER, CLOSED = "consumer/acct-7/gil", "consumer/acct-7/hal", "consumer/acct-8/ida"
MOVED, MOVED_GONE, MOVED_MONTH = (
    "consumer/acct-1/moved",
    "consumer/acct-1/moved-gone",
    f"communications/acct-4/{PERIOD}",
)
RENEWED = "consumer/acct-1/renewed"
ADA, GRACE = Person(identity="ada", display="Ada"), Person(identity="grace", display="Grace")
CAUSE: dict[str, Any] = {"ticket": "T-0", "requested_by": "tester"}
WEEK = timedelta(days=7)

TRANSIENT = frozenset({"heartbeats", "leases", "intents", "notices", "unlogged_creations"})
"""Tables of what is under way: nothing of it outlives a database."""

OF_GROUPS: Mapping[str, tuple[str, ...]] = {
    "scopes": ("grouped",),
    "destructions": ("scopes", "destroyed_at", "horizon"),
}
"""Columns that say how it is written down which scopes are destroyed: by a group's destruction, or in each row."""


@dataclass(kw_only=True)
class History:
    """What was sealed, by name, and what is left to find: requests by what became of them."""

    envelopes: dict[str, bytes] = field(default_factory=dict)
    requests: dict[str, RequestView] = field(default_factory=dict)


def live_through(on_disk: TestHome) -> History:
    """Let everything happen in a home that can happen in one."""
    history = History()
    with on_disk.opened() as opened, on_disk.opened("issuer") as maker:
        home = replace(opened, settings=replace(opened.settings, approvals=2))
        _scopes(maker, history)
        _records(home)
        _destructions(home, maker)
        _facts(home, maker)
        _requests(home, maker, history)
        _change_policy(home)
        give_tokens(home, ADA, GRACE)
        _pending(home)
        home.log.settle()
    return history


def _scopes(home: Home, history: History) -> None:
    vault = KeyVault(home)
    names = [
        MONTH,
        GONE_MONTH,
        YEAR,
        GONE_YEAR,
        ANN,
        BOB,
        CAT,
        DAN,
        EVE,
        FAY,
        SETTINGS,
        USER,
        CONTACT,
        RENEWED,
        CLOSED,
        LAPSED,
    ]
    values_of(vault.ensure_scopes(names))
    others = KeyVault(replace(home, custody=next(c for c in home.custodies.values() if c is not home.custody)))
    values_of(others.ensure_scopes([OWN_MONTH, "user/other"]))
    owned = KeyVault(replace(home, custody=home.custodies[CustodyCode.DEDICATED]))
    values_of(owned.ensure_scopes([MOVED, MOVED_GONE, MOVED_MONTH]))
    for name in (MONTH, ANN, FAY, SETTINGS, USER, CONTACT, YEAR, MOVED, MOVED_MONTH, OWN_MONTH):
        history.envelopes[name] = vault.seal(name.encode(), [name])
    values_of(vault.migrate_scopes([MOVED, MOVED_GONE, MOVED_MONTH]))
    values_of(vault.suspend([BOB, CAT, MOVED_MONTH]))
    values_of(vault.resume([CAT]))


def _records(home: Home) -> None:
    vault = KeyVault(home)
    values_of(vault.resume([MOVED_MONTH]))
    values_of(vault.suspend_records(MOVED_MONTH, ["r-1", "r-2", "r-3"]))
    values_of(vault.resume_records(MOVED_MONTH, ["r-2"]))
    _all_done(Destroyer(home).destroy_records(MOVED_MONTH, ["r-3", "r-4"], **CAUSE))


def _destructions(home: Home, maker: Home) -> None:
    destroyer = Destroyer(home)
    _all_done(destroyer.destroy([GONE_MONTH, GONE_YEAR, MOVED_GONE, RENEWED], **CAUSE))
    values_of(KeyVault(maker).ensure_scopes([RENEWED], renew=True))


def _facts(home: Home, maker: Home) -> None:
    policy = home_policy(home)
    hour = timedelta(hours=1)

    def at(hours: int) -> datetime:
        return NOW - 40 * WEEK + hours * hour

    batches = [
        [
            report("account.opened", at(0), account="acct-7"),
            report("account.not-in-good-standing", at(9), account="acct-7"),
            report("account.closed", at(5), account="acct-8"),
            report("account.not-in-good-standing", at(1), account="acct-9"),
            report("usage.billed", at(2), account="acct-8", through=at(1).isoformat()),
            report("user.created", at(0), user="u-1"),
            report("user.signed-in", at(1), user="u-1"),
            report("access.granted", at(1), user="u-1", account="acct-1"),
            report("access.removed", at(3), user="u-1", account="acct-1"),
            report("contact.no-longer-valuable", at(3), contact="m-1"),
            report("business.classified", at(3), account="acct-1", year=f"{NOW:%Y}", **{"class": "tax"}),
        ],
        [
            report("usage.billed", at(4), account="acct-8", through=at(3).isoformat()),
            report("user.signed-in", at(2), user="u-1"),
            report("account.reactivated", at(4), account="acct-9"),
            report("contact.valuable", at(8), contact="m-1"),
        ],
    ]
    for facts in batches:
        record_facts(home, policy, facts, WEEK)
    values_of(KeyVault(maker).ensure_scopes([LAPSED_LATER]))


def _requests(home: Home, maker: Home, history: History) -> None:
    clock = ManualClock(NOW + timedelta(hours=1))
    home = replace(home, clock=clock)
    policy = home_policy(home)
    desk = Requests(home, policy)

    def submit(what: str, *scopes: str, kind: RequestKind = RequestKind.ANONYMIZE, **rest: Any) -> RequestView:
        clock.advance(timedelta(seconds=1))
        glass = rest.pop("break_glass", False)
        asked = Submission(ticket=f"T-{what}", requester=Requester.CUSTOMER, kind=kind, scopes=scopes, **rest)
        view = history.requests[what] = desk.submit(asked, ADA, break_glass=glass)
        clock.advance(timedelta(seconds=1))
        return view

    _account_requests(home, maker, desk, submit)
    expiring = submit("expired", FAY)
    desk.approve(expiring.row.id, GRACE)
    clock.advance(timedelta(days=policy.approval_days))
    execute_approved(home, policy)
    submit("awaiting-approval", ANN, FAY, reason="gdpr")
    submit("refused", kind=RequestKind.HOLD, account="acct-1", reason="court")
    submit("unknown", "consumer/acct-1/nobody")
    desk.reject(submit("rejected", FAY).row.id, GRACE)
    desk.cancel(submit("cancelled", FAY).row.id, ADA)
    desk.approve(submit("approved", FAY).row.id, GRACE)
    done = submit("done", DAN)
    desk.approve(done.row.id, GRACE)
    execute(home, policy, done.row.id)
    signed = submit("signed", EVE, break_glass=True)
    execute(home, policy, signed.row.id)
    desk.approve(signed.row.id, GRACE)
    submit("undeleted", BOB, kind=RequestKind.UNDELETE)
    values_of(KeyVault(home).suspend([BOB]))
    submit("records", MOVED_MONTH, records=("r-7", "r-8"))
    submit("owing", "user/other", break_glass=True)


def _account_requests(home: Home, maker: Home, desk: Requests, submit: Any) -> None:
    policy = home_policy(home)
    waits = submit("awaiting-billing", kind=RequestKind.DELETE, account="acct-8")
    desk.approve(waits.row.id, GRACE)
    changed = submit("list-changed", kind=RequestKind.DELETE, account="acct-7")
    assert changed.row.state == "awaiting-billing"
    record_facts(home, policy, [report("usage.billed", NOW, account="acct-7", through=NOW.isoformat())], WEEK)
    execute_approved(home, policy)
    values_of(KeyVault(maker).ensure_scopes(["customer/acct-7/late"]))
    try:
        desk.approve(changed.row.id, GRACE)
    except ListChangedError:
        return
    raise AssertionError("the account has another scope now")


def _change_policy(home: Home) -> None:
    text = (Path(__file__).parents[1] / "shredder" / POLICY_FILE).read_text()
    longer = text.replace("grace_days = 30", "grace_days = 45").replace('"2026-11"', '"acme/2"')
    assert longer != text
    (home.path / POLICY_FILE).write_text(longer)
    assert home_policy(home).version == "acme/2"


def _pending(home: Home) -> None:
    """Fence what is never erased: one that a run has failed at, and others that no run has come to."""
    cause = Cause(reason="customer-request", ticket="T-9", requested_by="tester")
    rows = {name: row_of(home, name) for name in (CAT, CONTACT, MOVED_MONTH)}
    pending = fence(home, [rows[CAT]], cause)
    fence(home, [rows[CONTACT]], cause)
    tags = [bytes(7) + b"\2"]
    fence_records(home, rows[MOVED_MONTH], tags, cause)
    stamped = stamp(home, pending.values())
    broken: Any = {code: _Broken(custody) for code, custody in home.custodies.items()}
    failing = replace(home, custodies=broken)
    (outcome,) = finish(
        failing, {(row, b""): cause_id for row, cause_id in pending.items()}, {rows[CAT].id: rows[CAT]}, stamped
    )
    assert outcome.error is not None


class _Broken:
    """A custody whose keys cannot be proven gone."""

    def __init__(self, custody: Any) -> None:
        self.name = custody.name

    def destroy(self, targets: Any) -> list[NotProvenError]:
        return [NotProvenError("the test says so") for _ in targets]


def _all_done(outcomes: Any) -> None:
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)


def row_of(home: Home, name: str) -> ScopeRow:
    lookup = home.keys.lookup(name.encode())
    return home.database.read(lambda c: scope_store.newest_by_lookup(c, [lookup]))[lookup]


# --- databases ------------------------------------------------------------------------------------------------------------


def without_database(home: TestHome, path: Path, store_url: str) -> TestHome:
    """Return the same home in another directory, with its log and its engine, and a database that is new."""
    copy = home.copy(path, store_url)
    shutil.copytree(home.path / "log", path / "log")
    if (home.path / POLICY_FILE).exists():
        shutil.copy(home.path / POLICY_FILE, path / POLICY_FILE)
    return copy


def dump(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table that outlives a crash, in an order that does not depend on how it was written."""
    database = Database(url)
    try:
        return database.read(_tables)
    finally:
        database.close()


def _tables(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for table in metadata.sorted_tables:
        if table.name not in TRANSIENT:
            rows = [dict(row._mapping) for row in connection.execute(sa.select(table))]
            if table.name == "scopes":
                rows = _as_they_are(connection, rows)
            for row in rows:
                for name in OF_GROUPS.get(table.name, ()):
                    del row[name]
            found[table.name] = sorted(rows, key=lambda row: [repr(row[column.name]) for column in table.primary_key])
    return found


def _as_they_are(connection: Connection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of scopes with what the destruction of a group says of each."""
    known = scope_store.by_id(connection, [row["id"] for row in rows])
    return [
        {name: getattr(known[row["id"]], name) if name in scope_store.COLUMNS else row[name] for name in row}
        for row in rows
    ]


def after_rebuild(tables: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return what a rebuild makes of these tables: the list of all that it does not bring back."""
    expected = {name: [dict(row) for row in rows] for name, rows in tables.items()}
    expected["certificate_openings"] = []  # what they open went with the keys
    people = {str(kind) for kind, rules in KIND_RULES.items() if rules.names_person}
    for row in expected["scopes"]:
        if row["kind"] in people and row["state"] == KeyState.DESTROYED:
            row["lookup"] = None  # so that no name of a destroyed person can be confirmed from the log
    for row in expected["subjects"]:
        row["settled"] = False  # the next sweep finds out
    for row in expected["system"]:
        row.update(paused=True, trusted_at=None)
    for number, row in enumerate(sorted(expected["outbox"], key=lambda row: row["leaf_index"]), start=1):
        row["id"] = number
    expected["outbox"].sort(key=lambda row: repr(row["id"]))
    return expected
