"""The log of a home of each pair and custody shows by itself that nothing is wrong, and how many scopes there are."""

from __future__ import annotations

from contextlib import closing

from keyvault.home import AUDITOR, Home, open_engine
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.store import outbox
from shredder.attest import attest
from shredder.audit.fold import Fold, Ledger
from shredder.policy import Requester, RequestKind
from shredder.policy_file import home_policy
from shredder.request_execution import execute
from shredder.requests import Requests
from shredder.submission import Submission
from tests.entries import shown
from tests.homes import TestHome

PEOPLE = [f"consumer/acct-001/{number}" for number in range(6)]
MONTH = "communications/acct-001/2026-11"
ADA, GRACE = (Person(identity=name, display=name) for name in ("ada", "grace"))


def ledger_of(home: Home) -> Ledger:
    fold = Fold()
    bodies = home.database.read(lambda connection: outbox.bodies(connection, limit=100_000))
    fold.add_bundle(0, [body for _, body in bodies])
    return fold.finish(at=home.clock.now())


def test_nothing_is_wrong_with_what_a_home_has_written(home: TestHome, custody: str) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes([*PEOPLE, MONTH]))
        values_of(vault.suspend(PEOPLE[:2]))
        values_of(vault.resume(PEOPLE[:1]))
    with home.opened() as opened, closing(open_engine(home.path, opened.settings, role=AUDITOR)) as auditor:
        policy = home_policy(opened)
        requests = Requests(opened, policy)
        for names in (PEOPLE[:1], PEOPLE[1:3]):
            submission = Submission(
                ticket=f"T-{len(names)}", requester=Requester.CUSTOMER, kind=RequestKind.ANONYMIZE, scopes=tuple(names)
            )
            asked = requests.submit(submission, ADA)
            requests.approve(asked.row.id, GRACE)
            execute(opened, policy, asked.row.id)
        attest(opened, auditor, ADA)
        ledger = ledger_of(opened)
    assert not ledger.findings, shown(ledger.findings)
    assert (ledger.created, ledger.destroyed, ledger.live, list(ledger.pending)) == (7, 3, 4, [])
    assert ledger.without_request == 0
    assert ledger.attested is not None
    assert ledger.attested.dedicated == (4 if custody == "dedicated" else 0)
    assert (ledger.attested.slots > 0) == (custody == "ring")
    assert (ledger.attested.missing, ledger.attested.returned, ledger.attested.unknown) == (0, 0, 0)
