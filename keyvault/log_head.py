"""The head of the log: (size, root) in the engine's state store, moved by check-and-set before a checkpoint is signed.

So no two checkpoints of one size can ever have different roots. Its path ends in the deployment's incarnation: after a restored
engine versions of entries repeat, and a check-and-set of before could succeed.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256

from keyvault.errors import CheckAndSetError, LogError, Unavailable
from keyvault.transit.base import TransitEngine

EMPTY_ROOT = sha256(b"").digest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """How far the log is committed: its size, its root (32 bytes), and the version of the entry that says so."""

    size: int
    root: bytes
    version: int


def head_path(incarnation: int) -> str:
    """Return the path of the head's entry."""
    return f"log/head/{incarnation}"


def read_head(engine: TransitEngine, incarnation: int) -> Head:
    """Return the head. `LogError` when there is none, or it is not what this program writes."""
    entry = engine.get_state(head_path(incarnation))
    if entry is None:
        raise LogError("the engine holds no head of the log: run `keyvault init`, which makes what is missing")
    try:
        value = json.loads(entry.value)
        return Head(size=int(value["size"]), root=b64decode(value["root"], validate=True), version=entry.version)
    except (ValueError, LookupError, TypeError) as error:
        raise LogError(
            "the head of the log in the engine is not what this program writes: restore the engine"
        ) from error


def create_head(engine: TransitEngine, incarnation: int) -> Head:
    """Make the head of an empty log, unless there is a head already; return the one that is there."""
    if engine.get_state(head_path(incarnation)) is None:
        try:
            engine.put_state(head_path(incarnation), _value(0, EMPTY_ROOT), expected_version=0)
        except CheckAndSetError:
            return read_head(engine, incarnation)  # another init was faster
    return read_head(engine, incarnation)


def move_head(engine: TransitEngine, incarnation: int, head: Head, *, size: int, root: bytes) -> bool:
    """Move the head on from `head`; return whether it says (size, root) now, and False when another has moved it elsewhere.

    An answer that was lost is asked for again: `Unavailable` when that fails, too.
    """
    try:
        engine.put_state(head_path(incarnation), _value(size, root), expected_version=head.version)
    except (CheckAndSetError, Unavailable):
        found = read_head(engine, incarnation)
        return (found.size, found.root) == (size, root)
    return True


def _value(size: int, root: bytes) -> str:
    return json.dumps({"size": size, "root": b64encode(root).decode()})
