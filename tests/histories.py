"""A home's history with every type of event, as the entries of a log."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from keyvault import KeyVault
from keyvault.home import Home
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.store import outbox
from keyvault.transit.embedded import EmbeddedEngine
from keyvault.wrapped import CustodyCode
from shredder.destroy import Destroyer
from shredder.policy import Requester, RequestKind
from shredder.policy_file import POLICY_FILE, home_policy
from shredder.reporting import record_facts
from shredder.request_execution import execute, execute_approved
from shredder.requests import Requests
from shredder.standing import apply_standing
from shredder.submission import Submission
from shredder.sweep import sweep
from tests.docs.documents import ROOT
from tests.facts import report
from tests.homes import TestHome, embedded_home
from tests.sweeping import SimulatedManualClock, told_the_time
from tests.token_histories import give_tokens

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
MONTH, EARLIER = "communications/acct-001/2026-11", "communications/acct-001/2026-10"
OLD = "communications/acct-001/2024-11"
CONSUMERS = [f"consumer/acct-001/+1555100086{digit}" for digit in range(10)]
LAPSED, USER, CONTACT, YEAR = "consumer/acct-002/+15551000870", "user/u-17", "marketing/c-1", "business/acct-001/2020"
ADA, GRACE = (Person(identity=name, display=name) for name in ("ada", "grace"))


def make_history(directory: Path, patch: pytest.MonkeyPatch) -> list[bytes]:
    """Live through two years in an embedded home; return the entries in their order."""
    clock = told_the_time(patch, START)
    home = embedded_home(directory, clock="simulated", custody="dedicated")
    with home.opened() as opened:
        home_policy(opened)
    _create(home, clock)
    with home.opened() as opened:
        _destroy(opened, patch, clock)
        _ask(opened, clock)
        give_tokens(opened, ADA, GRACE)
        _report(opened, clock)
        _sweep(opened, home, clock)
        return [body for _, body in opened.database.read(outbox.bodies)]


def end_of(entries: list[bytes]) -> datetime:
    """Return the time of the last entry."""
    return datetime.fromisoformat(entries[-1].partition(b'"at":"')[2][:27].decode())


def _create(home: TestHome, clock: SimulatedManualClock) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes([MONTH, OLD, *CONSUMERS[:4], LAPSED]))
        clock.advance(MINUTE)
        values_of(vault.suspend([CONSUMERS[0], CONSUMERS[1]]))
        values_of(vault.resume([CONSUMERS[0]]))
        values_of(vault.migrate_scopes([MONTH, CONSUMERS[2]]))
        values_of(vault.suspend_records(MONTH, ["r-1", "r-2", "r-3"]))
        values_of(vault.resume_records(MONTH, ["r-1"]))
    with home.opened() as opened:
        in_rings = KeyVault(replace(opened, custody=opened.custodies[CustodyCode.RING]))
        values_of(in_rings.ensure_scopes([EARLIER, *CONSUMERS[4:], USER, CONTACT, YEAR]))


def _destroy(home: Home, patch: pytest.MonkeyPatch, clock: SimulatedManualClock) -> None:
    destroyer = Destroyer(home)
    with patch.context() as broken:
        broken.setattr(EmbeddedEngine, "delete_keys", lambda _self, names: [None for _ in names])
        destroyer.destroy([CONSUMERS[0]], ticket="T-1", requested_by="ada")
    clock.advance(MINUTE)
    destroyer.finish_pending()
    destroyer.destroy_records(MONTH, ["r-1", "r-2"], ticket="T-2", requested_by="ada")
    destroyer.destroy([CONSUMERS[2], CONSUMERS[4]], ticket="T-3", requested_by="ada")
    with_renewal = KeyVault(home)
    values_of(with_renewal.ensure_scopes([CONSUMERS[0]], renew=True))


def _ask(home: Home, clock: SimulatedManualClock) -> None:
    policy = home_policy(home)
    requests = Requests(home, policy)
    ask = partial(Submission, requester=Requester.CUSTOMER, kind=RequestKind.ANONYMIZE)
    one = requests.submit(ask(ticket="T-4", scopes=(CONSUMERS[3], CONSUMERS[5])), ADA)
    clock.advance(MINUTE)
    requests.approve(one.row.id, GRACE)
    execute(home, policy, one.row.id)
    records = requests.submit(ask(ticket="T-5", scopes=(EARLIER,), records=("r-7", "r-8")), ADA)
    requests.approve(records.row.id, GRACE)
    execute(home, policy, records.row.id)
    urgent = requests.submit(ask(ticket="T-6", scopes=(CONSUMERS[6],)), ADA, break_glass=True)
    execute(home, policy, urgent.row.id)
    owed = requests.submit(ask(ticket="T-7", scopes=(CONSUMERS[7],)), ADA, break_glass=True)
    execute(home, policy, owed.row.id)
    clock.advance(MINUTE)
    requests.approve(urgent.row.id, GRACE)
    requests.submit(ask(ticket="T-8", scopes=(CONSUMERS[6],)), ADA)
    requests.submit(ask(ticket="T-9", kind=RequestKind.HOLD, account="acct-001", reason="gdpr"), ADA)
    requests.cancel(requests.submit(ask(ticket="T-10", scopes=(CONSUMERS[8],)), ADA).row.id, ADA)
    requests.reject(requests.submit(ask(ticket="T-10", scopes=(CONSUMERS[8],), row=2), ADA).row.id, GRACE)
    requests.submit(ask(ticket="T-11", scopes=(CONSUMERS[1],), kind=RequestKind.UNDELETE), ADA)
    late = requests.submit(ask(ticket="T-12", scopes=(CONSUMERS[8],)), ADA)
    requests.approve(late.row.id, GRACE)
    clock.advance(31 * DAY)
    execute_approved(home, policy)


def _report(home: Home, clock: SimulatedManualClock) -> None:
    policy, now = home_policy(home), clock.now()
    facts = [
        report("account.not-in-good-standing", now, account="acct-002"),
        report("user.created", now - 400 * DAY, user="u-17"),
        report("access.granted", now - 400 * DAY, user="u-17", account="acct-001"),
        report("access.removed", now, user="u-17", account="acct-001"),
        report("contact.no-longer-valuable", now, contact="c-1"),
        report("business.classified", now, account="acct-001", year="2020", **{"class": "operations"}),
        report("usage.billed", now, account="acct-001", through="2026-10-31"),
    ]
    record_facts(home, policy, facts, timedelta(days=policy.facts_days))
    clock.advance(MINUTE)
    record_facts(home, policy, [report("account.reactivated", clock.now(), account="acct-002")], timedelta(days=7))
    clock.advance(MINUTE)
    again = [
        report("account.closed", clock.now(), account="acct-002"),
        report("usage.billed", clock.now(), account="acct-001", through="2026-12-20"),
    ]
    record_facts(home, policy, again, timedelta(days=policy.facts_days))


def _sweep(home: Home, where: TestHome, clock: SimulatedManualClock) -> None:
    for _ in range(8):
        clock.advance(3 * DAY)
        apply_standing(home, policy_version=home_policy(home).version)
        sweep(home, home_policy(home), trust_clock=clock.now().date())
    text = (ROOT / "shredder" / POLICY_FILE).read_text().replace('"2026-11"', '"acme/2"')
    (where.path / POLICY_FILE).write_text(text.replace("months = 25", "months = 24"))
    home_policy(home)
    with where.vault() as vault:
        values_of(vault.suspend_records(MONTH, ["r-9"]))
    facts = [report("account.closed", clock.now(), account="acct-001")]
    record_facts(home, home_policy(home), facts, timedelta(days=7))
    clock.advance(30 * DAY)
    sweep(home, home_policy(home), trust_clock=clock.now().date())
    clock.advance(700 * DAY)
    sweep(home, home_policy(home), trust_clock=clock.now().date())
