"""The first thing that is verified of a pack: whose checkpoint it is, and whether it continues the one that the auditor has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keyvault.errors import InvalidInputError, LogError, VerificationError
from shredder.audit.finding import Finding
from shredder.audit.manifest import CHECKPOINT, LOG_KEY
from shredder.log.checkpoint import Checkpoint, open_checkpoint, read_unverified
from shredder.log.directory import LogDirectory
from shredder.log.merkle import consistency_proof, verify_consistency
from shredder.log.note import VerifierKey, parse_verifier_key


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A pack's checkpoint, None where it cannot be read. `note`: its bytes; `previous`: the size of the auditor's."""

    checkpoint: Checkpoint | None
    note: bytes
    previous: int | None
    findings: list[Finding]


def open_pack(path: Path, trusted: VerifierKey | None, previous: bytes | None) -> Opened:
    """Verify a pack's checkpoint by the key that is trusted, or, without one, by the pack's own.

    Raises `InvalidInputError` when the auditor's checkpoint `previous` cannot be read.
    """
    key, findings = _key(path, trusted)
    try:
        note = (path / CHECKPOINT).read_bytes()
        checkpoint = _read_checkpoint(note)
    except (OSError, VerificationError) as error:
        found = Finding(code="checkpoint-unreadable", where=CHECKPOINT, message=f"{_text(error)}: nothing was verified")
        return Opened(checkpoint=None, note=b"", previous=None, findings=[*findings, found])
    if key is not None:
        try:
            open_checkpoint(note, key)
        except VerificationError as error:
            findings.append(Finding(code="signature", where=CHECKPOINT, message=str(error)))
    size = None
    if previous is not None:
        size, found_wrong = _check_previous(path, key, checkpoint, previous)
        findings += found_wrong
    return Opened(checkpoint=checkpoint, note=note, previous=size, findings=findings)


def _key(path: Path, trusted: VerifierKey | None) -> tuple[VerifierKey | None, list[Finding]]:
    try:
        own = _read_key((path / LOG_KEY).read_bytes())
    except (OSError, VerificationError) as error:
        return trusted, [Finding(code="log-key-unreadable", where=LOG_KEY, message=_text(error))]
    if trusted is not None and own != trusted:
        message = f"the pack is for the key {own.name}+{own.id.hex()}, and yours is {trusted.name}+{trusted.id.hex()}"
        return trusted, [Finding(code="other-log-key", where=LOG_KEY, message=message)]
    return trusted or own, []


def _read_key(data: bytes) -> VerifierKey:
    own = parse_verifier_key(data.decode(errors="replace"))
    if data != f"{own}\n".encode():
        raise VerificationError("there is more in it than a verifier key and a newline")
    return own


def _read_checkpoint(note: bytes) -> Checkpoint:
    rows = note.splitlines()
    if len(set(rows)) < len(rows):
        raise VerificationError("a line of it is there twice")
    return read_unverified(note)


def _check_previous(
    path: Path, key: VerifierKey | None, checkpoint: Checkpoint, previous: bytes
) -> tuple[int, list[Finding]]:
    """Prove from the pack's tiles that its tree continues that of the auditor's checkpoint."""
    try:
        old = read_unverified(previous)
    except VerificationError as error:
        raise InvalidInputError(f"the previous checkpoint cannot be read: {error}") from error
    if old.size == 0:
        raise InvalidInputError(
            "the previous checkpoint is of size 0, which every log continues: take a later one, or none"
        )
    try:
        if key is not None:
            open_checkpoint(previous, key)
        _check_continuation(path, old, checkpoint)
    except (LogError, VerificationError) as error:
        return old.size, [Finding(code="previous-checkpoint", where=CHECKPOINT, message=str(error))]
    return old.size, []


def _check_continuation(path: Path, old: Checkpoint, new: Checkpoint) -> None:
    if old.size > new.size:
        raise VerificationError(
            f"the pack is older than your checkpoint: it has {new.size} entries, and yours has {old.size}; what came since was removed"
        )
    proof = consistency_proof(old.size, new.size, LogDirectory(path).node(new.size))
    verify_consistency(old.size, old.root, new.size, new.root, proof)


def _text(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
