"""After a shred nobody can confirm a consumer's name from the log by guessing, and after the backup horizon not from the database."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyvault.home import AUDITOR, open_engine
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.testing import ManualClock
from shredder import fence
from shredder.attest import attest
from shredder.destroy import Destroyer
from shredder.policy import Requester, RequestKind
from shredder.policy_file import home_policy
from shredder.reporting import record_facts
from shredder.request_execution import execute
from shredder.requests import Requests, RequestState
from shredder.submission import Submission
from tests.facts import report
from tests.guessing import Attacker, Journal
from tests.homes import TestHome

ASKED, GONE, KEPT = (f"consumer/acct-unmistakable/+1555000749{digit}" for digit in "123")
MONTH = f"communications/acct-unmistakable/{datetime.now(UTC):%Y-%m}"
ADA, GRACE = (Person(identity=name, display=name) for name in ("ada", "grace"))


def lived(home: TestHome, custody: str) -> None:
    """Give three consumers all that happens to consumers but their end."""
    with home.vault() as vault:
        values_of(vault.ensure_scopes([ASKED, GONE, KEPT, MONTH]))
        vault.seal(b"x", [ASKED, MONTH])
        values_of(vault.suspend([ASKED, GONE]))
        values_of(vault.resume([ASKED, GONE]))
        if custody == "dedicated":
            values_of(vault.migrate_scopes([GONE]))
    with home.opened() as opened:
        now = datetime.now(UTC)
        facts = [report(f"account.{kind}", now, account="acct-unmistakable") for kind in ("opened", "closed")]
        record_facts(opened, home_policy(opened), facts, timedelta(days=7))


def submitted(requests: Requests, ticket: str, kind: RequestKind = RequestKind.ANONYMIZE) -> tuple[bytes, RequestState]:
    view = requests.submit(Submission(ticket=ticket, requester=Requester.CUSTOMER, kind=kind, scopes=(ASKED,)), ADA)
    return view.row.id, view.state


def shred(home: TestHome) -> None:
    """Destroy one consumer as its customer asks, one without a request; and ask again, for what is refused."""
    with home.opened() as opened:
        policy = home_policy(opened)
        requests = Requests(opened, policy)
        submitted(requests, "T-0", RequestKind.HOLD)
        request, _ = submitted(requests, "T-1")
        requests.approve(request, GRACE)
        assert execute(opened, policy, request).state is RequestState.DONE
        assert submitted(requests, "T-2")[1] is RequestState.REFUSED
        assert Destroyer(opened).destroy([GONE], ticket="T-3", requested_by="ada")[0].error is None
        with closing(open_engine(opened.path, opened.settings, role=AUDITOR)) as auditor:
            attest(opened, auditor, ADA)
        opened.log.settle()


def test_no_name_is_confirmed_by_guessing_once_it_is_shredded(
    home: TestHome, custody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(monkeypatch)
    lived(home, custody)
    with home.opened() as opened:
        opened.log.settle()
        attacker = Attacker(opened, journal)
        for name in (ASKED, GONE, KEPT):
            assert [found["type"] for found in attacker.confirms(name, attacker.log())] == ["scope.created"], (
                "it has teeth"
            )
            assert attacker.confirms(name, attacker.database())
        assert attacker.confirms("consumer/acct-unmistakable/nobody", attacker.log()) == []
    shred(home)
    with home.opened() as opened:
        attacker = Attacker(opened, journal)
        for name in (ASKED, GONE):
            assert attacker.confirms(name, attacker.log()) == []
            assert attacker.confirms(name, attacker.database()), (
                "its look-up and its opening are kept until the horizon"
            )
        assert attacker.confirms(KEPT, attacker.log()), "it still has teeth"
        later = ManualClock(opened.clock.now() + fence.BACKUP_HORIZON + timedelta(minutes=1))
        Destroyer(replace(opened, clock=later)).forget_expired()
        for name in (ASKED, GONE):
            assert attacker.confirms(name, attacker.database()) == []
        assert attacker.confirms(KEPT, attacker.database())


def test_every_part_that_is_sealed_under_the_journal_key_was_opened(
    home: TestHome, custody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the attacker does not open it could not guess at, and the test above would show nothing."""
    journal = Journal(monkeypatch)
    lived(home, custody)
    shred(home)
    with home.opened() as opened:
        attacker = Attacker(opened, journal)
        attacker.confirms(ASKED, [*attacker.database(), *attacker.log()])
        assert attacker.opened == journal.sealed.keys()
