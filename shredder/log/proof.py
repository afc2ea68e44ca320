"""Proof files of C2SP tlog-proof: one entry's place in a log, verifiable with the log's key alone. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from keyvault.errors import VerificationError
from shredder.log.checkpoint import Checkpoint, open_checkpoint
from shredder.log.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from shredder.log.note import VerifierKey, unbase64, whole_number

HEADER = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 63


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """A leaf's index, its inclusion proof (32-byte hashes, the leaf's sibling first), and the checkpoint that it leads to, verbatim.

    `extra`: bytes of the application's own, or None.
    """

    index: int
    hashes: Sequence[bytes]
    checkpoint: bytes
    extra: bytes | None = None

    @property
    def text(self) -> bytes:
        """Return the file's bytes."""
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {b64encode(self.extra).decode()}")
        lines += [f"index {self.index}", *(b64encode(value).decode() for value in self.hashes), "", ""]
        return "\n".join(lines).encode() + self.checkpoint


def parse_proof(data: bytes) -> Proof:
    """Read a proof file, verifying nothing. `VerificationError` when it is malformed."""
    head, blank, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise VerificationError("a proof file's lines are ASCII") from error
    if not blank or lines.pop(0) != HEADER:
        raise VerificationError(f"this is no proof file: its first line is not {HEADER}")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = unbase64(lines.pop(0).removeprefix("extra "), "the line `extra`")
    if not lines or not lines[0].startswith("index ") or len(lines) > 1 + MAX_HASHES:
        raise VerificationError(f"a proof file has one line `index N`, and at most {MAX_HASHES} hashes")
    index = whole_number(lines.pop(0).removeprefix("index "), "the index in a proof file")
    hashes = [unbase64(line, "a hash") for line in lines]
    if any(len(value) != HASH_BYTES for value in hashes):
        raise VerificationError(f"a hash in a proof file has {HASH_BYTES} bytes")
    return Proof(index=index, hashes=hashes, checkpoint=checkpoint, extra=extra)


def verify_proof(proof: Proof, entry: bytes, log_key: VerifierKey) -> Checkpoint:
    """Return the verified checkpoint of the log that holds `entry` at the proof's index. `VerificationError` otherwise."""
    found = open_checkpoint(proof.checkpoint, log_key)
    verify_inclusion(leaf_hash(entry), proof.index, found.size, proof.hashes, found.root)
    return found
