"""Making an audit pack: a directory that is whole or not there, with everything in it that verification needs."""

from __future__ import annotations

import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from keyvault.errors import LogError, VerificationError
from shredder.audit.entries import created_months, destructions
from shredder.audit.manifest import (
    CHECKPOINT,
    LOG_KEY,
    MANIFEST,
    MAX_PROOFS,
    POPULATION,
    README,
    encode_manifest,
    is_for_reading,
    proof_path,
)
from shredder.audit.population import AccountMonth
from shredder.audit.readme import readme
from shredder.log.checkpoint import Checkpoint, open_checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.merkle import inclusion_proof
from shredder.log.note import VerifierKey, parse_verifier_key
from shredder.log.proof import Proof
from shredder.log.tiles import WIDTH, decode_bundle, tiles_of

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """What a pack holds. `proofs`: of the newest entries of destroyed keys; `account_months`: with their salts."""

    checkpoint: Checkpoint
    proofs: int
    account_months: int


def make_pack(
    target: Path,
    *,
    log: LogDirectory,
    log_key: VerifierKey,
    note: bytes,
    account_months: Callable[[], Iterable[AccountMonth]],
    progress: Progress = lambda _: None,
) -> Packed:
    """Make a pack of the log as it stands at the checkpoint `note`, in the place of an older pack of the same log, if there is one.

    `account_months` gives the store's, and is asked once the entries have been read; `progress` is told of entries. Raises
    `VerificationError` when the checkpoint is not the log key's, and `LogError` when the log is not what the checkpoint says, the store has not
    got what is in it, or `target` is something else.
    """
    check_target(target, log_key)
    checkpoint = open_checkpoint(note, log_key)
    draft = _Draft(target.with_name(f".{target.name}.{secrets.token_hex(8)}"))
    try:
        months, destroyed = _copy_tree(draft, log, checkpoint.size, progress)
        if LogDirectory(draft.path).edge(checkpoint.size).root != checkpoint.root:
            raise LogError(f"the tiles in {log.path} are not those of its checkpoint: restore the log's directory")
        _put_proofs(draft, checkpoint.size, note, destroyed)
        _put_population(draft, months, account_months())
        _put_head(draft, note, checkpoint, log_key)
        _sync_all(draft.path)
        _put_in_place(draft.path, target)
    except OSError as error:
        raise LogError(f"the pack cannot be written ({error.strerror}); {target} is as it was: make room") from error
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)
    return Packed(checkpoint=checkpoint, proofs=len(destroyed), account_months=len(months))


def check_target(target: Path, log_key: VerifierKey) -> None:
    """Raise `LogError` unless a pack may be made here: where nothing is, an empty directory, or an older pack of the same log."""
    if not target.is_symlink() and (not target.exists() or (target.is_dir() and not any(target.iterdir()))):
        return
    try:
        same = (target / MANIFEST).is_file() and parse_verifier_key((target / LOG_KEY).read_text()) == log_key
    except (OSError, ValueError, VerificationError):
        same = False
    if target.is_symlink() or not same:
        raise LogError(f"{target} is there, and is no pack of this log: nothing was written; name another directory")


class _Draft:
    """The files of a pack that is being made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digests: dict[str, str] = {}

    def put(self, name: str, data: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if name != MANIFEST and not is_for_reading(name):
            self.digests[name] = sha256(data).hexdigest()


def _put_head(draft: _Draft, note: bytes, checkpoint: Checkpoint, log_key: VerifierKey) -> None:
    """Write what says what the other files are; the manifest at last."""
    draft.put(CHECKPOINT, note)
    draft.put(LOG_KEY, f"{log_key}\n".encode())
    draft.put(README, readme(checkpoint, log_key))
    draft.put(MANIFEST, encode_manifest(draft.digests))


def _copy_tree(draft: _Draft, log: LogDirectory, size: int, progress: Progress) -> tuple[set[bytes], Sequence[int]]:
    """Copy the tree; return the commitments of its account-months, and the indices of the newest entries of destroyed keys."""
    months: set[bytes] = set()
    destroyed: deque[int] = deque(maxlen=MAX_PROOFS)
    for tile in tiles_of(size):
        data = log.read(tile)
        draft.put(tile.path, data)
        if tile.level is None:
            entries = decode_bundle(data)
            months.update(created_months(entries))
            destroyed.extend(index for index, _ in destructions(tile.number * WIDTH, data, entries))
            progress(len(entries))
    return months, list(destroyed)


def _put_proofs(draft: _Draft, size: int, note: bytes, destroyed: Iterable[int]) -> None:
    node = LogDirectory(draft.path).node(size)
    for index in destroyed:
        proof = Proof(index=index, hashes=inclusion_proof(index, size, node), checkpoint=note)
        draft.put(proof_path(index), proof.text)


def _put_population(draft: _Draft, months: set[bytes], account_months: Iterable[AccountMonth]) -> None:
    """Write those account-months of the store that are in the log: others came after the checkpoint."""
    found = sorted((item for item in account_months if item.scope in months), key=AccountMonth.place)
    if len(found) != len(months):
        raise LogError(
            f"{len(months) - len(found)} account-months of the log are not in the store, which is an older one: `keyvault log rebuild`"
        )
    draft.put(POPULATION, b"".join(item.line for item in found))


def _sync_all(folder: Path) -> None:
    """Let everything be on disk before it gets its name."""
    for path, _, names in os.walk(folder):
        for name in (*names, "."):
            descriptor = os.open(os.path.join(path, name), os.O_RDONLY)  # noqa: PTH118 - Path drops the dot
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _put_in_place(draft: Path, target: Path) -> None:
    """Give a finished pack its name. A crash in between leaves the older pack beside it under a name with a dot, and never half of one."""
    aside = target.with_name(f".{target.name}.{secrets.token_hex(8)}.replaced")
    if target.exists():
        target.rename(aside)
    try:
        draft.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
