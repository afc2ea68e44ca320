"""Publishing: a copy of the log's directory for a static web server or a bucket, a reader of which always sees a whole log.

What is new is verified, tiles and bundles are durable, and only then is the checkpoint replaced: whoever reads a checkpoint finds every
tile of it, before, during and after a crash. One publisher works on a directory at a time.

What the published checkpoint covers was verified when it was copied, never changes, and is looked at by its size; everything else that is
there already, by its bytes.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from keyvault.errors import LogError, VerificationError
from shredder.log.checkpoint import Checkpoint, open_checkpoint
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.log.merkle import EMPTY_ROOT, HASH_BYTES, Node, leaf_hash, tree_root
from shredder.log.note import VerifierKey
from shredder.log.tiles import (
    MAX_LEVEL,
    WIDTH,
    WIDTH_BITS,
    Edge,
    Tile,
    decode_bundle,
    encode_bundle,
    new_tiles,
    parse_path,
    tiles_of,
)

LEVELS = MAX_LEVEL + 1
LEAVES_AT_ONCE = 16 * WIDTH
FILES_AT_ONCE = 64
"""Files that are made durable together: a folder is synced once for all of them."""

_DRAFT = re.compile(r"\.(checkpoint|[0-9]{1,3})\.[0-9a-f]{16}", re.ASCII)
"""What `LogDirectory` calls a file that it has not finished."""

Advance = Callable[[int], object]
Progress = Callable[[int], AbstractContextManager[Advance]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What was published: the log's size, the size that was published before (0 for none), and how many files were written."""

    size: int
    before: int
    files: int


def no_progress(_total: int) -> AbstractContextManager[Advance]:
    """Show nothing."""
    return nullcontext(lambda _count: None)


def publish(source: LogDirectory, target: Path, log_key: VerifierKey, *, progress: Progress = no_progress) -> Published:
    """Bring `target` up to the checkpoint of the log in `source`; what is there already is not copied again.

    `progress` is told how many files are looked at, and then of each. Raises `LogError` where `target` holds another log, a later
    checkpoint than the log's own, a fork, or files that this did not write; where the log's own directory is damaged; and where the disk
    refuses. `VerificationError` where a checkpoint is not signed by the log's key. Then nothing that readers see has changed.
    """
    with _locked(source, target):
        copy = LogDirectory(target)
        checkpoint, note = _own_checkpoint(source, log_key)
        before = _published(copy, log_key)
        node = source.node(checkpoint.size)
        _check_continues(before, checkpoint, node, target)
        if copy.checkpoint() is None:
            _check_left_over(source, copy, checkpoint.size)
        try:
            _verify_new(source, before.size, checkpoint, node)
        except VerificationError as error:
            raise LogError(
                f"the log's directory {source.path} is damaged, and nothing was published: {error}"
            ) from error
        with progress(sum(1 for _ in tiles_of(checkpoint.size))) as advance:
            written = _copy_tiles(source, copy, before.size, checkpoint.size, advance)
        if copy.checkpoint() != note:
            _forget_drafts({target})
            copy.write({CHECKPOINT: note})
            written += 1
        _drop_partial(target, checkpoint.size)
    return Published(size=checkpoint.size, before=before.size, files=written)


@contextmanager
def _locked(source: LogDirectory, target: Path) -> Iterator[None]:
    """Let one publisher work on a directory at a time. The kernel gives the lock back when a process ends, however it does."""
    home, there = source.path.resolve(), target.resolve()
    if home == there or home in there.parents or there in home.parents:
        raise LogError(f"{target} is the log's own directory, or in it, or around it: publish to another one")
    try:
        target.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LogError(
            f"{error.filename or target} cannot be used ({error.strerror}): readers see what they saw before; mend it, and publish again"
        ) from error


# --- what may be published ---------------------------------------------------------------------------------------------


def _own_checkpoint(source: LogDirectory, log_key: VerifierKey) -> tuple[Checkpoint, bytes]:
    note = source.checkpoint()
    if note is None:
        raise LogError(f"the log's directory {source.path} has no checkpoint: there is nothing to publish yet")
    return open_checkpoint(note, log_key), note


def _published(copy: LogDirectory, log_key: VerifierKey) -> Checkpoint:
    """Return the checkpoint that readers see now, verified; where there is none, that of the empty log."""
    note = copy.checkpoint()
    if note is None:
        return Checkpoint(origin=log_key.name, size=0, root=EMPTY_ROOT)
    return open_checkpoint(note, log_key)


def _check_continues(before: Checkpoint, now: Checkpoint, node: Node, target: Path) -> None:
    """Raise unless the log continues what was published."""
    if before.size > now.size:
        raise LogError(
            f"{target} shows a checkpoint of size {before.size}, and the log's own is of size {now.size}: the log's directory is an "
            "older copy. Bring the newest back (what was published can be copied into it) before anything is published"
        )
    if tree_root(before.size, node) != before.root:
        raise LogError(
            f"{target} shows a checkpoint of size {before.size} that this log does not continue: it was forked or altered. Keep both "
            "directories as they are, and find out which is the true one"
        )


