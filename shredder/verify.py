"""Verification of an audit pack, offline: it reads the pack and what the auditor brings, and nothing else.

Neither a network nor a database nor an engine is used, nor their libraries loaded. What is wrong with a pack is a finding, never an
exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from keyvault.errors import InvalidInputError, LogError, VerificationError
from shredder.audit.bundles import tile_at
from shredder.audit.contents import check_proofs, read_population
from shredder.audit.files import check_files
from shredder.audit.finding import Finding
from shredder.audit.fold import Ledger
from shredder.audit.folding import Reading
from shredder.audit.manifest import CHECKPOINT, proof_path
from shredder.audit.opening import Opened, open_pack
from shredder.audit.population import Reconciliation, read_billing, reconcile
from shredder.audit.sample import choose
from shredder.audit.tree import Tree
from shredder.audit.worker import helper
from shredder.log.checkpoint import Checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.merkle import inclusion_proof, leaf_hash, verify_inclusion
from shredder.log.note import VerifierKey
from shredder.log.tiles import WIDTH, decode_bundle

Progress = Callable[[int], None]


def _ignored(_count: int) -> None:
    """Take no notice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the auditor brings. `log_key`: had on another way than the pack; `previous`: the checkpoint kept from the last audit.

    `billing`: text of a CSV file of account-months; `billing_name`: what to call it.
    """

    log_key: VerifierKey | None = None
    previous: bytes | None = None
    billing: str | None = None
    billing_name: str = "billing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What a verification came to: nothing is wrong where there are no findings.

    `trusted`: the signature was verified by a key from outside of the pack; `checkpoint`: what the pack says of itself, None where it cannot
    be read; `previous`: the size of the auditor's checkpoint; `ledger`: None where not all entries could be read; `last_destroyed` and
    `last_horizon`: when a key was last destroyed, and when the last backup that could hold one ends, as the entries say it.
    """

    findings: Sequence[Finding]
    trusted: bool
    checkpoint: Checkpoint | None
    previous: int | None = None
    ledger: Ledger | None = None
    last_destroyed: str | None = None
    last_horizon: str | None = None
    reconciliation: Reconciliation | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """An entry that a seed chose, with its inclusion proof (32-byte hashes, the leaf's sibling first)."""

    index: int
    entry: bytes
    proof: Sequence[bytes]


def verify_pack(path: Path, evidence: Evidence, *, at: datetime, progress: Progress = _ignored) -> Verified:
    """Verify all of a pack, as things should be at a time. `progress` is told of entries.

    Raises `InvalidInputError` when `path` is no directory, or what the auditor brings is malformed; `LogError` when the verification itself
    could not be finished.
    """
    billed, malformed = ([], []) if evidence.billing is None else read_billing(evidence.billing, evidence.billing_name)
    opened = _open(path, evidence)
    if opened.checkpoint is None:
        return _verified(opened, evidence, opened.findings)
    size = opened.checkpoint.size
    reading = Reading(path, size)
    with helper(size) as lent:
        reading.run(lent, progress)
        ledger = reading.finish(at)
        findings = [*opened.findings, *_compare(reading.tree, opened.checkpoint)]
        findings += check_proofs(path, opened, reading.proven)
        digests = dict(reading.tree.digests)
        reconciliation = None
        if ledger is not None:
            findings += ledger.findings
            months, wrong = read_population(path, ledger, digests, lent, keep=evidence.billing is not None)
            findings += wrong
    if ledger is not None and evidence.billing is not None:
        reconciliation = reconcile(billed, months, name=evidence.billing_name)
        findings += [*malformed, *reconciliation.findings]
    proofs = {proof_path(destroyed.number) for destroyed in reading.proven}
    findings += check_files(path, size=size, proofs=proofs, digests=digests)
    return replace(
        _verified(opened, evidence, findings),
        ledger=ledger,
        last_destroyed=reading.latest.get("at"),
        last_horizon=reading.latest.get("horizon"),
        reconciliation=reconciliation,
    )


def verify_sample(path: Path, evidence: Evidence, *, seed: str, count: int) -> tuple[Verified, list[Sampled]]:
    """Verify the entries that a seed chooses, and nothing else but the checkpoint: their inclusion proofs lead to its root.

    Raises as `verify_pack`.
    """
    opened = _open(path, evidence)
    findings = [*opened.findings]
    sampled: list[Sampled] = []
    if opened.checkpoint is not None:
        for index in choose(seed, count, opened.checkpoint.size):
            try:
                sampled.append(_sampled(path, index, opened.checkpoint))
            except (LogError, VerificationError) as error:
                findings.append(Finding(code="sample-unproven", where=f"entry {index}", message=str(error)))
    return _verified(opened, evidence, findings), sampled


def _open(path: Path, evidence: Evidence) -> Opened:
    if not path.is_dir():
        raise InvalidInputError(f"{path} is no directory: name the directory of a pack")
    return open_pack(path, evidence.log_key, evidence.previous)


def _verified(opened: Opened, evidence: Evidence, findings: Sequence[Finding]) -> Verified:
    return Verified(
        findings=findings,
        trusted=evidence.log_key is not None,
        checkpoint=opened.checkpoint,
        previous=opened.previous,
    )


def _compare(tree: Tree, checkpoint: Checkpoint) -> list[Finding]:
    """Compare the tree with what was signed."""
    findings = list(tree.findings)
    if (tree.size, tree.root) != (checkpoint.size, checkpoint.root):
        message = (
            f"the {tree.size} entries that can be read do not come to the root that is signed for {checkpoint.size}"
        )
        findings.append(Finding(code="root-mismatch", where=CHECKPOINT, message=message))
    return findings


def _sampled(path: Path, index: int, checkpoint: Checkpoint) -> Sampled:
    log = LogDirectory(path)
    bundle = decode_bundle(log.read(tile_at(None, index // WIDTH, checkpoint.size)))
    if len(bundle) <= index % WIDTH:
        raise VerificationError("its bundle ends before it")
    entry = bundle[index % WIDTH]
    proof = inclusion_proof(index, checkpoint.size, log.node(checkpoint.size))
    verify_inclusion(leaf_hash(entry), index, checkpoint.size, proof, checkpoint.root)
    return Sampled(index=index, entry=entry, proof=proof)
