"""What lies on disk: no name in the clear and no key material in the database, its journals or its dump; nor after a shred."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyvault.errors import Unavailable
from keyvault.results import values_of
from keyvault.store import database, intents
from tests.homes import TestHome, embedded_home, vault_home
from tests.servers import PostgresServer, VaultServer

ACCOUNT = "acct-unmistakable-7491"
PERSON = f"consumer/{ACCOUNT}/+15550007491"
MONTH = f"communications/{ACCOUNT}/2026-10"


def used(home: TestHome) -> tuple[bytes, ...]:
    """Use a home, and return the secrets that were in play."""
    with home.vault() as vault:
        values_of(vault.ensure_scopes([PERSON, MONTH]))
        vault.seal(b"x", [PERSON, MONTH])
        vault.suspend([MONTH])
    with home.opened() as opened:
        keys = opened.keys
        return (keys.index, keys.journal, keys.pseudonym)


def shred(home: TestHome) -> None:
    with home.destroyer() as destroyer:
        assert destroyer.destroy([PERSON], ticket="T-1", requested_by="somebody")[0].error is None


def assert_clean(content: bytes, secrets: tuple[bytes, ...]) -> None:
    for needle in (ACCOUNT.encode(), b"15550007491", b"T-1", b"somebody"):
        assert needle not in content
    for secret in secrets:
        assert secret not in content
        assert secret.hex().encode() not in content


def test_sqlite_file_and_journals(tmp_path: Path) -> None:
    home = embedded_home(tmp_path)
    secrets = used(home)
    shred(home)
    files = [path for path in home.path.iterdir() if path.name != "keyvault.toml"]
    assert [path.name for path in files] == ["store.db"]
    assert_clean(files[0].read_bytes(), secrets)


def test_sqlite_leaves_nothing_of_a_deleted_row(tmp_path: Path) -> None:
    home = embedded_home(tmp_path)
    marker = "k-unmistakable-marker-of-a-deleted-row"
    with home.opened() as opened:
        opened.database.write(lambda c: intents.announce(c, [marker], at=opened.clock.now()))
        assert any(marker.encode() in path.read_bytes() for path in home.path.iterdir())
        opened.database.write(lambda c: intents.forget(c, [marker]))
        opened.database.forget_deleted()
        assert not any(marker.encode() in path.read_bytes() for path in home.path.iterdir())


def test_a_reader_that_keeps_the_journal_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    home = embedded_home(tmp_path)
    with home.opened() as opened, opened.database.engine.connect() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM intents").all()
        opened.database.write(lambda c: intents.announce(c, ["k-1"], at=opened.clock.now()))
        with pytest.raises(Unavailable, match="journal is in use"):
            opened.database.forget_deleted()


def test_postgresql_dump(
    tmp_path: Path, vault_server: VaultServer, postgres_server: PostgresServer, postgres_url: str
) -> None:
    home = vault_home(tmp_path, vault_server, postgres_url)
    secrets = used(home)
    shred(home)
    dump = tmp_path / "dump.sql"
    postgres_server.dump(postgres_url, dump)
    content = dump.read_bytes()
    assert b"COPY public.scopes" in content
    assert_clean(content, secrets)
