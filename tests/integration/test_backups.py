"""Backups taken before a shred, restored beside the current engine: the shredded stays unreadable, everything else opens (G5)."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from keyvault import KeyState, OpenRequest, SealRequest
from keyvault.errors import KeyMissingError, RestoreDetected, ScopeDestroyedError
from keyvault.results import values_of
from tests.homes import CUSTODIES, TestHome, embedded_home, vault_home
from tests.servers import PostgresServer, VaultServer

NAMES = [f"consumer/acct-1/{index}" for index in range(4)]
VICTIM = NAMES[1]


in_both = pytest.mark.parametrize("custody", CUSTODIES)


def sealed(home: TestHome) -> dict[str, bytes]:
    with home.vault() as vault:
        values_of(vault.ensure_scopes(NAMES))
        requests = [SealRequest(plaintext=name.encode(), scopes=(name,)) for name in NAMES]
        return dict(zip(NAMES, values_of(vault.seal_many(requests)), strict=True))


def shred(home: TestHome) -> None:
    with home.destroyer() as destroyer:
        assert destroyer.destroy([VICTIM], ticket="T-1", requested_by="tester")[0].error is None


def assert_only_the_victim_is_shut(home: TestHome, envelopes: dict[str, bytes], error: type[Exception]) -> None:
    with home.vault() as vault:
        results = vault.open_many([OpenRequest(envelope=envelope) for envelope in envelopes.values()])
    for name, result in zip(envelopes, results, strict=True):
        if name == VICTIM:
            assert isinstance(result, error)
        else:
            assert result == name.encode()


@in_both
def test_file_copy_of_sqlite(tmp_path: Path, custody: str) -> None:
    home = embedded_home(tmp_path, custody=custody)
    envelopes = sealed(home)
    backup = tmp_path / "backup.db"
    shutil.copyfile(home.path / "store.db", backup)
    shred(home)
    restored = home.copy(tmp_path / "restored", f"sqlite:///{backup}")
    assert_only_the_victim_is_shut(home, envelopes, ScopeDestroyedError)
    assert_only_the_victim_is_shut(restored, envelopes, KeyMissingError)


@in_both
def test_online_backup_of_sqlite(tmp_path: Path, custody: str) -> None:
    home = embedded_home(tmp_path, custody=custody)
    envelopes = sealed(home)
    backup = tmp_path / "backup.db"
    source, target = sqlite3.connect(home.path / "store.db"), sqlite3.connect(backup)
    source.backup(target)
    source.close()
    target.close()
    shred(home)
    assert_only_the_victim_is_shut(home.copy(tmp_path / "restored", f"sqlite:///{backup}"), envelopes, KeyMissingError)


@in_both
def test_dump_and_restore_of_postgresql(
    tmp_path: Path, vault_server: VaultServer, postgres_server: PostgresServer, store_url: str, custody: str
) -> None:
    home = vault_home(tmp_path, vault_server, store_url, custody=custody)
    envelopes = sealed(home)
    dump = tmp_path / "dump.sql"
    postgres_server.dump(store_url, dump)
    shred(home)
    restored_url = postgres_server.restore(dump)
    try:
        restored = home.copy(tmp_path / "restored", restored_url)
        assert_only_the_victim_is_shut(home, envelopes, ScopeDestroyedError)
        assert_only_the_victim_is_shut(restored, envelopes, KeyMissingError)
    finally:
        postgres_server.drop_database(restored_url)


@in_both
def test_a_missing_key_is_an_alarm_and_never_a_reason_to_make_one(tmp_path: Path, custody: str) -> None:
    home = embedded_home(tmp_path, custody=custody)
    sealed(home)
    backup = tmp_path / "backup.db"
    shutil.copyfile(home.path / "store.db", backup)
    shred(home)
    restored = home.copy(tmp_path / "restored", f"sqlite:///{backup}")
    with restored.opened() as opened:
        before = opened.engine.list_keys()
    with restored.vault() as vault:
        assert values_of(vault.ensure_scopes([VICTIM]))[0].state is KeyState.ACTIVE
        with pytest.raises(KeyMissingError, match="its key is missing from the engine"):
            vault.seal(b"x", [VICTIM])
        listed = {type(name).__name__ for _, name in vault.list_scopes()}
    assert listed == {"str", "KeyMissingError"}
    with restored.opened() as opened:
        assert opened.engine.list_keys() == before


@in_both
def test_shredding_again_from_the_restored_database_is_not_acknowledged_before_a_replay(
    tmp_path: Path, custody: str
) -> None:
    home = embedded_home(tmp_path, custody=custody)
    envelopes = sealed(home)
    backup = tmp_path / "backup.db"
    shutil.copyfile(home.path / "store.db", backup)
    shred(home)
    restored = home.copy(tmp_path / "restored", f"sqlite:///{backup}")
    with pytest.raises(RestoreDetected, match="not acknowledged"):
        shred(restored)
    assert_only_the_victim_is_shut(restored, envelopes, ScopeDestroyedError)