def _verify_new(source: LogDirectory, old: int, checkpoint: Checkpoint, node: Node) -> None:
    """Raise unless the entries behind `old` give the tiles above them, and those the root that is signed."""
    edge = Edge(old, [[node(WIDTH_BITS * level, index) for index in _partial(old, level)] for level in range(LEVELS)])
    entries = source.entries(old, checkpoint.size)
    while leaves := [leaf_hash(entry) for entry in islice(entries, LEAVES_AT_ONCE)]:
        for tile, data in edge.grow(leaves).items():
            if tile.width == WIDTH and source.read(tile) != data:
                raise _damaged(source, tile.path)
    if (edge.size, edge.root) != (checkpoint.size, checkpoint.root):
        raise _damaged(source, CHECKPOINT)
    if source.edge(edge.size).rows[: len(edge.rows)] != edge.rows:
        raise _damaged(source, "a partial tile")


def _partial(size: int, level: int) -> range:
    """Return the indices of the nodes in the last, partial tile at a level."""
    count = size >> (WIDTH_BITS * level)
    return range(count - count % WIDTH, count)


def _damaged(source: LogDirectory, path: str) -> LogError:
    return LogError(
        f"{path} in the log's directory {source.path} does not go with its entries: the directory is damaged, and nothing was published. "
        "Restore that file from what was published, or from a backup of the directory"
    )


def _check_left_over(source: LogDirectory, copy: LogDirectory, size: int) -> None:
    """Raise unless every tile that is there without a checkpoint is of this log: a publisher may have been killed at its first run."""
    for path in (copy.path / "tile").rglob("*"):
        tile = parse_path(path.relative_to(copy.path).as_posix())
        if tile is not None and path.is_file() and not _begins_with(source, tile, path.read_bytes(), size):
            raise _anothers(path, tile)


def _begins_with(source: LogDirectory, tile: Tile, data: bytes, size: int) -> bool:
    """Tell whether a tile or bundle of any width is what the log has in its first places there."""
    width = min(WIDTH, (size >> (WIDTH_BITS * (tile.level or 0))) - tile.number * WIDTH)
    if width < tile.width:
        return False
    ours = source.read(tile._replace(width=width))
    if tile.level is not None:
        return data == ours[: tile.width * HASH_BYTES]
    return data == encode_bundle(decode_bundle(ours)[: tile.width])


def _anothers(path: Path, tile: Tile) -> LogError:
    return LogError(
        f"{path} is not the {tile.path} of this log: the directory is another log's, or was altered. Publish to an empty one, or remove "
        "that file and publish again"
    )


# --- copying -----------------------------------------------------------------------------------------------------------


def _copy_tiles(source: LogDirectory, copy: LogDirectory, old: int, new: int, advance: Advance) -> int:
    """Write the tiles and bundles that are not there; return how many."""
    uncovered = set(new_tiles(old, new))
    tiles = tiles_of(new)
    written = 0
    while some := list(islice(tiles, FILES_AT_ONCE)):
        missing = {
            tile.path: source.read(tile)
            for tile in some
            if not _is_there(source, copy, tile, by_bytes=tile in uncovered)
        }
        if missing:
            _forget_drafts({(copy.path / path).parent for path in missing})
            copy.write(missing)
        written += len(missing)
        advance(len(some))
    return written


def _is_there(source: LogDirectory, copy: LogDirectory, tile: Tile, *, by_bytes: bool) -> bool:
    """Tell whether a file is published. `LogError` where another one is in its place."""
    path = copy.path / tile.path
    try:
        size = path.stat().st_size
        data = path.read_bytes() if by_bytes else b""
    except FileNotFoundError:
        return False
    if (data == source.read(tile)) if by_bytes else (size == _size_of(source, tile)):
        return True
    raise _anothers(path, tile)


def _size_of(source: LogDirectory, tile: Tile) -> int:
    try:
        return (source.path / tile.path).stat().st_size
    except FileNotFoundError:
        return len(source.read(tile))  # of a partial one whose full one has taken its place


def _forget_drafts(folders: set[Path]) -> None:
    """Remove what a publisher that was killed has not finished: while the lock is held, nobody else is writing."""
    for folder in folders:
        for path in list(folder.iterdir()) if folder.is_dir() else ():
            if _DRAFT.fullmatch(path.name):
                path.unlink()


def _drop_partial(target: Path, size: int) -> None:
    """Remove the partial tiles and bundles whose full one is there, and nothing else."""
    for tile in tiles_of(size):
        folder = target / f"{tile.path}.p"
        if tile.width != WIDTH or not folder.is_dir():
            continue
        for path in list(folder.iterdir()):
            if _DRAFT.fullmatch(path.name) or parse_path(path.relative_to(target).as_posix()) is not None:
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
