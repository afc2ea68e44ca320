"""The disks of Vault's nodes and its snapshots: the exceptions to G5, and what ends them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.forensics.barrier import open_all
from tests.forensics.carving import entries_in_snapshot, snapshot_bytes
from tests.forensics.entries import Entry, paths_holding
from tests.forensics.nodes import Disk, compact_log, disk_of, joined_node, rebuilt_node
from tests.forensics.raw_storage import RawStorage
from tests.forensics.scopes import NEIGHBOUR, home_with, shred, transit_key_of
from tests.servers import VaultServer, running_vault

VICTIMS = [f"consumer/acct-1/victim-{index}" for index in range(20)]
DATABASE, LOG = "vault.db", "raft/raft.db"
PIECE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Shredded:
    """A server on which `victims` were just shredded: material by transit key, as raw storage had it before."""

    server: VaultServer
    victims: dict[str, bytes] = field(repr=False)
    neighbour: str
    neighbour_material: bytes = field(repr=False)
    live: set[str]
    before: Path
    after: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """The disks of three nodes: the one that shredded, one that joined it, one rebuilt from the snapshot taken afterwards."""

    shredded: Shredded
    old: Disk
    joined: Disk
    rebuilt: Disk


def shred_victims(directory: Path, server: VaultServer) -> Shredded:
    before, after = directory / "before.snap", directory / "after.snap"
    with home_with(directory, server, [*VICTIMS, NEIGHBOUR]).opened() as home, RawStorage(server) as raw:
        keys = [transit_key_of(home, name) for name in VICTIMS]
        victims = {key: raw.material_of(key)[1] for key in keys}
        neighbour = transit_key_of(home, NEIGHBOUR)
        kept = raw.material_of(neighbour)[1]
        server.snapshot(before)
        shred(home, *VICTIMS)
        server.snapshot(after)
        assert not any(paths_holding(raw.entries(), material) for material in victims.values())
        return Shredded(
            server=server,
            victims=victims,
            neighbour=neighbour,
            neighbour_material=kept,
            live=set(raw.paths("logical/")),
            before=before,
            after=after,
        )


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    with contextlib.ExitStack() as stack:

        def new_vault() -> VaultServer:
            return stack.enter_context(running_vault(raw_storage=True))

        shredded = shred_victims(tmp_path_factory.mktemp("forensics"), new_vault())
        shredded.server.request("POST", "sys/rotate")
        assert shredded.server.request("GET", "sys/key-status")["data"]["term"] == 2
        joined = joined_node(new_vault, shredded.server)
        old, new = disk_of(shredded.server), disk_of(joined)
        rebuilt = rebuilt_node(new_vault, shredded.after, of=shredded.server)
        return Evidence(shredded=shredded, old=old, joined=new, rebuilt=disk_of(rebuilt))


def found_in(entries: Iterable[Entry], material: bytes) -> set[str]:
    return {entry.source for entry in entries if paths_holding([entry], material)}


def ciphertexts(disk: Disk, keys: Iterable[str]) -> set[bytes]:
    """Return the values of these keys' entries, as the barrier encrypted them."""
    endings = tuple(f"/{key}" for key in keys)
    return {entry.value for entry in disk.opened.encrypted if entry.path.endswith(endings)}


def pieces(values: Iterable[bytes]) -> set[bytes]:
    """Cut values up, so that one that was partly overwritten, and fails authentication, is recognised by the rest."""
    return {value[at : at + PIECE] for value in values for at in range(0, len(value) - PIECE + 1, PIECE)}


def test_the_scan_opens_every_live_entry(evidence: Evidence) -> None:
    opened = {entry.path for entry in evidence.old.opened.plain if entry.source == DATABASE}
    assert evidence.shredded.live
    assert evidence.shredded.live <= opened


def test_old_entries_outlive_the_shred_and_a_new_barrier_key_on_the_nodes_disk(evidence: Evidence) -> None:
    plain = evidence.old.opened.plain
    found = [found_in(plain, material) for material in evidence.shredded.victims.values()]
    assert all(LOG in sources for sources in found)
    assert any(DATABASE in sources for sources in found), "freed pages"
    assert found_in(plain, evidence.shredded.neighbour_material) == {DATABASE, LOG}


def test_a_node_rebuilt_from_a_snapshot_taken_afterwards_holds_nothing_of_them(evidence: Evidence) -> None:
    shredded, rebuilt = evidence.shredded, evidence.rebuilt
    assert not any(paths_holding(rebuilt.opened.plain, material) for material in shredded.victims.values())
    assert not any(key.encode() in rebuilt.content for key in shredded.victims)
    stale = pieces(ciphertexts(evidence.old, shredded.victims))
    assert all(piece in evidence.old.content for piece in stale)
    assert not any(piece in rebuilt.content for piece in stale)


def test_a_rebuilt_node_holds_the_neighbour(evidence: Evidence) -> None:
    shredded, rebuilt = evidence.shredded, evidence.rebuilt
    assert found_in(rebuilt.opened.plain, shredded.neighbour_material) >= {DATABASE}
    kept = pieces(ciphertexts(rebuilt, [shredded.neighbour]))
    assert all(piece in rebuilt.content and piece in evidence.old.content for piece in kept)


def test_a_node_that_joins_inherits_old_entries_with_the_leaders_log(evidence: Evidence) -> None:
    plain = evidence.joined.opened.plain
    assert all(LOG in found_in(plain, material) for material in evidence.shredded.victims.values())


def test_a_node_that_joins_after_the_log_was_compacted_inherits_nothing(
    tmp_path: Path, new_vault: Callable[..., VaultServer]
) -> None:
    shredded = shred_victims(tmp_path, new_vault(raw_storage=True))
    compact_log(shredded.server)
    joined = disk_of(joined_node(new_vault, shredded.server))
    old = disk_of(shredded.server)
    stale = pieces(ciphertexts(old, shredded.victims))
    assert all(found_in(old.opened.plain, material) for material in shredded.victims.values()), (
        "compacting wipes nothing"
    )
    assert not any(piece in joined.content for piece in stale)
    assert found_in(joined.opened.plain, shredded.neighbour_material) >= {DATABASE}


def test_a_snapshot_holds_what_was_alive_when_it_was_taken(evidence: Evidence) -> None:
    shredded = evidence.shredded
    for snapshot, holds in ((shredded.before, True), (shredded.after, False)):
        content = snapshot_bytes(snapshot)
        plain = open_all(entries_in_snapshot(snapshot), shredded.server.unseal_key).plain
        for key, material in shredded.victims.items():
            assert (key.encode() in content) is bool(paths_holding(plain, material)) is holds
        assert paths_holding(plain, shredded.neighbour_material)
