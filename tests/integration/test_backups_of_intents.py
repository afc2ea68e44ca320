"""A backup that was taken while keys were being made: restored, it says that nobody has them, and they stay all the same (G6)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from keyvault.creation import ScopeCreator
from keyvault.custody import dedicated
from keyvault.errors import RestoreDetected
from tests.backups import Backups
from tests.homes import TestHome, in_dedicated_custody
from tests.ring_homes import Ledger, assert_open, consumer


@in_dedicated_custody
def test_a_restored_database_deletes_no_key_that_a_scope_has_got_since(
    home: TestHome, backups: Backups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key that was made since is announced in the copy, so that the list of keys does not show how old it is: the log does."""
    ledger = Ledger(home=home)
    ledger.create(consumer(0))
    write = ScopeCreator._write

    def taken_before(self: ScopeCreator, drafts: Any) -> Any:
        backups.take(ledger)
        return write(self, drafts)

    with monkeypatch.context() as patch:
        patch.setattr(ScopeCreator, "_write", taken_before)
        ledger.create(consumer(1), consumer(2))
    ((older, _),) = backups.restored()
    monkeypatch.setattr(dedicated, "ABANDONED_AFTER", timedelta(0))
    for _ in range(2):
        with older.destroyer() as destroyer, pytest.raises(RestoreDetected, match="knows of"):
            destroyer.finish_pending()
    assert_open(home, ledger.left)


@in_dedicated_custody
def test_the_database_itself_deletes_keys_that_nobody_has(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(home=home)
    ledger.create(consumer(0))

    class Died(BaseException):
        pass

    def died(*_args: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(ScopeCreator, "_write", died)
        with pytest.raises(Died):
            ledger.create(consumer(1))
    monkeypatch.setattr(dedicated, "ABANDONED_AFTER", timedelta(0))
    with home.destroyer() as destroyer:
        assert destroyer.status().unused_keys == 1
        destroyer.finish_pending()
        assert destroyer.status().unused_keys == 0
    assert_open(home, ledger.left)
