"""What a pack has beside its tree, compared with what the tree says there must be: proof files, and salts of account-months."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from keyvault.errors import VerificationError
from shredder.audit.finding import Finding
from shredder.audit.fold import Ledger
from shredder.audit.manifest import POPULATION, proof_path
from shredder.audit.opening import Opened
from shredder.audit.population import AccountMonth, parse_commitments, parse_population
from shredder.log.merkle import verify_inclusion
from shredder.log.proof import parse_proof


def check_proofs(path: Path, opened: Opened, proven: Iterable[tuple[int, bytes]]) -> list[Finding]:
    """Verify the proof file of each of these entries, by index and leaf hash; one that is missing is not a finding of this."""
    findings = []
    for index, leaf in proven:
        name = proof_path(index)
        try:
            _check_proof((path / name).read_bytes(), index, leaf, opened)
        except FileNotFoundError:
            continue  # which is found where the files are compared
        except VerificationError as error:
            findings.append(Finding(code="proof", where=name, message=str(error)))
    return findings


def _check_proof(data: bytes, index: int, leaf: bytes, opened: Opened) -> None:
    proof = parse_proof(data)
    if proof.index != index or proof.extra is not None or proof.text != data:
        raise VerificationError(f"this is not the proof of entry {index} as it is written")
    if proof.checkpoint != opened.note or opened.checkpoint is None:
        raise VerificationError("the proof leads to another checkpoint than the pack's")
    verify_inclusion(leaf, index, opened.checkpoint.size, proof.hashes, opened.checkpoint.root)


def read_population(
    path: Path, ledger: Ledger, digests: dict[str, str], *, keep: bool
) -> tuple[list[AccountMonth], list[Finding]]:
    """Read the salts of account-months, which must be those of the log's; return them if they are to be kept."""
    try:
        data = (path / POPULATION).read_bytes()
    except OSError:
        return [], []  # which is found where the files are compared
    digests[POPULATION] = sha256(data).hexdigest()
    left = {month.commitment: month.period for month in ledger.months()}
    findings: list[Finding] = []
    try:
        for period, scope in parse_commitments(data):
            if left.pop(scope, None) != period:
                message = f"account-month {scope} of {period} is not in the log"
                findings.append(Finding(code="population-unknown", where=POPULATION, message=message))
        kept = list(parse_population(data)) if keep else []
    except VerificationError as error:
        return [], [*findings, Finding(code="population-malformed", where=POPULATION, message=str(error))]
    for scope, period in left.items():
        message = f"account-month {scope} of {period} is in the log, and its salt is not here"
        findings.append(Finding(code="population-incomplete", where=POPULATION, message=message))
    return kept, findings
