"""What an audit pack is made of, and its manifest: the SHA-256 of every file, in the form that `sha256sum --check` reads. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from keyvault.errors import VerificationError

CHECKPOINT = "checkpoint"
LOG_KEY = "log-key"
POPULATION = "population.jsonl"
MANIFEST = "manifest"
README = "README.txt"
PROOFS = "proofs"
MAX_PROOFS = 1_000
"""The newest entries of destroyed keys that a pack has proof files of; the proof of any other is made from its tiles."""

_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
_PAGE = re.compile(r"[^/]+\.html")


def proof_path(index: int) -> str:
    """Return the path of the proof file of an entry."""
    return f"{PROOFS}/{index}.tlog-proof"


def is_for_reading(path: str) -> bool:
    """Tell whether a file is there for people to read, and proves nothing: README.txt, and pages beside it."""
    return path == README or _PAGE.fullmatch(path) is not None


def encode_manifest(digests: Mapping[str, str]) -> bytes:
    """Return the manifest of files, SHA-256 (hexadecimal) by path: a line each, in order of their paths."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items())).encode()


def parse_manifest(data: bytes) -> dict[str, str]:
    """Return what `encode_manifest` was given. `VerificationError` for any other bytes."""
    found: dict[str, str] = {}
    for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise VerificationError(f"line {number} is not a SHA-256, two spaces and a path")
        found[match[2]] = match[1]
    if encode_manifest(found) != data:
        raise VerificationError("its lines are not in the order of their paths, each once and each ended")
    return found
