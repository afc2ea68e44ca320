"""Checkpoints of C2SP tlog-checkpoint: what a log says of itself at one size, as the text of a signed note. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from keyvault.errors import VerificationError
from shredder.log.merkle import EMPTY_ROOT, HASH_BYTES
from shredder.log.note import VerifierKey, is_name, open_note, split_note, unbase64, whole_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A log's name, its number of leaves, and its root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """Return the text that is signed: three lines."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"


def parse_text(text: str) -> Checkpoint:
    """Read a checkpoint's text; extension lines are skipped. `VerificationError` when it is malformed."""
    lines = text.split("\n")
    if lines.pop() or len(lines) < 3 or "" in lines:  # noqa: PLR2004 - origin, size, root
        raise VerificationError("a checkpoint has at least three lines, none empty, each with its newline")
    origin, size, root = lines[:3]
    if not is_name(origin):
        raise VerificationError("a log's name has no white space and no plus sign")
    leaves = whole_number(size, "a checkpoint's size")
    hashed = unbase64(root, "a checkpoint's root")
    if len(hashed) != HASH_BYTES:
        raise VerificationError(f"a checkpoint's root is {HASH_BYTES} bytes in base64")
    if (leaves == 0) != (hashed == EMPTY_ROOT):
        raise VerificationError("a checkpoint of size 0, and no other, has the root of the empty tree")
    return Checkpoint(origin=origin, size=leaves, root=hashed)


def open_checkpoint(note: bytes, log_key: VerifierKey, others: Iterable[VerifierKey] = ()) -> Checkpoint:
    """Return the checkpoint in a note that the log's key has signed; signatures of `others` are verified where they are there.

    `VerificationError` otherwise, or when the checkpoint is another log's.
    """
    text, signatures = open_note(note, [log_key, *others])
    if log_key not in [signature.key for signature in signatures]:
        raise VerificationError(f"the log's own key ({log_key.name}) has not signed this checkpoint")
    found = parse_text(text)
    if found.origin != log_key.name:
        raise VerificationError(f"this checkpoint is of the log {found.origin}, not of {log_key.name}")
    return found


def read_unverified(note: bytes) -> Checkpoint:
    """Return the checkpoint in a note, verifying no signature. `VerificationError` when it is malformed."""
    return parse_text(split_note(note)[0])
