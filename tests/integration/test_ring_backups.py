"""Database backups of every moment between punctures, each restored beside the current engine (G1, G5, G6)."""

from __future__ import annotations

import pytest

from keyvault.errors import KeyMissingError, KeyVaultError, RestoreDetected, UnknownScopeError
from keyvault.log import HomeLog
from keyvault.results import values_of
from keyvault.store import log as log_store
from tests.backups import Backups
from tests.homes import TestHome
from tests.ring_homes import (
    CAUSE,
    OLD_MONTH,
    Ledger,
    assert_open,
    consumer,
    filled,
    month,
    opened,
    revive,
    shred,
    shred_records,
    slots,
)

RECORDS = [f"rec-{number}" for number in range(4)]


@pytest.fixture
def custody() -> str:
    return "ring"


@pytest.fixture
def without_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing wait for the log, which stops a restored database earlier: here is what rings do by themselves."""
    monkeypatch.setattr(HomeLog, "settle", lambda _self: None)
    monkeypatch.setattr(log_store, "hold_creations", lambda _connection, _instants, _last: None)


def lived(home: TestHome, backups: Backups) -> Ledger:
    """Destroy scopes, records and a whole month, with creations in between; a backup before, between and after."""
    ledger = Ledger(home=home)
    ledger.create(*map(consumer, range(4)), month("a"), month("b"), month("c"), records=RECORDS)
    ledger.create(month("a", OLD_MONTH), month("b", OLD_MONTH), records=RECORDS)
    backups.take(ledger)
    ledger.shred(consumer(1))
    ledger.create(consumer(4))
    backups.take(ledger)
    ledger.shred_records(month("a"), *RECORDS[:2])
    ledger.create(month("d"), records=RECORDS)
    backups.take(ledger)
    ledger.shred(month("a", OLD_MONTH), month("b", OLD_MONTH))
    ledger.create(consumer(5))
    backups.take(ledger)
    ledger.shred_records(month("a"), RECORDS[2])
    ledger.shred(month("b"), consumer(2), consumer(4))
    ledger.create(consumer(6), month("e"), records=RECORDS)
    backups.take(ledger)
    return ledger


def assert_only_the_destroyed_is_shut(home: TestHome, ledger: Ledger, known: frozenset[str]) -> None:
    for item, result in zip(ledger.items, opened(home, ledger.items), strict=True):
        if item.scope not in known:
            assert isinstance(result, UnknownScopeError)
        elif ledger.is_gone(item):
            assert isinstance(result, KeyVaultError), f"{item.content!r} came back"
        else:
            assert result == item.content


@pytest.mark.usefixtures("months_are_due")
def test_no_backup_opens_what_was_destroyed_since_and_each_opens_the_rest(home: TestHome, backups: Backups) -> None:
    ledger = lived(home, backups)
    assert_only_the_destroyed_is_shut(home, ledger, frozenset(ledger.scopes))
    for restored, known in backups.restored():
        assert_only_the_destroyed_is_shut(restored, ledger, known)
        with restored.opened() as copy:
            revive(copy)
        assert_only_the_destroyed_is_shut(restored, ledger, known)
        gone = [item for item in ledger.items if item.scope in known and ledger.is_gone(item)]
        assert {type(result) for result in opened(restored, gone)} <= {KeyMissingError}


@pytest.mark.usefixtures("without_the_log")
def test_no_slot_is_given_out_again_by_a_restored_database(home: TestHome, backups: Backups) -> None:
    ledger = lived(home, backups)
    copies = [restored for restored, _ in backups.restored()]
    made = []
    for number, restored in enumerate(copies):
        with restored.vault() as vault:
            made.append(filled(vault, [consumer(f"new-{number}"), month(f"new-{number}")], RECORDS))
    ledger.create(consumer("later"), month("later"), records=RECORDS)
    places: dict[tuple[bytes, int], bytes] = {}
    for one in (home, *copies):
        with one.opened() as copy:
            for place, scope_id in slots(copy).items():
                assert places.setdefault(place, scope_id) == scope_id, "two scopes have one slot"
    assert len(places) == len(ledger.scopes) + 2 * len(copies)
    assert_open(home, ledger.left)
    for restored, items in zip(copies, made, strict=True):
        assert_open(restored, items)


@pytest.mark.usefixtures("without_the_log")
def test_a_restored_database_destroys_nothing_that_it_does_not_know_of(home: TestHome, backups: Backups) -> None:
    """Where something was destroyed since, it is noticed, and the destruction waits; where not, it is done."""
    ledger = lived(home, backups)
    ledger.create(consumer("unknown"), month("unknown"), records=RECORDS)
    (older, _), *_, (newest, known) = backups.restored()
    with older.destroyer() as destroyer:
        outcomes = destroyer.destroy([consumer(3), month("c")], **CAUSE)
        (record,) = destroyer.destroy_records(month("a"), [RECORDS[3]], **CAUSE)
    assert [type(outcome.error) for outcome in (*outcomes, record)] == [RestoreDetected] * 3
    assert_open(home, ledger.left)
    with newest.destroyer() as destroyer:
        shred(destroyer, consumer(3), month("c"))
        shred_records(destroyer, month("a"), RECORDS[3])
    ledger.gone |= {(consumer(3), None), (month("c"), None), (month("a"), RECORDS[3])}
    assert_open(home, ledger.left)
    assert_only_the_destroyed_is_shut(newest, ledger, known)
    for item, result in zip(ledger.items, opened(home, ledger.items), strict=True):
        assert isinstance(result, KeyVaultError) == ledger.is_gone(item)


@pytest.mark.usefixtures("months_are_due", "without_the_log")
@pytest.mark.parametrize("home", ["embedded+sqlite"], indirect=True)
def test_a_restored_database_cannot_create_in_a_month_that_was_destroyed_since(
    home: TestHome, backups: Backups
) -> None:
    ledger = lived(home, backups)
    (restored, _), *_, (newest, _) = backups.restored()
    with restored.vault() as vault:
        assert isinstance(vault.ensure_scopes([month("late", OLD_MONTH)])[0], KeyMissingError)
    with newest.vault() as vault:
        values_of(vault.ensure_scopes([month("late", OLD_MONTH)]))
        assert vault.open(vault.seal(b"x", [month("late", OLD_MONTH)])) == b"x"
    assert_open(home, ledger.left)


@pytest.mark.usefixtures("without_the_log")
def test_a_restored_database_destroys_no_month_as_a_whole_in_which_something_was_destroyed_since(
    home: TestHome, backups: Backups
) -> None:
    """To it nothing in the month's ring is live any more; to the current one there is."""
    ledger = Ledger(home=home)
    ledger.create(month("a", OLD_MONTH), month("b", OLD_MONTH), records=RECORDS)
    backups.take(ledger)
    ledger.create(month("unknown", OLD_MONTH), month("gone", OLD_MONTH), records=RECORDS)
    ledger.shred(month("gone", OLD_MONTH))
    ((restored, _),) = backups.restored()
    with restored.destroyer() as destroyer:
        outcomes = destroyer.destroy([month("a", OLD_MONTH), month("b", OLD_MONTH)], **CAUSE)
    assert [type(outcome.error) for outcome in outcomes] == [RestoreDetected] * 2
    assert_open(home, ledger.left)
    ledger.shred(month("a", OLD_MONTH), month("b", OLD_MONTH))
    assert_open(home, ledger.left)


@pytest.mark.usefixtures("without_the_log")
def test_a_restored_database_takes_no_scope_with_it_that_was_put_into_a_months_ring_since(
    home: TestHome, backups: Backups
) -> None:
    """Nothing was destroyed in the ring since, so nothing shows that the database is older; and to it nothing is live there."""
    ledger = Ledger(home=home)
    ledger.create(month("a"), month("a", OLD_MONTH), records=RECORDS)
    backups.take(ledger)
    ledger.create(month("unknown"), month("unknown", OLD_MONTH), records=RECORDS)
    ((restored, _),) = backups.restored()
    with restored.destroyer() as destroyer:
        shred(destroyer, month("a"), month("a", OLD_MONTH))
    assert_open(home, [item for item in ledger.items if "unknown" in item.scope])
    gone = [item for item in ledger.items if "unknown" not in item.scope]
    assert {type(result) for result in opened(home, gone)} <= {KeyMissingError}
