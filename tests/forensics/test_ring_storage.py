"""What Vault's live entries give of a ring to whoever reads all of them, before and after a shred; and what no database ever holds."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.custody import ring_record_sealing as record_sealing
from keyvault.custody import ring_sealing as sealing
from keyvault.custody.ring_reading import wrapped_state_key
from keyvault.errors import DecryptionFailedError, KeyMissingError, PuncturedError
from keyvault.home import Home
from keyvault.puncture import Frontier
from keyvault.puncture_records import EntryRef, new_records, parse_frontier, record_tag
from keyvault.puncture_state import RingState, parse_state
from keyvault.results import value_of
from keyvault.store import rings
from keyvault.store.scopes import ScopeRow
from tests.forensics.entries import Entry, paths_holding
from tests.forensics.raw_storage import RawStorage
from tests.homes import TestHome, embedded_home, vault_home
from tests.ring_homes import OLD_MONTH, Ledger, consumer, month, row_of, scope_share, states_of
from tests.rings import gives
from tests.servers import PostgresServer, VaultServer

RECORDS = [f"rec-{number}" for number in range(3)]
NONCE_BYTES = 12
SLOTS = 8
"""How many slots of each ring are looked at: more than are used."""
STATE = re.compile(rb"keyvault-ring-state/1(?:\\n|\n)([A-Za-z0-9+/=]+)")
RECORD_ENTRY = re.compile(rb"keyvault-ring-records/1(?:\\n|\n)([0-9a-f]{32})(?:\\n|\n)([A-Za-z0-9+/=]+)")
WRAPPED = re.compile(rb"vault:v([1-9][0-9]*):([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, kw_only=True)
class Loot:
    """What a thief of Vault's storage holds: every entry, and every version of a ring's transit key."""

    entries: list[Entry]
    versions: dict[int, bytes]

    def states(self, ring_id: bytes) -> Iterator[RingState]:
        """Open everything that looks like a state with everything that looks like a state key, for any epoch."""
        values = {f"keyvault-ring-state/1\n{text.decode()}" for (text,) in self._found(STATE)}
        for epoch, state_key in self.state_keys(ring_id):
            for value in values:
                with suppress(DecryptionFailedError):
                    yield parse_state(sealing.unseal(value, state_key, ring_id=ring_id, epoch=epoch))

    def state_keys(self, ring_id: bytes) -> Iterator[tuple[int, bytes]]:
        wrapped = {(int(m[1]), bytes(m[2])) for entry in self.entries for m in WRAPPED.finditer(entry.value)}
        for version, text in wrapped:
            if version in self.versions:
                blob = base64.b64decode(text)
                for epoch in range(8):
                    bound = sealing.state_key_binding(ring_id, epoch)
                    with suppress(InvalidTag):
                        key = AESGCM(self.versions[version]).decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], bound)
                        yield epoch, key

    def scope_shares(self, row: ScopeRow) -> set[bytes]:
        """Return every share of a scope that some state gives."""
        found = set()
        for state in self.states(row.ring_id or b""):
            with suppress(PuncturedError):
                found.add(bytes(state.derive(row.slot or 0).share(row.id)))
        return found

    def gives_record(self, row: ScopeRow, tag: bytes) -> bool:
        """Tell whether some state, with some entry of records, gives the key of a record."""
        return any(gives(part, tag) for state in self.states(row.ring_id or b"") for part in self._records(state, row))

    def _records(self, state: RingState, row: ScopeRow) -> Iterator[Frontier]:
        try:
            records = state.derive(row.slot or 0).records
        except PuncturedError:
            return
        if isinstance(records, bytearray):
            yield new_records(records)
            return
        for scope_id, text in self._found(RECORD_ENTRY):
            value = f"keyvault-ring-records/1\n{scope_id.decode()}\n{text.decode()}"
            with suppress(DecryptionFailedError):
                opened = record_sealing.unseal(value, records, ring_id=row.ring_id or b"", scope_id=row.id)
                yield parse_frontier(opened)

    def _found(self, pattern: re.Pattern[bytes]) -> set[tuple[bytes, ...]]:
        return {match.groups() for entry in self.entries for match in pattern.finditer(entry.value)}


def loot(raw: RawStorage, ring_id: bytes) -> Loot:
    return Loot(entries=list(raw.entries()), versions=raw.material_of(sealing.key_name(ring_id)))


def test_live_entries_give_what_was_destroyed_before_the_shred_and_not_after(
    tmp_path: Path, raw_vault: VaultServer, raw: RawStorage
) -> None:
    home = vault_home(tmp_path, raw_vault, f"sqlite:///{tmp_path / 'store.db'}", custody="ring")
    ledger = Ledger(home=home)
    ledger.create(month("a"), month("b"), month("c"), records=RECORDS)
    with home.opened() as looking:
        kept, gone, partly = (row_of(looking, month(account)) for account in "abc")
        tags = [record_tag(looking.keys.index, partly.id, record.encode()) for record in RECORDS]
        shares = {row.id: scope_share(looking, month(account)) for row, account in ((kept, "a"), (gone, "b"))}
    ring_id = kept.ring_id or b""
    before = loot(raw, ring_id)
    assert before.scope_shares(kept) == {shares[kept.id]}
    assert before.scope_shares(gone) == {shares[gone.id]}
    assert all(before.gives_record(partly, tag) for tag in tags)
    (state_key,) = {key for _, key in before.state_keys(ring_id)}

    ledger.shred(month("b"))
    between = loot(raw, ring_id)
    ledger.shred_records(month("c"), RECORDS[0])

    after = loot(raw, ring_id)
    everything = Loot(entries=[*before.entries, *between.entries, *after.entries], versions=after.versions)
    for late in (after, everything):
        assert late.scope_shares(kept) == {shares[kept.id]}
        assert late.scope_shares(gone) == set()
        assert [late.gives_record(partly, tag) for tag in tags] == [False, True, True]
        assert state_key not in {key for _, key in late.state_keys(ring_id)}
    assert set(before.versions.values()).isdisjoint(after.versions.values())
    for material in before.versions.values():
        assert paths_holding(before.entries, material) != set()
        assert paths_holding(after.entries, material) == set()


# --- databases --------------------------------------------------------------------------------------------------------


def secrets_of(home: Home) -> set[bytes]:
    """Return all seeds and keys that the rings' states hold now, and the state keys that open them."""
    states, found = states_of(home), set()
    for ring_id in home.database.read(rings.all_ring_ids):
        with suppress(KeyMissingError):
            ring = states.load(ring_id)
            (state_key,) = home.engine.decrypt([wrapped_state_key(ring_id, ring.current)])
            seeds = bytes(ring.state.slots.seeds)
            found |= {bytes(value_of(state_key))} | {seeds[at : at + 32] for at in range(0, len(seeds), 32)}
            for slot in range(SLOTS):
                with suppress(PuncturedError):
                    node = ring.state.derive(slot)
                    records = node.records
                    found |= {bytes(node.scope_seed), bytes(records.key if isinstance(records, EntryRef) else records)}
    return found


