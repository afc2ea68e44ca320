"""Publishing a log: incremental, last the checkpoint, never over what is another's, and never from a damaged log."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvault.errors import LogError, VerificationError
from shredder.log import publish as publishing
from shredder.log.checkpoint import read_unverified
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.log.publish import Advance, Published, publish
from shredder.log.tiles import WIDTH, Tile, tiles_of
from tests.logs import LOG_KEY, signed, write_log
from tests.publishing import assert_whole, entries_of


@pytest.fixture
def log(tmp_path: Path) -> LogDirectory:
    return LogDirectory(tmp_path / "log")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "www" / "log"


def run(log: LogDirectory, target: Path) -> Published:
    return publish(log, target, LOG_KEY)


def files(target: Path) -> dict[str, bytes]:
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [1, 255, 256, 257, 700, 70_000])
def test_a_copy_has_every_tile_of_its_checkpoint_and_nothing_more(log: LogDirectory, target: Path, size: int) -> None:
    write_log(log.path, entries_of(size))
    done = run(log, target)
    assert (done.size, done.before) == (size, 0)
    assert set(files(target)) == {CHECKPOINT, *(tile.path for tile in tiles_of(size))}
    assert done.files == len(files(target))
    assert_whole(target, entries_of(size))


def test_only_what_is_new_is_written(log: LogDirectory, target: Path) -> None:
    write_log(log.path, entries_of(600))
    run(log, target)
    before = {path: path.stat().st_ino for path in target.rglob("*") if path.is_file()}
    assert run(log, target) == Published(size=600, before=600, files=0)
    write_log(log.path, entries_of(900))
    assert run(log, target) == Published(size=900, before=600, files=6)
    kept = [path for path, inode in before.items() if path.exists() and path.stat().st_ino == inode]
    assert sorted(path.relative_to(target).as_posix() for path in kept) == [
        "tile/0/000",
        "tile/0/001",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
    ]
    assert_whole(target, entries_of(900))


def test_partial_tiles_go_once_their_full_one_is_there(log: LogDirectory, target: Path) -> None:
    for size in (100, 200, 255):
        write_log(log.path, entries_of(size))
        run(log, target)
    assert {name for name in files(target) if ".p/" in name} == {
        f"tile/{level}/000.p/{size}" for level in ("0", "entries") for size in (100, 200, 255)
    }
    write_log(log.path, entries_of(256))
    run(log, target)
    assert set(files(target)) == {CHECKPOINT, "tile/0/000", "tile/entries/000", "tile/1/000.p/1"}


def test_a_partial_tile_that_the_log_has_dropped_is_still_published_at_its_size(
    log: LogDirectory, target: Path
) -> None:
    """The checkpoint was read while the log had 200 entries; by now it has 300, and the partial tile of 200 is gone."""
    write_log(log.path, entries_of(200))
    older = log.checkpoint()
    assert older is not None
    write_log(log.path, entries_of(300))
    for level in (0, None):
        log.drop_partial(Tile(level, 0))
    log.write({CHECKPOINT: older})
    assert run(log, target).size == 200
    assert_whole(target, entries_of(200))


def test_what_is_not_ours_stays(log: LogDirectory, target: Path) -> None:
    foreign = ["index.html", ".well-known/x", ".keep.0123456789abcdef", "tile/README", "tile/0/000.p/notes.txt"]
    for name in foreign:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("theirs")
    write_log(log.path, entries_of(100))
    run(log, target)
    write_log(log.path, entries_of(300))
    run(log, target)
    assert [(target / name).read_text() for name in foreign] == ["theirs"] * len(foreign)
    assert not (target / "tile/0/000.p/100").exists()


# --- refusals: readers see what they saw before ------------------------------------------------------------------------


@contextmanager
def nothing_changes(target: Path) -> Iterator[None]:
    before = files(target)
    yield
    assert files(target) == before


def test_an_older_log_is_refused(log: LogDirectory, target: Path) -> None:
    write_log(log.path, entries_of(300))
    run(log, target)
    write_log(log.path, entries_of(299))
    with nothing_changes(target), pytest.raises(LogError, match="size 300, and the log's own is of size 299"):
        run(log, target)


@pytest.mark.parametrize("size", [300, 301, 600])
def test_a_fork_is_refused(log: LogDirectory, target: Path, tmp_path: Path, size: int) -> None:
    write_log(log.path, entries_of(300))
    run(log, target)
    other = tmp_path / "fork"
    write_log(other, [*entries_of(299), b"another", *entries_of(size)[300:]])
    with nothing_changes(target), pytest.raises(LogError, match="does not continue"):
        run(LogDirectory(other), target)


def test_a_checkpoint_of_another_key_or_of_none_is_refused(log: LogDirectory, target: Path) -> None:
    checkpoint = write_log(log.path, entries_of(3))
    target.mkdir(parents=True)
    for note in (signed(checkpoint, Ed25519PrivateKey.generate()), b"hello\n"):
        (target / CHECKPOINT).write_bytes(note)
        with nothing_changes(target), pytest.raises(VerificationError):
            run(log, target)


@pytest.mark.parametrize("size", [3, 255, 256, 300, 301, 600])
def test_another_log_without_a_checkpoint_is_refused(log: LogDirectory, target: Path, size: int) -> None:
    write_log(log.path, entries_of(300))
    write_log(target, [b"other %d" % number for number in range(size)])
    (target / CHECKPOINT).unlink()
    with nothing_changes(target), pytest.raises(LogError, match="another log's"):
        run(log, target)


def test_what_a_first_publisher_left_of_a_smaller_log_is_taken_for_our_own(log: LogDirectory, target: Path) -> None:
    write_log(target, entries_of(100))
    (target / CHECKPOINT).unlink()
    write_log(log.path, entries_of(200))
    assert run(log, target).files == 3
    assert_whole(target, entries_of(200))


def test_a_covered_file_of_another_length_is_refused_and_a_missing_one_is_written_again(
    log: LogDirectory, target: Path
) -> None:
    write_log(log.path, entries_of(300))
    run(log, target)
    bundle = target / "tile/entries/000"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[:-1])
    with nothing_changes(target), pytest.raises(LogError, match="tile/entries/000"):
        run(log, target)
    bundle.unlink()
    assert run(log, target).files == 1
    assert bundle.read_bytes() == whole


@pytest.mark.parametrize(
    "path", ["tile/entries/000", "tile/0/001", "tile/1/000.p/2", "tile/entries/002.p/88", CHECKPOINT]
)
def test_a_damaged_log_is_not_published(log: LogDirectory, target: Path, path: str) -> None:
    write_log(log.path, entries_of(600))
    data = bytearray((log.path / path).read_bytes())
    data[40] ^= 1
    (log.path / path).write_bytes(data)
    with pytest.raises((LogError, VerificationError)):
        run(log, target)
    assert files(target) == {}


def test_a_log_without_a_checkpoint_and_a_missing_tile_are_told(log: LogDirectory, target: Path) -> None:
    with pytest.raises(LogError, match="nothing to publish yet"):
        run(log, target)
    write_log(log.path, entries_of(300))
    (log.path / "tile/0/000").unlink()
    with pytest.raises(LogError, match="tile/0/000 is missing"):
        run(log, target)
    assert files(target) == {}


@pytest.mark.parametrize("where", [".", "sub", ".."])
def test_the_logs_own_directory_is_no_place_to_publish_to(log: LogDirectory, where: str) -> None:
    write_log(log.path, entries_of(3))
    with nothing_changes(log.path), pytest.raises(LogError, match="publish to another one"):
        run(log, log.path / where)


def test_a_file_in_the_way_is_told(log: LogDirectory, target: Path) -> None:
    write_log(log.path, entries_of(3))
    target.parent.mkdir()
    target.write_text("a file")
    with pytest.raises(LogError, match="cannot be used"):
        run(log, target)
    target.unlink()
    target.mkdir()
    (target / "tile").write_text("a file")
    with nothing_changes(target), pytest.raises(LogError, match="tile"):
        run(log, target)


# --- a full disk, two at once --------------------------------------------------------------------------------------------


def refused(log: LogDirectory, target: Path) -> bool:
    try:
        run(log, target)
    except LogError as error:
        return "No space left" in str(error)
    return False


def test_a_full_disk_changes_nothing_for_readers_and_the_next_run_goes_on(
    log: LogDirectory, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(log.path, entries_of(100))
    run(log, target)
    write_log(log.path, entries_of(700))
    real, full = os.fsync, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for room in range(100):
        left = iter(range(room))

        def fsync(descriptor: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise full
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        if not refused(log, target):
            break
        seen = read_unverified((target / CHECKPOINT).read_bytes()).size
        assert seen in {100, 700}
        assert_whole(target, entries_of(seen))
    monkeypatch.setattr(os, "fsync", real)
    assert room > 0
    assert run(log, target).size == 700
    assert_whole(target, entries_of(700))
    assert not any(path.name.startswith(".") for path in target.rglob("*"))


def test_of_two_at_once_the_second_waits_and_copies_nothing_twice(
    log: LogDirectory, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(log.path, entries_of(600))
    inside, go_on = threading.Event(), threading.Event()
    original = publishing._copy_tiles

    def slow(*args: object) -> int:
        inside.set()
        assert go_on.wait(30)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(publishing, "_copy_tiles", slow)
    done: list[Published] = []
    threads = [threading.Thread(target=lambda: done.append(run(log, target))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    write_log(log.path, entries_of(650))
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert [(one.before, one.size) for one in done] == [(0, 600), (600, 650)]
    assert_whole(target, entries_of(650))


def test_progress_counts_every_file(log: LogDirectory, target: Path) -> None:
    write_log(log.path, entries_of(70_000))
    told: list[int] = []

    @contextmanager
    def progress(total: int) -> Iterator[Advance]:
        told.append(total)
        counted: list[int] = []
        yield counted.append
        told.append(sum(counted))

    publish(log, target, LOG_KEY, progress=progress)
    assert told == [len(list(tiles_of(70_000)))] * 2
    assert told[0] > WIDTH
