"""Attesting: what the engine itself lists is in the event, and every way in which it may differ from the database is told."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import urllib3

from keyvault.errors import InvalidFormatError, PermissionDeniedError
from keyvault.events import b64
from keyvault.home import AUDITOR, Home, open_engine
from keyvault.inventory import compare_keys, reserved_slots
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.store import outbox, rings
from keyvault.store import scopes as scope_store
from keyvault.system_keys import SYSTEM_KEY
from keyvault.transit.embedded import EmbeddedEngine
from shredder import attest as attesting
from shredder.attest import Attestation, attest
from tests.homes import TestHome, embedded_home, in_dedicated_custody, in_ring_custody
from tests.servers import VaultServer

PEOPLE = [f"consumer/acct-001/{number}" for number in range(3)]
MONTH = "communications/acct-001/2026-11"
ADA = Person(identity="ada", display="Ada Lovelace")


def run(home: Home) -> Attestation:
    with closing(open_engine(home.path, home.settings, role=AUDITOR)) as auditor:
        return attest(home, auditor, ADA)


def attested(home: Home) -> list[dict[str, Any]]:
    bodies = home.database.read(lambda connection: outbox.bodies(connection, limit=100_000))
    events = [json.loads(body) for _, body in bodies]
    return [event for event in events if event["type"] == "inventory.attested"]


def use(home: TestHome) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes([*PEOPLE, MONTH]))
    with home.destroyer() as destroyer:
        assert destroyer.destroy(PEOPLE[:1], ticket="T-1", requested_by="ada")[0].error is None


def test_the_event_has_what_the_auditor_lists(home: TestHome, custody: str) -> None:
    use(home)
    with home.opened("issuer") as opened:
        found = run(opened)
        (event,) = attested(opened)
        names = opened_as_shredder(home)
        row_ids = opened.database.read(rings.all_ring_ids)
        assert event["attested_by"] == b64(opened.keys.pseudonym_of("person", "ada"))
        assert event["engine"] == opened.engine.kind
    assert found.agrees
    assert event["keys_digest"] == b64(hashlib.sha256("".join(f"{name}\n" for name in names).encode()).digest())
    assert (event["missing"], event["returned"], event["unknown"]) == (0, 0, 0)
    assert (event["part"], event["parts"], event["attestation"]) == (1, 1, b64(found.id))
    counted = {
        kind: sum(name.startswith(mark) for name in names) for kind, mark in (("dedicated", "k-"), ("ring", "r-"))
    }
    assert event["keys"] == {**counted, "system": 1, "other": 0}
    if custody == "dedicated":
        assert (event["keys"]["dedicated"], event["rings"]) == (3, [])
    else:
        assert event["rings"] == [{"ring": b64(ring_id), "slots": 256} for ring_id in sorted(found.slots)]
        assert found.slots.keys() <= row_ids
        assert len(found.slots) == 2, "one of the month, one of all others"


def opened_as_shredder(home: TestHome) -> list[str]:
    with home.opened() as opened:
        return opened.engine.list_keys()


@in_ring_custody
@pytest.mark.usefixtures("months_are_due")
def test_slots_grow_by_chunks_and_stay_when_the_ring_is_destroyed(home: TestHome) -> None:
    use(home)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([f"consumer/acct-002/{number}" for number in range(300)]))
    with home.destroyer() as destroyer:
        assert destroyer.destroy([MONTH], ticket="T-2", requested_by="ada")[0].error is None
    with home.opened("issuer") as opened:
        found = run(opened)
        destroyed = [ring.id for ring in opened.database.read(rings.all_rings) if ring.destroyed_at is not None]
    assert found.agrees
    assert len(destroyed) == 1
    assert found.slots[destroyed[0]] == 256
    assert max(found.slots.values()) >= 512


@in_dedicated_custody
@pytest.mark.parametrize("home", ["vault+postgresql"], indirect=True)
def test_the_auditor_sees_and_cannot_use(home: TestHome) -> None:
    use(home)
    with home.opened("issuer") as opened:
        with closing(open_engine(opened.path, opened.settings, role=AUDITOR)) as auditor:
            (error,) = auditor.generate_data_keys([SYSTEM_KEY])
        assert isinstance(error, PermissionDeniedError)


@in_dedicated_custody
@pytest.mark.parametrize("home", ["vault+postgresql"], indirect=True)
def test_wrapped_answers_are_counted_where_somebody_asks(home: TestHome, vault_server: VaultServer) -> None:
    with home.opened("issuer") as opened, closing(open_engine(opened.path, opened.settings, role=AUDITOR)) as auditor:
        assert attest(opened, auditor, ADA).wrapped is None
        before = auditor.wrapped_answers()
        wrap(vault_server)
        found = attest(opened, auditor, ADA, wrapped=True)
        assert [event["wrapped"] for event in attested(opened)] == [None, found.wrapped]
    assert before is not None
    assert found.wrapped is not None
    assert found.wrapped > 0


def wrap(server: VaultServer) -> None:
    """Leave an answer wrapped, for longer than the test takes."""
    headers = {"X-Vault-Token": server.root_token, "X-Vault-Wrap-TTL": "300s"}
    with urllib3.PoolManager(ca_certs=str(server.ca_file)) as http:
        assert (
            http.request("POST", f"{server.addr}/v1/sys/wrapping/wrap", json={"a": "b"}, headers=headers).status == 200
        )


# --- differences, on the embedded pair ---------------------------------------------------------------------------------------


@pytest.fixture(params=["ring", "dedicated"])
def used(request: pytest.FixtureRequest, tmp_path: Path) -> TestHome:
    made = embedded_home(tmp_path, custody=str(request.param))
    use(made)
    return made


def test_a_key_that_is_missing_one_that_is_unknown_and_one_that_came_back(used: TestHome) -> None:
    with used.opened() as opened:
        before = compare_keys(opened.database, opened.engine)
        live = [name for name in before.names if name != SYSTEM_KEY]
        opened.engine.delete_keys(live[:1])
        opened.engine.create_keys(["z-1", "z-2"])
        if gone := returned_key(opened):
            opened.engine.create_keys([gone])
        found = run(opened)
        (event,) = attested(opened)
    assert not found.agrees
    assert found.keys.missing == {live[0]}
    assert found.keys.unknown == {"z-1", "z-2"}
    assert found.keys.returned == ({gone} if gone else set())
    assert (event["missing"], event["returned"], event["unknown"]) == (1, 1 if gone else 0, 2)
    assert event["keys"]["other"] == 2


def returned_key(home: Home) -> str | None:
    """Return the name of a key that was destroyed as such; a scope in a ring had none."""
    rows = home.database.read(lambda connection: scope_store.page(connection, after=b"", limit=100))
    return next((row.key_ref for row in rows if row.state == "destroyed" and row.key_ref), None)


def test_what_is_being_destroyed_is_neither_missing_nor_unknown(
    used: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, used.destroyer() as destroyer:
        patch.setattr(EmbeddedEngine, "delete_keys", lambda _self, names: [None for _ in names])
        destroyer.destroy(PEOPLE[1:2], ticket="T-3", requested_by="ada")
    with used.opened() as opened:
        assert run(opened).agrees


def test_many_rings_are_split_and_every_part_says_which(used: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attesting, "RINGS_PER_EVENT", 2)
    rings_there = {bytes([number]) * 16: number + 1 for number in range(5)}
    with used.opened() as opened:
        for ring_id, version in rings_there.items():
            for before in range(version):
                opened.engine.put_state(f"slots/{ring_id.hex()}-1", "256", expected_version=before)
        found = run(opened)
        events = attested(opened)
    parts = -(-len(found.slots) // 2)
    assert [(event["part"], event["parts"]) for event in events] == [(number, parts) for number in range(1, parts + 1)]
    assert {event["attestation"] for event in events} == {b64(found.id)}
    listed = [(ring["ring"], ring["slots"]) for event in events for ring in event["rings"]]
    assert listed == [(b64(ring_id), slots) for ring_id, slots in sorted(found.slots.items())]
    assert {ring_id: found.slots[ring_id] for ring_id in rings_there} == {
        ring_id: version * 256 for ring_id, version in rings_there.items()
    }


def test_the_largest_part_fits_an_event(used: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {number.to_bytes(16, "big"): 8_192 for number in range(2 * attesting.RINGS_PER_EVENT)}
    monkeypatch.setattr(attesting, "reserved_slots", lambda _engine: many)
    with used.opened() as opened:
        assert len(run(opened).events) == 2


def test_a_foreign_entry_among_the_slots_is_told(used: TestHome) -> None:
    with used.opened() as opened:
        opened.engine.put_state("slots/someones", "x", expected_version=0)
        with pytest.raises(InvalidFormatError, match="not one that this program wrote"):
            reserved_slots(opened.engine)
        with pytest.raises(InvalidFormatError):
            run(opened)
        assert attested(opened) == []


def test_of_a_ring_in_two_incarnations_the_higher_count_is_told(used: TestHome) -> None:
    ring_id = bytes(16)
    with used.opened() as opened:
        opened.engine.put_state(f"slots/{ring_id.hex()}-1", "256", expected_version=0)
        for version in range(3):
            opened.engine.put_state(f"slots/{ring_id.hex()}-2", "256", expected_version=version)
        assert reserved_slots(opened.engine)[ring_id] == 768
