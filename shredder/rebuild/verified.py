"""Looking at a log before anything is rebuilt from it: its checkpoint, every entry, and the head that the engine keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from keyvault.errors import LogError, RestoreDetected, VerificationError
from keyvault.log_head import Head
from shredder.log.checkpoint import Checkpoint, open_checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.merkle import leaf_hash
from shredder.log.note import VerifierKey
from shredder.log.tiles import WIDTH, Edge

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedLog:
    """A log that was found whole: `size` entries, of which the newest checkpoint, if there is one, covers `signed`.

    `note` is that checkpoint's. The engine's head may be ahead of it: a sequencer died before it signed, and the next one signs.
    """

    size: int
    signed: int
    note: str | None


def verify_log(directory: LogDirectory, head: Head, key: VerifierKey, progress: Progress) -> VerifiedLog:
    """Hash every entry, and compare with the checkpoint, and with the head in the engine.

    Raises `LogError` for a log that is empty or not there, `RestoreDetected` when the engine's head is behind the checkpoint, and
    `VerificationError` when the checkpoint is not signed by the log's key, or entries are not those that checkpoint and head are of.
    """
    if head.size == 0:
        raise LogError(
            f"the log of {key.name} is empty: there is nothing to rebuild from; make the home with `keyvault init`"
        )
    note = directory.checkpoint()
    checkpoint = Checkpoint(origin=key.name, size=0, root=Edge().root) if note is None else open_checkpoint(note, key)
    if checkpoint.size > head.size:
        raise RestoreDetected(
            f"the log's directory has a checkpoint of size {checkpoint.size}, and the engine's head is at {head.size}: the engine is an older "
            "copy, and nothing was rebuilt"
        )
    edge = Edge()
    _grow(directory, edge, checkpoint.size, progress)
    _compare(directory, edge, checkpoint.root, "its checkpoint")
    _grow(directory, edge, head.size, progress)
    _compare(directory, edge, head.root, "the head that the engine keeps")
    return VerifiedLog(size=head.size, signed=checkpoint.size, note=None if note is None else note.decode())


def _grow(directory: LogDirectory, edge: Edge, end: int, progress: Progress) -> None:
    entries = directory.entries(edge.size, end)
    while leaves := [leaf_hash(entry) for entry in islice(entries, WIDTH)]:
        edge.grow(leaves)
        progress(len(leaves))


def _compare(directory: LogDirectory, edge: Edge, root: bytes, what: str) -> None:
    if edge.root != root:
        raise VerificationError(
            f"the {edge.size} entries in {directory.path} are not those of {what}: nothing was rebuilt; restore the log's directory, "
            "and check that the engine is the one it belongs to"
        )
