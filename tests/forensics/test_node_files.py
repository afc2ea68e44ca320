"""The disks of Vault's nodes and its snapshots: the exceptions to G5, and what ends them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.forensics.barrier import open_all
from tests.forensics.carving import entries_in_bytes, entries_in_snapshot, snapshot_bytes
from tests.forensics.entries import Entry, paths_holding
from tests.forensics.nodes import Disk, disk_of, join, leave, start_compacted
from tests.forensics.raw_storage import RawStorage
from tests.forensics.scopes import NEIGHBOUR, home_with, shred, transit_key_of
from tests.servers import VaultServer, running_vault

VICTIMS = [f"consumer/acct-1/victim-{index}" for index in range(20)]
DATABASE, LOG = "vault.db", "raft/raft.db"
PIECE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Shredded:
    """What was shredded on a server: material by transit key, as raw storage had it before, and snapshots.

    `in_freed_pages` are the transit keys that `vault.db` still held just after each was destroyed.
    """

    unseal_key: str = field(repr=False)
    victims: dict[str, bytes] = field(repr=False)
    in_freed_pages: set[str]
    neighbour: str
    neighbour_material: bytes = field(repr=False)
    live: set[str]
    before: Path
    after: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Disks: of the node that shredded; of one that joined it; of one rebuilt from the snapshot taken after the shred.

    Then of the first again, once its log was compacted, and of a node that joined it after that.
    """

    shredded: Shredded
    old: Disk
    joined: Disk
    rebuilt: Disk
    compacted: Disk
    joined_later: Disk


def database_of(server: VaultServer) -> list[Entry]:
    """Open what every page of a running node's `vault.db` holds. The next write may use freed pages again, any of them."""
    return open_all(entries_in_bytes((server.data_dir / DATABASE).read_bytes(), DATABASE), server.unseal_key).plain


def shred_victims(directory: Path, server: VaultServer) -> Shredded:
    before, after = directory / "before.snap", directory / "after.snap"
    with home_with(directory, server, [*VICTIMS, NEIGHBOUR]).opened() as home, RawStorage(server) as raw:
        keys = [transit_key_of(home, name) for name in VICTIMS]
        victims = {key: raw.material_of(key)[1] for key in keys}
        neighbour = transit_key_of(home, NEIGHBOUR)
        kept = raw.material_of(neighbour)[1]
        server.snapshot(before)
        in_freed_pages = set()
        for name, (key, material) in zip(VICTIMS, victims.items(), strict=True):
            shred(home, name)
            assert not paths_holding(raw.entries(), material)
            if found_in(database_of(server), material):
                in_freed_pages.add(key)
        server.snapshot(after)
        assert not any(paths_holding(raw.entries(), material) for material in victims.values())
        return Shredded(
            unseal_key=server.unseal_key,
            victims=victims,
            in_freed_pages=in_freed_pages,
            neighbour=neighbour,
            neighbour_material=kept,
            live=set(raw.paths("logical/")),
            before=before,
            after=after,
        )


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    with contextlib.ExitStack() as stack:
        first, second, fresh = (stack.enter_context(running_vault(raw_storage=True)) for _ in range(3))
        shredded = shred_victims(tmp_path_factory.mktemp("forensics"), first)
        first.request("POST", "sys/rotate")
        assert first.request("GET", "sys/key-status")["data"]["term"] == 2
        leave(join(second, first), first)
        joined, old = disk_of(second), disk_of(first)
        fresh.restore(shredded.after, of=first)
        rebuilt = disk_of(fresh)
        start_compacted(first)
        join(second, first)
        return Evidence(
            shredded=shredded,
            old=old,
            joined=joined,
            rebuilt=rebuilt,
            joined_later=disk_of(second),
            compacted=disk_of(first),
        )


def found_in(entries: Iterable[Entry], material: bytes) -> set[str]:
    return {entry.source for entry in entries if paths_holding([entry], material)}


def ciphertexts(disk: Disk, keys: Iterable[str]) -> set[bytes]:
    """Return the values of these keys' entries, as the barrier encrypted them."""
    endings = tuple(f"/{key}" for key in keys)
    return {entry.value for entry in disk.opened.encrypted if entry.path.endswith(endings)}


def pieces(values: Iterable[bytes]) -> set[bytes]:
    """Cut values up, so that one that was partly overwritten, and fails authentication, is recognised by the rest."""
    return {value[at : at + PIECE] for value in values for at in range(0, len(value) - PIECE + 1, PIECE)}


def assert_nothing_of_the_victims(disk: Disk, evidence: Evidence) -> None:
    victims = evidence.shredded.victims
    assert not any(paths_holding(disk.opened.plain, material) for material in victims.values())
    assert not any(key.encode() in disk.content for key in victims)
    stale = pieces(ciphertexts(evidence.old, victims))
    assert stale
    assert all(piece in evidence.old.content for piece in stale)
    assert not any(piece in disk.content for piece in stale)


def test_the_scan_opens_every_live_entry(evidence: Evidence) -> None:
    opened = {entry.path for entry in evidence.old.opened.plain if entry.source == DATABASE}
    assert evidence.shredded.live
    assert evidence.shredded.live <= opened


def test_old_entries_outlive_the_shred_and_a_new_barrier_key_on_the_nodes_disk(evidence: Evidence) -> None:
    plain = evidence.old.opened.plain
    found = [found_in(plain, material) for material in evidence.shredded.victims.values()]
    assert all(LOG in sources for sources in found)
    assert evidence.shredded.in_freed_pages
    assert found_in(plain, evidence.shredded.neighbour_material) == {DATABASE, LOG}


def test_a_node_rebuilt_from_a_snapshot_taken_afterwards_holds_nothing_of_them(evidence: Evidence) -> None:
    assert_nothing_of_the_victims(evidence.rebuilt, evidence)


def test_a_rebuilt_node_holds_the_neighbour(evidence: Evidence) -> None:
    shredded, rebuilt = evidence.shredded, evidence.rebuilt
    assert found_in(rebuilt.opened.plain, shredded.neighbour_material) >= {DATABASE}
    kept = pieces(ciphertexts(rebuilt, [shredded.neighbour]))
    assert all(piece in rebuilt.content and piece in evidence.old.content for piece in kept)


def test_a_node_that_joins_inherits_old_entries_with_the_leaders_log(evidence: Evidence) -> None:
    plain = evidence.joined.opened.plain
    assert all(LOG in found_in(plain, material) for material in evidence.shredded.victims.values())


def test_a_node_that_joins_after_the_log_was_compacted_inherits_nothing(evidence: Evidence) -> None:
    shredded, joined = evidence.shredded, evidence.joined_later
    assert any(found_in(evidence.compacted.opened.plain, material) for material in shredded.victims.values())
    assert_nothing_of_the_victims(joined, evidence)
    assert found_in(joined.opened.plain, shredded.neighbour_material) >= {DATABASE}


def test_a_snapshot_holds_what_was_alive_when_it_was_taken(evidence: Evidence) -> None:
    shredded = evidence.shredded
    for snapshot, holds in ((shredded.before, True), (shredded.after, False)):
        content = snapshot_bytes(snapshot)
        plain = open_all(entries_in_snapshot(snapshot), shredded.unseal_key).plain
        for key, material in shredded.victims.items():
            assert (key.encode() in content) is bool(paths_holding(plain, material)) is holds
        assert paths_holding(plain, shredded.neighbour_material)
