"""The sequencer: takes events out of the outbox into the log. Every step can be repeated, by anybody, after a crash at any place.

Order (design, section 10): indices are committed in the database; bundles and tiles are durable in the log's directory; (size, root)
moves on in the engine by check-and-set; only then is the checkpoint signed. What an index stands for is decided by the database alone, so
two sequencers write the same bytes; and whichever moved the head, nobody signs another root of that size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from keyvault.errors import LogError, RestoreDetected, VerificationError
from keyvault.log import LogContext
from keyvault.log_head import EMPTY_ROOT, Head, move_head, read_head
from keyvault.store import log as log_store
from keyvault.store.log import Recorded
from keyvault.transit.base import TransitEngine
from shredder.log.checkpoint import Checkpoint, open_checkpoint, read_unverified
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.log.merkle import leaf_hash
from shredder.log.note import ED25519, VerifierKey, sign_note
from shredder.log.tiles import WIDTH, Edge, Tile, encode_bundle, new_tiles

MAX_ENTRIES = 10_000
MAX_BYTES = 16_000_000
"""Of entries that go into the log under one checkpoint."""


class Sequencer:
    """Writes one log. Not thread-safe; any number of them, anywhere, do no harm to each other."""

    def __init__(self, context: LogContext, engine: TransitEngine) -> None:
        """`engine` may sign with the log key and move the head; the caller closes it."""
        self._context = context
        self._engine = engine
        self._directory = LogDirectory(context.directory)
        self._key = VerifierKey(name=context.origin, type=ED25519, public=context.public_key)
        self._edge = Edge()

    def advance(self) -> None:
        """Take a batch of events into the log, under a new signed checkpoint; or finish the one that a crash left.

        Raises `LogError` when the log's directory is not the log, or cannot be written; `RestoreDetected` when database, engine and directory are
        from different moments; `Unavailable`. Nothing is signed then.
        """
        known = self._context.database.read(log_store.recorded)
        head = read_head(self._engine, self._context.incarnation)  # read last: it moves first
        before = _checkpoint_of(known, self._context.origin)
        _refuse_older_engine(before, head)
        target = head.size if before.size < head.size else self._assign(head)
        if target == before.size:
            self._show(known)
            return
        edge, files = self._grown(before, self._entries(before.size, target))
        if target == head.size and edge.root != head.root:
            raise RestoreDetected(
                f"the database's events up to {head.size} are not those in the log: it was restored from another moment, and nothing is logged"
            )
        self._directory.write(files)
        if target > head.size and not move_head(
            self._engine, self._context.incarnation, head, size=target, root=edge.root
        ):
            return  # another sequencer was faster, and has logged the same events
        self._sign(Checkpoint(origin=self._context.origin, size=target, root=edge.root))
        self._edge = edge
        for tile in new_tiles(before.size // WIDTH * WIDTH, target):
            if tile.width == WIDTH:
                self._directory.drop_partial(tile)

    def _assign(self, head: Head) -> int:
        """Commit indices; return the first that is free."""
        following = self._context.database.write(
            partial(log_store.assign, entries=MAX_ENTRIES, size=MAX_BYTES),
        )
        if following < head.size:
            raise RestoreDetected(
                f"the log has {head.size} entries, and the database knows of {following}: it was restored from a backup, and nothing is logged"
            )
        return following

    def _entries(self, first: int, end: int) -> Sequence[bytes]:
        found = self._context.database.read(partial(log_store.bodies, first=first, end=end))
        if len(found) != end - first:
            raise RestoreDetected(
                f"the database misses events from {first} to {end} of the log: it was restored from a backup, and nothing is logged"
            )
        return found

    def _grown(self, before: Checkpoint, entries: Sequence[bytes]) -> tuple[Edge, dict[str, bytes]]:
        """Return the tree's edge with these entries, and the files that are new, by path."""
        edge = self._edge_at(before)
        start = before.size // WIDTH * WIDTH
        there = list(self._directory.entries(start, before.size))
        if before.size % WIDTH and [leaf_hash(entry) for entry in there] != edge.rows[0]:
            raise LogError(
                f"the last bundle in {self._directory.path} is not what its tile says: restore the log's directory"
            )
        tiles = edge.grow([leaf_hash(entry) for entry in entries])
        behind = [*there, *entries]
        files = {tile.path: data for tile, data in tiles.items()}
        for tile in new_tiles(before.size, edge.size):
            if tile.level is None:
                files[tile.path] = encode_bundle(_of(tile, behind, start))
        return edge, files

    def _edge_at(self, before: Checkpoint) -> Edge:
        """Return the edge of the tree of the newest checkpoint: from memory, or from the directory, which must have its root."""
        if (self._edge.size, self._edge.root) == (before.size, before.root):
            return Edge(self._edge.size, self._edge.rows)
        try:
            edge = self._directory.edge(before.size)
        except VerificationError as error:
            raise LogError(f"{error} in {self._directory.path}: restore the log's directory") from error
        if edge.root != before.root:
            raise LogError(
                f"{self._directory.path} is not this log as of size {before.size}: restore the log's directory, and nothing is signed until then"
            )
        return edge

    def _sign(self, checkpoint: Checkpoint) -> None:
        """Sign a checkpoint that the head has, and let directory and database know, in this order."""
        note = sign_note(checkpoint.text, self._key, self._engine.sign)
        open_checkpoint(note, self._key)
        self._put(note, checkpoint.size)
        newest = self._context.database.write(
            partial(log_store.record, size=checkpoint.size, note=note.decode()),
        )
        if newest.size > checkpoint.size:
            self._show(newest)

    def _show(self, newest: Recorded) -> None:
        """Let the directory have the newest checkpoint, where a rival that was slow, or died, has left it an older one."""
        if newest.note is not None and self._directory.checkpoint() != newest.note.encode():
            self._put(newest.note.encode(), newest.size)

    def _put(self, note: bytes, size: int) -> None:
        if self._shown() < size:
            self._directory.write({CHECKPOINT: note})

    def _shown(self) -> int:
        """Return the size of the checkpoint in the directory, or 0 where there is none that this log's key has signed."""
        there = self._directory.checkpoint()
        try:
            return 0 if there is None else open_checkpoint(there, self._key).size
        except VerificationError:  # damaged, and about to be replaced by the newest
            return 0


def _checkpoint_of(known: Recorded, origin: str) -> Checkpoint:
    if known.note is None:
        return Checkpoint(origin=origin, size=0, root=EMPTY_ROOT)
    return read_unverified(known.note.encode())


def _refuse_older_engine(before: Checkpoint, head: Head) -> None:
    if before.size > head.size or (before.size == head.size and before.root != head.root):
        raise RestoreDetected(
            f"the database knows a checkpoint of size {before.size} that the engine's head of the log, at {head.size}, is not of: "
            "one of them was restored from another moment, and nothing is logged"
        )


def _of(bundle: Tile, entries: Sequence[bytes], start: int) -> Sequence[bytes]:
    first = bundle.number * WIDTH - start
    return entries[first : first + bundle.width]
