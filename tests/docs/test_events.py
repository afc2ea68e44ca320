"""docs/events.md shows the events that are emitted, field by field."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyvault import KeyVault
from keyvault.events import EventType
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.scopes import Scope
from keyvault.store import outbox
from keyvault.transit.embedded import EmbeddedEngine
from keyvault.wrapped import CustodyCode
from shredder.attest import attest
from shredder.destroy import Destroyer
from shredder.policy import Requester, RequestKind
from shredder.policy_file import POLICY_FILE, home_policy
from shredder.reporting import record_facts
from shredder.request_execution import execute
from shredder.requests import Requests
from shredder.submission import Submission
from shredder.unused_slots import destroy_unused_slots
from tests.docs.documents import ROOT, Block, blocks
from tests.facts import report
from tests.homes import embedded_home
from tests.token_histories import give_tokens

PAGE = ROOT / "docs" / "events.md"
POLICY = ROOT / "shredder" / POLICY_FILE
CONSUMER = "consumer/acct-001/+15551000862"
OTHER = "consumer/acct-001/+15551000863"
MOVED = "consumer/acct-001/+15551000865"
NEIGHBOUR = "consumer/acct-001/+15551000864"
COMMON = {"v", "id", "type", "at", "policy"}


@pytest.fixture
def emitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """One home's events, of every type, by type."""
    home = embedded_home(tmp_path, custody="dedicated")
    month = f"communications/acct-001/{datetime.now(UTC):%Y-%m}"
    with home.vault() as vault:
        values_of(vault.ensure_scopes([month, CONSUMER, MOVED]))
        values_of(vault.suspend([CONSUMER]))
        values_of(vault.resume([CONSUMER]))
        values_of(vault.migrate_scopes([month, MOVED]))
        values_of(vault.suspend_records(month, ["r-1"]))
        values_of(vault.resume_records(month, ["r-1"]))
    with home.opened() as opened:
        in_rings = KeyVault(replace(opened, custody=opened.custodies[CustodyCode.RING]))
        values_of(in_rings.ensure_scopes([OTHER, NEIGHBOUR]))
        destroyer = Destroyer(opened)
        with monkeypatch.context() as patch:
            patch.setattr(EmbeddedEngine, "delete_keys", lambda _self, names: [None for _ in names])
            destroyer.destroy([CONSUMER], ticket="T-17", requested_by="ada")
        lost = values_of(opened.custody.prepare([Scope.parse(CONSUMER)]))
        opened.database.write(lambda c: (opened.custody.bind(c, lost), opened.custody.discard(c, lost)))
        destroyer.finish_pending()
        destroyer.destroy_records(month, ["r-1"], ticket="T-18", requested_by="ada")
        destroyer.destroy([OTHER, MOVED], ticket="T-19", requested_by="ada")
        home_policy(opened)
        (home.path / POLICY_FILE).write_text(POLICY.read_text().replace('"2026-11"', '"acme/2"'))
        home_policy(opened)
        record_facts(
            opened,
            home_policy(opened),
            [report("account.closed", datetime.now(UTC), account="acct-002")],
            timedelta(days=7),
        )
        policy = home_policy(opened)
        execute(opened, policy, ask(Requests(opened, policy)))
        destroy_unused_slots(opened, datetime.now(UTC) + timedelta(days=31))
        ada = Person(identity="ada", display="ada")
        attest(opened, opened.engine, ada)
        give_tokens(opened, ada, ada)
        bodies = opened.database.read(outbox.bodies)
    events: dict[str, list[dict[str, Any]]] = {}
    for _, body in bodies:
        event = json.loads(body)
        events.setdefault(event["type"], []).append(event)
    return events


def ask(requests: Requests) -> bytes:
    """Have requests received, refused, approved and cancelled; return the id of the approved one."""
    ada, grace = (Person(identity=name, display=name) for name in ("ada", "grace"))
    views = [
        requests.submit(
            Submission(ticket=f"T-{kind}", requester=Requester.CUSTOMER, kind=kind, scopes=(NEIGHBOUR,), row=row),
            ada,
        )
        for row, kind in enumerate([RequestKind.ANONYMIZE, RequestKind.ANONYMIZE, RequestKind.HOLD], start=1)
    ]
    requests.submit(
        Submission(
            ticket="T-20", requester=Requester.CUSTOMER, kind=RequestKind.HOLD, account="acct-001", reason="gdpr"
        ),
        ada,
    )
    requests.submit(
        Submission(ticket="T-21", requester=Requester.CUSTOMER, kind=RequestKind.ANONYMIZE, scopes=(CONSUMER,)), ada
    )
    requests.approve(views[0].row.id, grace)
    requests.cancel(views[1].row.id, ada)
    return views[0].row.id


def shown() -> dict[str, list[dict[str, Any]]]:
    events: dict[str, list[dict[str, Any]]] = {}
    for block in blocks(PAGE, "json"):
        event = json.loads(block.text)
        events.setdefault(event["type"], []).append(event)
    return events


def shape(value: Any) -> Any:
    """Return a value's form: types instead of values, so that two events of one type can be compared."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value).__name__


def test_every_type_is_shown_and_none_that_is_not_emitted(emitted: dict[str, list[dict[str, Any]]]) -> None:
    assert set(shown()) == set(emitted) == {str(kind) for kind in EventType}


def test_what_is_shown_has_the_form_of_what_is_emitted(emitted: dict[str, list[dict[str, Any]]]) -> None:
    for kind, examples in shown().items():
        forms = [shape(event) for event in emitted[kind]]
        for example in examples:
            assert shape(example) in forms, kind


def test_every_field_has_its_row(emitted: dict[str, list[dict[str, Any]]]) -> None:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    for kind, events in emitted.items():
        (section,) = (section for section in sections if f"`{kind}`" in section.splitlines()[0])
        rows = set(re.findall(r"^\| `([\w.]+)` \|", section, flags=re.MULTILINE))
        fields = set(events[0]) - COMMON
        assert {row.partition(".")[0] for row in rows} == fields, kind


def test_examples_are_written_as_they_are_stored() -> None:
    """Keys are sorted, as RFC 8785 sorts them; only white space was added for reading."""
    for block in blocks(PAGE, "json"):
        assert list(keys(block)) == sorted(keys(block))


def keys(block: Block) -> list[str]:
    return list(json.loads(block.text))
