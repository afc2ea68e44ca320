"""Finding a scope's event in the log, and proving it, on both pairs: creation while it lives, destruction afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from keyvault.errors import InvalidInputError, LogError, UnknownScopeError
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.store import outbox
from keyvault.testing import ManualClock
from shredder import fence
from shredder.destroy import Destroyer
from shredder.log.directory import LogDirectory
from shredder.log.proof import verify_proof
from shredder.log.proving import ProvenEntry, index_of_event, index_of_scope, log_key, prove
from tests.homes import TestHome, in_ring_custody
from tests.logs import LOG_KEY, write_log

PEOPLE = [f"consumer/acct-001/{number}" for number in range(3)]
MONTH = "communications/acct-001/2026-11"


def proven(home: Home, index: int) -> ProvenEntry:
    found = prove(LogDirectory(home.log_directory), log_key(home), index)
    assert verify_proof(found.proof, found.entry, log_key(home)).size == found.size
    assert found.index == index
    return found


@in_ring_custody
def test_the_newest_generation_is_proved_as_it_stands(home: TestHome) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes([*PEOPLE, MONTH]))
    with home.destroyer() as destroyer:
        assert [one.error for one in destroyer.destroy([*PEOPLE[:2], MONTH], ticket="T-1", requested_by="ada")] == [
            None
        ] * 3
    with home.vault() as vault:
        values_of(vault.ensure_scopes(PEOPLE[:1], renew=True))
    with home.opened("issuer") as opened:
        opened.log.settle()
        events = {name: json.loads(proven(opened, index_of_scope(opened, name)).entry) for name in [*PEOPLE, MONTH]}
        assert [(event["type"], event.get("generation")) for event in events.values()] == [
            ("scope.created", 2),
            ("key.destroyed", None),
            ("scope.created", 1),
            ("key.destroyed", None),
        ]
        for event in events.values():
            assert json.loads(proven(opened, index_of_event(opened, event["id"])).entry) == event
        with pytest.raises(UnknownScopeError):
            index_of_scope(opened, "consumer/acct-001/nobody")
        with pytest.raises(InvalidInputError, match="no event of that id"):
            index_of_event(opened, "x")
    with home.opened() as opened:
        later = ManualClock(opened.clock.now() + fence.BACKUP_HORIZON + timedelta(minutes=1))
        Destroyer(replace(opened, clock=later)).forget_expired()
        with pytest.raises(UnknownScopeError, match="forgotten after its backup horizon"):
            index_of_scope(opened, PEOPLE[1])
        assert index_of_scope(opened, MONTH) == index_of_event(opened, events[MONTH]["id"])


@in_ring_custody
@pytest.mark.parametrize("home", ["embedded+sqlite"], indirect=True)
def test_what_the_log_does_not_have_yet_is_not_proved(home: TestHome) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes(PEOPLE))
    with home.opened() as opened:
        with pytest.raises(LogError, match="no checkpoint: nothing can be proved yet"):
            prove(LogDirectory(opened.log_directory / "empty"), log_key(opened), 0)
        opened.log.settle()
        count = len(opened.database.read(outbox.bodies))
        with pytest.raises(LogError, match=f"covers {count} entries, and not yet entry {count}"):
            proven(opened, count)


def test_a_proof_of_one_entry_of_many_verifies(tmp_path: Path) -> None:
    entries = [b"%d" % number for number in range(70_000)]
    write_log(tmp_path, entries)
    for index in (0, 255, 256, 65_535, 65_536, 69_999):
        found = prove(LogDirectory(tmp_path), LOG_KEY, index)
        assert found.entry == entries[index]
        assert verify_proof(found.proof, found.entry, LOG_KEY).size == 70_000
