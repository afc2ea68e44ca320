"""What lies on disk: no name in the clear and no key material in the database, its journals or its dump; nor after a shred."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvault.custody.ring_reading import RingReader, wrapped_state_key
from keyvault.errors import Unavailable
from keyvault.home import Home
from keyvault.puncture import SEED_BYTES
from keyvault.results import values_of
from keyvault.store import database, intents, rings
from keyvault.store import scopes as scope_store
from tests.homes import CUSTODIES, TestHome, embedded_home, vault_home
from tests.servers import PostgresServer, VaultServer

ACCOUNT = "acct-unmistakable-7491"
TICKET = "ticket-unmistakable-7491"
"""Long enough not to be in random bytes, or in what they look like as text, by chance."""
OTHER = f"consumer/{ACCOUNT}/+15550007492"
PERSON = f"consumer/{ACCOUNT}/+15550007491"
MONTH = f"communications/{ACCOUNT}/2026-10"


def used(home: TestHome) -> tuple[bytes, ...]:
    """Use a home, and return the secrets that were in play."""
    with home.vault() as vault:
        values_of(vault.ensure_scopes([PERSON, MONTH, OTHER]))
        vault.seal(b"x", [PERSON, MONTH])
        vault.suspend([MONTH])
    with home.opened() as opened:
        keys = opened.keys
        return (keys.index, keys.journal, keys.pseudonym, *ring_secrets(opened))


def ring_secrets(home: Home) -> Iterator[bytes]:
    """Return what the rings are made of as they are now: state keys, states, and all that is derived from them for a scope."""
    reader = RingReader(home.engine, 1)
    rows = home.database.read(lambda connection: scope_store.page(connection, after=b"", limit=10_000))
    for ring in home.database.read(rings.in_use):
        loaded = reader.load(ring.id)
        (state_key,) = values_of(home.engine.decrypt([wrapped_state_key(ring.id, loaded.current)]))
        yield bytes(state_key)
        seeds = bytes(loaded.state.slots.seeds)
        yield from (seeds[start : start + SEED_BYTES] for start in range(0, len(seeds), SEED_BYTES))
        for row in rows:
            if row.ring_id == ring.id and row.slot is not None and row.slot not in loaded.state.punctured:
                node = loaded.state.derive(row.slot)
                yield from (bytes(node.share(row.id)), bytes(node.identity_key(row.id)))


def shred(home: TestHome) -> None:
    with home.destroyer() as destroyer:
        assert destroyer.destroy([PERSON], ticket=TICKET, requested_by="somebody")[0].error is None


def assert_clean(content: bytes, secrets: tuple[bytes, ...]) -> None:
    for needle in (ACCOUNT.encode(), b"15550007491", TICKET.encode(), b"somebody"):
        assert needle not in content
    for secret in secrets:
        assert secret not in content
        assert secret.hex().encode() not in content


@pytest.mark.parametrize("custody", CUSTODIES)
def test_sqlite_file_and_journals(tmp_path: Path, custody: str) -> None:
    home = embedded_home(tmp_path, custody=custody)
    secrets = used(home)
    if custody == "ring":
        assert len(secrets) == 3 + 2 * 2 + 3 * 2, (
            "system keys; of two rings the state key and the root; of three scopes two keys"
        )
        with home.opened("issuer"):
            in_use = b"".join(path.read_bytes() for path in home.path.iterdir() if path.name.startswith("store.db"))
        assert_clean(in_use, secrets)
    shred(home)
    files = {path.name: path for path in home.path.iterdir() if path.name != "keyvault.toml"}
    assert files.keys() == {"store.db", "log"}
    assert_clean(files["store.db"].read_bytes(), secrets)
    logged = [path.read_bytes() for path in files["log"].rglob("*") if path.is_file()]
    assert len(logged) > 2
    assert_clean(b"".join(logged), secrets)


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


@pytest.mark.parametrize("custody", CUSTODIES)
def test_postgresql_dump(
    tmp_path: Path, vault_server: VaultServer, postgres_server: PostgresServer, store_url: str, custody: str
) -> None:
    home = vault_home(tmp_path, vault_server, store_url, custody=custody)
    secrets = used(home)
    for ended in (False, True):
        if ended:
            shred(home)
        dump = tmp_path / f"dump-{ended}.sql"
        postgres_server.dump(store_url, dump)
        content = dump.read_bytes()
        assert b"COPY public.scopes" in content
        assert_clean(content, secrets)