def forms(secret: bytes) -> Iterator[bytes]:
    """Give how a secret may be written: as bytes, in hexadecimal, and in base64 at each of its three places."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for lead in range(3):
        text = base64.b64encode(bytes(lead) + secret)[(lead * 8 + 5) // 6 : -4]
        yield text
        yield text.replace(b"+", b"-").replace(b"/", b"_")


def live_through(home: TestHome, snapshot: Callable[[], bytes]) -> None:
    """Create and destroy; at each moment no secret of any moment so far is in what the database keeps."""
    ledger = Ledger(home=home)
    moments: list[Callable[[], None]] = [
        lambda: ledger.create(consumer(0), consumer(1), month("a"), month("b"), records=RECORDS),
        lambda: ledger.create(month("due", OLD_MONTH)),
        lambda: ledger.shred(consumer(1)),
        lambda: ledger.shred_records(month("a"), RECORDS[0], RECORDS[1]),
        lambda: ledger.shred(month("b"), month("due", OLD_MONTH)),
        lambda: ledger.shred_records(month("a"), RECORDS[2]),
    ]
    secrets: set[bytes] = set()
    with home.opened() as looking:  # held open, so that journals are not emptied at the end of each use
        for moment in moments:
            moment()
            secrets |= secrets_of(looking)
            content = snapshot()
            assert row_of(looking, month("a")).id.hex().encode() in content.hex().encode()
            assert not [secret for secret in secrets for form in forms(secret) if form in content]
    assert len(secrets) > 60


def test_no_seed_and_no_state_key_is_ever_in_the_database_or_its_journals(tmp_path: Path) -> None:
    home = embedded_home(tmp_path, custody="ring")
    files = ("store.db", "store.db-wal", "store.db-shm")
    live_through(home, lambda: b"".join((home.path / name).read_bytes() for name in files))


def test_no_seed_and_no_state_key_is_ever_in_a_dump(
    tmp_path: Path, vault_server: VaultServer, postgres_server: PostgresServer, postgres_url: str
) -> None:
    home = vault_home(tmp_path, vault_server, postgres_url, custody="ring")
    dump = tmp_path / "dump.sql"

    def dumped() -> bytes:
        postgres_server.dump(postgres_url, dump)
        content = dump.read_bytes()
        values = re.findall(rb"\\\\x([0-9a-f]+)", content)
        return content + b"".join(bytes.fromhex(value.decode()) for value in values)

    live_through(home, dumped)


def test_the_search_finds_a_secret_however_it_is_written() -> None:
    secret = bytes(range(7, 39))
    for lead in range(4):
        text = b"{" + base64.b64encode(b"." * lead + secret + b"tail") + b"}"
        assert any(form in text for form in forms(secret))
    assert any(form in b"\\x00" + secret.hex().encode() for form in forms(secret))
    assert not any(form in base64.b64encode(bytes(64)) for form in forms(secret))
