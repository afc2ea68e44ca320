"""The log's directory: what is read from it, what of it may be missing, and what a crash leaves."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from keyvault.errors import LogError
from shredder.log.directory import LogDirectory
from shredder.log.merkle import consistency_proof, inclusion_proof, tree_root
from shredder.log.tiles import Tile, encode_bundle, tiles_of
from tests.forking import fork
from tests.log_oracle import Tree
from tests.logs import signed, write_log

MOST = 70_000
TREE = Tree([b"entry %d" % number for number in range(MOST)])
SIZES = (0, 1, 255, 256, 257, 600)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> LogDirectory:
    """A log of three levels."""
    path = tmp_path_factory.mktemp("large") / "log"
    write_log(path, TREE.entries)
    return LogDirectory(path)


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_log_is_these_files_and_no_other(path: Path, size: int) -> None:
    checkpoint = write_log(path, TREE.entries[:size])
    assert (checkpoint.size, checkpoint.root) == (size, TREE.mth(0, size))
    files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert files.pop("checkpoint") == signed(checkpoint) == LogDirectory(path).checkpoint()
    assert files == TREE.tiles(size)
    assert set(files) == {tile.path for tile in tiles_of(size)}


def test_a_directory_that_is_not_there_has_no_checkpoint(path: Path) -> None:
    assert LogDirectory(path).checkpoint() is None


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "end"), [(0, 0), (0, 1), (0, 600), (255, 257), (256, 512), (300, 301), (512, 513), (598, 599), (599, 600)]
)
def test_entries(path: Path, first: int, end: int) -> None:
    write_log(path, TREE.entries[:600])
    assert list(LogDirectory(path).entries(first, end)) == TREE.entries[first:end]


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 65_535, 65_536, 65_537, 65_791, 69_887, 69_999, 70_000])
def test_an_older_tree_is_read_out_of_a_newer(large: LogDirectory, size: int) -> None:
    """Where a wider tile stands, partial or full, that of an older size is its beginning."""
    for number in range(MOST // 256):
        large.drop_partial(Tile(0, number))
    node = large.node(size)
    assert tree_root(size, node) == TREE.mth(0, size)
    for index in {0, size // 2, size - 1}:
        assert inclusion_proof(index, size, node) == TREE.path(index, 0, size)
        assert consistency_proof(index + 1, size, node) == TREE.proof(index + 1, size)


def test_an_edge_is_read_and_grows(large: LogDirectory, path: Path) -> None:
    edge = large.edge(MOST)
    assert edge.root == TREE.mth(0, MOST)
    for size in SIZES:
        write_log(path / str(size), TREE.entries[:size])
        found = LogDirectory(path / str(size)).edge(size)
        assert (found.size, found.root) == (size, TREE.mth(0, size))
        found.grow([TREE.mth(index, index + 1) for index in range(size, 700)])
        assert found.root == TREE.mth(0, 700)


def test_a_partial_tile_is_read_out_of_the_full_one(path: Path) -> None:
    write_log(path, TREE.entries[:256])
    directory = LogDirectory(path)
    for width in range(1, 257):
        bundle = Tile(None, 0, width)
        assert directory.bundle(bundle) == TREE.entries[:width]
        assert directory.read(bundle) == encode_bundle(TREE.entries[:width])
        assert directory.read(Tile(0, 0, width)) == b"".join(TREE.mth(index, index + 1) for index in range(width))


def test_a_partial_tile_is_read_out_of_the_narrowest_that_is_wide_enough(path: Path) -> None:
    for size in (3, 200, 9):
        write_log(path, TREE.entries[:size])
    directory = LogDirectory(path)
    (path / "tile/entries/000.p/200").write_bytes(b"")
    (path / "tile/entries/000.p/.200.draft").write_bytes(b"")
    (path / "tile/entries/000.p/0100").write_bytes(b"")
    assert directory.bundle(Tile(None, 0, 4)) == TREE.entries[:4]
    with pytest.raises(LogError, match=r"^tile/entries/000\.p/200 in .* is not as long as its name says"):
        directory.bundle(Tile(None, 0, 10))
    with pytest.raises(LogError, match=r"^tile/entries/000\.p/201 is missing in "):
        directory.bundle(Tile(None, 0, 201))


def test_dropping_what_a_full_tile_replaced(path: Path) -> None:
    directory = LogDirectory(path)
    for size in (3, 200, 256):
        write_log(path, TREE.entries[:size])
    for tile in (Tile(None, 0), Tile(0, 0)):
        directory.drop_partial(tile)
        directory.drop_partial(tile)
    left = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert left == {"checkpoint", "tile/entries/000", "tile/0/000", "tile/1/000.p/1"}
    assert list(directory.entries(0, 200)) == TREE.entries[:200]
    assert directory.edge(200).root == TREE.mth(0, 200)


# --- damage ----------------------------------------------------------------------------------------------------------


def reads(directory: LogDirectory) -> dict[str, Callable[[], object]]:
    """Everything that reads the files of a log of 300."""
    return {
        "entries": lambda: list(directory.entries(0, 300)),
        "edge": lambda: directory.edge(300),
        "node": lambda: tree_root(300, directory.node(300)),
        "files": lambda: [directory.read(tile) for tile in tiles_of(300)],
    }


NEEDS = {
    "tile/entries/000": ("entries", "files"),
    "tile/entries/001.p/44": ("entries", "files"),
    "tile/0/000": ("files",),
    "tile/0/001.p/44": ("edge", "node", "files"),
    "tile/1/000.p/1": ("edge", "node", "files"),
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_file(path: Path, name: str) -> None:
    write_log(path, TREE.entries[:300])
    (path / name).unlink()
    expected = re.escape(f"{name} is missing in {path}: restore the log's directory")
    for what, read in reads(LogDirectory(path)).items():
        if what in NEEDS[name]:
            with pytest.raises(LogError, match=f"^{expected}$"):
                read()
        else:
            read()


def damaged(data: bytes) -> Iterator[bytes]:
    yield b""
    yield data[:-1]
    yield data[:-32]
    yield data + b"\0"
    yield data + b"\0\0"
    yield data + bytes(32)


@pytest.mark.parametrize("name", NEEDS)
def test_a_file_of_another_length(path: Path, name: str) -> None:
    write_log(path, TREE.entries[:300])
    expected = re.escape(f"{name} in {path} is not as long as its name says: restore the log's directory")
    for data in damaged((path / name).read_bytes()):
        (path / name).write_bytes(data)
        for what in NEEDS[name]:
            with pytest.raises(LogError, match=f"^{expected}$"):
                reads(LogDirectory(path))[what]()


@pytest.mark.parametrize("level", [None, 0])
def test_a_full_file_too_short_for_the_partial_one(path: Path, level: int | None) -> None:
    """It is damaged, even where what is asked for could be read out of it."""
    write_log(path, TREE.entries[:256])
    full = path / Tile(level, 0).path
    full.write_bytes(encode_bundle(TREE.entries[:200]) if level is None else bytes(200 * 32))
    for width in (1, 200, 201):
        with pytest.raises(LogError, match=r"is not as long as its name says"):
            LogDirectory(path).read(Tile(level, 0, width))


def test_an_entry_dropped_out_of_a_bundle(path: Path) -> None:
    write_log(path, TREE.entries[:300])
    (path / "tile/entries/000").write_bytes(encode_bundle(TREE.entries[:255]))
    for read in (lambda: list(LogDirectory(path).entries(10, 20)), lambda: LogDirectory(path).read(Tile(None, 0))):
        with pytest.raises(LogError, match=r"^tile/entries/000 in .* is not as long as its name says"):
            read()


@pytest.mark.parametrize("name", ["checkpoint", "tile/entries/000.p/3"])
def test_a_file_that_cannot_be_read(path: Path, name: str) -> None:
    write_log(path, TREE.entries[:3])
    (path / name).unlink()
    (path / name).mkdir()
    directory = LogDirectory(path)
    read = directory.checkpoint if name == "checkpoint" else lambda: directory.read(Tile(None, 0, 3))
    with pytest.raises(LogError, match=rf"^{name} in .* cannot be read \(Is a directory\): mend that, or restore it$"):
        read()


# --- crashes ---------------------------------------------------------------------------------------------------------

T = TypeVar("T")
OLD, NEW = {"a/b/file": b"old", "a/other": b"old too"}, {"a/b/file": b"new", "a/other": b"new too", "c/d/third": b"3"}


class Step:
    """Does something at one step of a write: the n-th time that a file or folder is synced, or put in its place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fatal: int, action: Callable[[], None]) -> None:
        self.left, self.action = fatal, action
        fsync, replace = os.fsync, Path.replace
        monkeypatch.setattr(os, "fsync", lambda descriptor: fsync(self.taken(descriptor)))
        monkeypatch.setattr(Path, "replace", lambda path, target: replace(self.taken(path), target))

    def taken(self, what: T) -> T:
        self.left -= 1
        if self.left == 0:
            self.action()
        return what


