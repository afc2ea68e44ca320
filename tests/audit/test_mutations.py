"""Whatever is changed in a pack in which a thousand keys were destroyed, verification finds it and names it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from keyvault.errors import LogError
from shredder.audit import worker
from shredder.audit.manifest import CHECKPOINT, LOG_KEY, MANIFEST, POPULATION, encode_manifest, parse_manifest
from shredder.log.checkpoint import Checkpoint, read_unverified
from shredder.log.directory import LogDirectory
from shredder.verify import Verified
from tests.audit.packs import Material, lines, note_of, packed, verified
from tests.logs import signed

Change = Callable[[bytes], bytes]

CHANGES: dict[str, Change] = {
    "a bit": lambda data: data[:-1] + bytes((data[-1] ^ 1,)),
    "its first byte": lambda data: bytes((data[0] ^ 128,)) + data[1:],
    "a byte less": lambda data: data[:-1],
    "a byte more": lambda data: data + b"\n",
    "nothing left": lambda _: b"",
    "twice": lambda data: data * 2,
    "halves swapped": lambda data: data[len(data) // 2 :] + data[: len(data) // 2],
}
LINES: dict[str, Callable[[list[bytes], int], list[bytes]]] = {
    "dropped": lambda rows, at: rows[:at] + rows[at + 1 :],
    "duplicated": lambda rows, at: rows[: at + 1] + rows[at:],
    "swapped": lambda rows, at: rows[:at] + rows[at + 1 : at + 2] + rows[at : at + 1] + rows[at + 2 :],
    "changed": lambda rows, at: [*rows[:at], b"x" + rows[at], *rows[at + 1 :]],
}
BY_LINES = (CHECKPOINT, LOG_KEY, POPULATION, MANIFEST)


@pytest.fixture
def copy(pack: Path, tmp_path: Path) -> Path:
    """A pack to be changed; its files are the shared ones until `put` replaces them."""
    shutil.copytree(pack, tmp_path / "copy", copy_function=os.link)
    return tmp_path / "copy"


def put(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def files(pack: Path) -> list[str]:
    found = (path.relative_to(pack).as_posix() for path in sorted(pack.rglob("*")) if path.is_file())
    return [name for name in found if name != "README.txt"]


def write_manifest(pack: Path) -> None:
    """Let the manifest be what the files are, as whoever changes them would."""
    from hashlib import sha256

    names = [name for name in files(pack) if name != MANIFEST]
    put(pack / MANIFEST, encode_manifest({name: sha256((pack / name).read_bytes()).hexdigest() for name in names}))


def assert_named(found: Verified, *names: str) -> None:
    """Every verification that fails says where: in one of these places."""
    assert found.findings
    assert any(finding.where in names for finding in found.findings), lines(found)


def entry_names(name: str) -> list[str]:
    """Return what a finding in a tile may name: it, or an entry under it."""
    return [name, CHECKPOINT, *(f"entry {index}" for index in range(2_000))] if name.startswith("tile/") else [name]


def test_nothing_is_found_in_what_was_not_changed(pack: Path, copy: Path, thousand: Material) -> None:
    assert lines(verified(pack, thousand.at)) == []
    assert lines(verified(copy, thousand.at, previous=note_of(pack))) == []
    write_manifest(copy)
    assert lines(verified(copy, thousand.at)) == []


def test_each_file_changed_in_each_way(copy: Path, pack: Path, thousand: Material) -> None:
    for number, name in enumerate(files(pack)):
        data = (pack / name).read_bytes()
        ways = [*CHANGES.items()]
        for what, change in [ways[number % len(ways)]] if name.startswith("proofs/") else ways:
            changed = change(data)
            assert changed != data, (name, what)
            put(copy / name, changed)
            assert_named(verified(copy, thousand.at), *entry_names(name))
        put(copy / name, data)
    assert lines(verified(copy, thousand.at)) == []


def test_with_another_process_for_the_tree(
    copy: Path, pack: Path, thousand: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is for large logs: the same is found, in the same words."""
    (bundle,) = (copy / "tile" / "entries").glob("*.p/*")
    name, tile = bundle.relative_to(copy).as_posix(), "tile/0/001"
    wrong = thousand.entries[300].replace(b'"v":1}', b'"v":2}')
    changes: dict[str, list[bytes | None]] = {
        name: [bundle.read_bytes()[:-1]],
        "tile/entries/001": [(pack / "tile/entries/001").read_bytes().replace(thousand.entries[300], wrong), None],
        tile: [(pack / tile).read_bytes()[32:] + bytes(32), None],
        "tile/1/000.p/5": [None],
    }
    for path, ways in changes.items():
        for data in ways:
            (copy / path).unlink()
            if data is not None:
                put(copy / path, data)
            here = lines(verified(copy, thousand.at))
            with monkeypatch.context() as patch:
                patch.setattr(worker, "SMALL", 0)
                assert lines(verified(copy, thousand.at)) == here != []
        put(copy / path, (pack / path).read_bytes())
    monkeypatch.setattr(worker, "SMALL", 0)
    assert lines(verified(copy, thousand.at)) == []


