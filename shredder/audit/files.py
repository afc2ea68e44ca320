"""The files of a pack: which there are, which there must be, and whether they are those of its manifest."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path

from keyvault.errors import VerificationError
from shredder.audit.finding import Finding
from shredder.audit.manifest import CHECKPOINT, LOG_KEY, MANIFEST, POPULATION, is_for_reading, parse_manifest
from shredder.audit.tree import is_of
from shredder.log.tiles import parse_path

FIXED = frozenset({CHECKPOINT, LOG_KEY, POPULATION, MANIFEST})


def check_files(path: Path, *, size: int, proofs: Collection[str], digests: Mapping[str, str]) -> list[Finding]:
    """Compare what is in the directory with what a pack of `size` entries has, and with the manifest.

    `proofs`: paths of the proof files that there must be; `digests`: SHA-256 (hexadecimal) of what was read already, by path.
    """
    there, findings = _listed(path)
    wanted = FIXED | set(proofs)
    for name in sorted(there - wanted):
        tile = parse_path(name)
        if not is_for_reading(name) and (tile is None or not is_of(tile, size)):
            findings.append(
                Finding(code="file-extra", where=name, message="it belongs to no pack of this log: nothing verifies it")
            )
    for name in sorted(wanted - there):  # tiles that are missing were found by the tree
        findings.append(Finding(code="file-missing", where=name, message="a pack of this log has it"))
    if MANIFEST in there:
        findings += _check_manifest(path, there, digests)
    return findings


def _listed(path: Path) -> tuple[set[str], list[Finding]]:
    """Return the paths of all regular files, and what is none."""
    found: set[str] = set()
    findings: list[Finding] = []

    def walk(folder: str, prefix: str) -> None:
        with os.scandir(folder) as items:
            for item in items:
                name = f"{prefix}{item.name}"
                if item.is_dir(follow_symlinks=False):
                    walk(item.path, f"{name}/")
                elif item.is_file(follow_symlinks=False):
                    found.add(name)
                else:
                    findings.append(
                        Finding(code="file-extra", where=name, message="it is no regular file: a pack has no other")
                    )

    walk(str(path), "")
    return found, findings


def _check_manifest(path: Path, there: set[str], known: Mapping[str, str]) -> list[Finding]:
    try:
        listed = parse_manifest((path / MANIFEST).read_bytes())
    except VerificationError as error:
        return [Finding(code="manifest-malformed", where=MANIFEST, message=str(error))]
    covered = {name for name in there if name != MANIFEST and not is_for_reading(name)}
    findings = []
    for name in sorted(covered | listed.keys()):
        if name not in covered:
            findings.append(
                Finding(code="manifest-mismatch", where=name, message="the manifest has it, and the pack has not")
            )
        elif name not in listed:
            findings.append(
                Finding(
                    code="manifest-mismatch", where=MANIFEST, message=f"it does not have {name}, which is in the pack"
                )
            )
        elif listed[name] != (known.get(name) or sha256((path / name).read_bytes()).hexdigest()):
            findings.append(
                Finding(
                    code="manifest-mismatch", where=name, message="its SHA-256 is not the manifest's: it was changed"
                )
            )
    return findings