def contents(path: Path) -> dict[str, bytes]:
    files = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items()}


def no_space() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write(path: Path, fatal: int, action: Callable[[], None]) -> bool:
    """Write the new files in a process of its own; return whether it came to its end."""
    child = fork()
    if child == 0:
        code = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                Step(patch, fatal, action)
                LogDirectory(path).write(NEW)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def test_a_crash_leaves_each_file_whole_old_or_new(path: Path) -> None:
    for fatal in range(1, 40):
        folder = path / str(fatal)
        LogDirectory(folder).write(OLD)
        ended = write(folder, fatal, killed)
        found = {name: data for name, data in contents(folder).items() if not Path(name).name.startswith(".")}
        for name, data in found.items():
            assert data in {OLD.get(name), NEW[name]}
        assert set(OLD) <= set(found)
        LogDirectory(folder).write(NEW)
        assert {name: (folder / name).read_bytes() for name in NEW} == NEW
        if ended:
            assert found == NEW
            assert fatal > 10
            return
    pytest.fail("the write never came to its end")


def test_a_disk_that_fails_is_told_and_leaves_no_draft(path: Path) -> None:
    for fatal in range(1, 40):
        folder = path / str(fatal)
        LogDirectory(folder).write(OLD)
        with pytest.MonkeyPatch.context() as patch:
            step = Step(patch, fatal, no_space)
            said = refusal(LogDirectory(folder))
        found = contents(folder)
        assert all(data in {OLD.get(name), NEW.get(name)} for name, data in found.items())
        assert set(found) <= set(NEW)
        if step.left > 0:
            assert said is None
            assert found == NEW
            assert fatal > 10
            return
        message = "cannot be written (No space left on device): nothing was signed; make room, and run it again"
        assert said == f"the log's directory {folder} {message}"
    pytest.fail("the write never came to its end")


def refusal(directory: LogDirectory) -> str | None:
    try:
        directory.write(NEW)
    except LogError as error:
        return str(error)
    return None


def test_a_folder_is_on_disk_before_the_file_in_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is synced before it takes its name, and its folder after; each new folder's own entry is synced too."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        name = os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), path)
        steps.append("sync a draft" if Path(name).name.startswith(".") and name != "." else f"sync {name}")
        fsync(descriptor)

    def noted_replace(draft: Path, target: Path) -> Path:
        steps.append(f"replace {target.relative_to(path)}")
        return replace(draft, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    path.mkdir()
    LogDirectory(path).write({"a/file": b"1"})
    assert steps == ["sync .", "sync a draft", "replace a/file", "sync a"]