def test_a_process_that_dies_is_no_success(copy: Path, thousand: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SMALL", 0)
    monkeypatch.setattr(worker, "_work", os._exit)
    with pytest.raises(LogError, match="died, and nothing was verified"):
        verified(copy, thousand.at)


def test_each_file_dropped_or_renamed_or_replaced_by_another(copy: Path, pack: Path, thousand: Material) -> None:
    names = files(pack)
    for number, (name, other) in enumerate(zip(names, names[1:] + names[:1], strict=True)):
        data = (pack / name).read_bytes()
        ways: list[dict[str, bytes]] = [{}, {f"{name}.bak": data}, {name: (pack / other).read_bytes()}]
        for added in [ways[number % len(ways)]] if name.startswith("proofs/") else ways:
            (copy / name).unlink()
            for path, content in added.items():
                put(copy / path, content)
            assert_named(verified(copy, thousand.at), *entry_names(name))
            (copy / f"{name}.bak").unlink(missing_ok=True)
            put(copy / name, data)
    assert lines(verified(copy, thousand.at)) == []


@pytest.mark.parametrize(
    "name",
    ["extra", ".hidden", "tile/0/999", "tile/entries/000.p/7", "tile/2/000", "proofs/0.tlog-proof", "x/page.html"],
)
def test_what_does_not_belong_is_named(copy: Path, thousand: Material, name: str) -> None:
    put(copy / name, b"anything")
    write_manifest(copy)
    assert_named(verified(copy, thousand.at), name)


def test_a_link_is_no_file(copy: Path, pack: Path, thousand: Material) -> None:
    (copy / CHECKPOINT).unlink()
    (copy / CHECKPOINT).symlink_to(pack / CHECKPOINT)
    assert_named(verified(copy, thousand.at), CHECKPOINT)


def test_pages_to_read_are_not_verified(copy: Path, thousand: Material) -> None:
    put(copy / "report.html", b"anything")
    put(copy / "README.txt", b"anything")
    assert lines(verified(copy, thousand.at)) == []


@pytest.mark.parametrize("name", BY_LINES)
@pytest.mark.parametrize("what", LINES)
def test_each_line(copy: Path, pack: Path, thousand: Material, name: str, what: str) -> None:
    data = (pack / name).read_bytes()
    rows = data.splitlines(keepends=True)
    for at in range(0, len(rows), max(1, len(rows) // 20)):
        changed = b"".join(LINES[what](rows, at))
        if changed != data:
            put(copy / name, changed)
            if name != MANIFEST:
                write_manifest(copy)
            assert_named(verified(copy, thousand.at), name)


@pytest.mark.parametrize("index", [0, 100, 255, 256, 1_000])
def test_an_entry_changed_with_its_leaf_and_every_tile_above_it(
    copy: Path, thousand: Material, tmp_path: Path, index: int
) -> None:
    """Whoever cannot sign keeps the checkpoint, and works everything else out again."""
    entries = [*thousand.entries]
    entries[index] = entries[index].replace(b'"v":1}', b'"v":2}')
    forged = packed(tmp_path, thousand, entries)
    put(forged / CHECKPOINT, note_of(copy))
    write_manifest(forged)
    assert_named(verified(forged, thousand.at), CHECKPOINT)


def test_an_older_checkpoint_with_its_tree(pack: Path, thousand: Material, tmp_path: Path) -> None:
    """A rollback is whole in itself: only the checkpoint that the auditor kept tells."""
    older = packed(tmp_path, thousand, thousand.entries[:-200])
    found = verified(older, thousand.at, previous=note_of(pack))
    assert "checkpoint: previous-checkpoint: the pack is older than your checkpoint" in "\n".join(lines(found))
    assert lines(verified(pack, thousand.at, previous=note_of(older))) == []


def test_an_older_checkpoint_alone(copy: Path, thousand: Material, tmp_path: Path) -> None:
    older = packed(tmp_path, thousand, thousand.entries[:-200])
    put(copy / CHECKPOINT, note_of(older))
    write_manifest(copy)
    assert_named(verified(copy, thousand.at), CHECKPOINT, "tile/0/005.p/169")


def test_another_root_under_the_right_key(copy: Path, thousand: Material) -> None:
    there = read_unverified(note_of(copy))
    put(copy / CHECKPOINT, signed(Checkpoint(origin=there.origin, size=there.size, root=bytes(32))))
    write_manifest(copy)
    assert_named(verified(copy, thousand.at), CHECKPOINT)


def position(entries: Sequence[bytes], kind: str, *, after: int = 0) -> int:
    return next(at for at in range(after, len(entries)) if json.loads(entries[at])["type"] == kind)


def without(kind: str) -> Callable[[list[bytes]], list[bytes]]:
    def change(entries: list[bytes]) -> list[bytes]:
        at = position(entries, kind)
        return entries[:at] + entries[at + 1 :]

    return change


def _destroyed_before_its_fence(entries: list[bytes]) -> list[bytes]:
    fence = position(entries, "destroy.fenced")
    done = position(entries, "key.destroyed", after=fence)
    return [*entries[:fence], entries[done], entries[fence], *entries[fence + 1 : done], *entries[done + 1 :]]


def _twice(entries: list[bytes]) -> list[bytes]:
    at = position(entries, "key.destroyed")
    return [*entries[:at], entries[at], *entries[at:]]


def _without_a_creation(entries: list[bytes]) -> list[bytes]:
    gone = json.loads(entries[position(entries, "key.destroyed")])["scopes"][0].encode()
    at = next(at for at, entry in enumerate(entries) if gone in entry)
    return entries[:at] + entries[at + 1 :]


FORKS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a creation removed": _without_a_creation,
    "a fence removed": without("destroy.fenced"),
    "a destruction removed": without("key.destroyed"),
    "a record's destruction removed": without("record.destroyed"),
    "a fact removed": without("facts.recorded"),
    "a destruction twice": _twice,
    "a destruction before its fence": _destroyed_before_its_fence,
}

LEFT_PENDING = {"a destruction removed": 10, "a record's destruction removed": 2}
"""What is then said to be fenced, and not gone yet; which is no mistake in itself."""


@pytest.mark.parametrize("what", FORKS)
def test_a_forked_log_under_the_right_key(pack: Path, thousand: Material, tmp_path: Path, what: str) -> None:
    """The key's owner can sign anything: then the auditor's own checkpoint tells, and mostly what the entries say."""
    forked = packed(tmp_path, thousand, FORKS[what]([*thousand.entries]))
    assert_named(verified(forked, thousand.at, previous=note_of(pack)), CHECKPOINT)
    found = verified(forked, thousand.at)
    assert found.ledger is not None
    if what in LEFT_PENDING:
        assert (lines(found), len(found.ledger.pending)) == ([], LEFT_PENDING[what])
    else:
        assert any(finding.where.startswith("entry ") for finding in found.findings), lines(found)


def test_proofs_that_are_not_the_packs(copy: Path, pack: Path, thousand: Material, tmp_path: Path) -> None:
    """Under a manifest that is right."""
    (name, *_) = sorted((pack / "proofs").iterdir())
    path = copy / "proofs" / name.name
    data = path.read_bytes()
    other = note_of(packed(tmp_path, thousand, thousand.entries[:-1]))
    changes = {
        "another checkpoint": data.replace(note_of(pack), other),
        "an extra line": data.replace(b"index ", b"extra aGVsbG8=\nindex "),
        "another index": data.replace(b"index ", b"index 1"),
        "a hash less": b"\n".join(row for at, row in enumerate(data.split(b"\n")) if at != 2),
    }
    for what, changed in changes.items():
        assert changed != data, what
        put(path, changed)
        write_manifest(copy)
        assert_named(verified(copy, thousand.at), f"proofs/{name.name}")


def test_the_manifest_is_in_other_peoples_form(pack: Path) -> None:
    assert parse_manifest((pack / MANIFEST).read_bytes()).keys() == {name for name in files(pack) if name != MANIFEST}


def test_the_pack_is_the_log(pack: Path) -> None:
    there = read_unverified(note_of(pack))
    assert LogDirectory(pack).edge(there.size).root == there.root
