"""Attestation: what the engine itself lists, beside what the database knows, as events of the log.

An auditor compares it with the log: as many keys as live scopes need, and no room in the rings for scopes that the log does not know.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyvault.events import Event, EventType, Value, b64, make_event
from keyvault.home import Home
from keyvault.inventory import KeyComparison, compare_keys, reserved_slots
from keyvault.persons import Person
from keyvault.store import outbox, system
from keyvault.store.dialects import chunks
from keyvault.system_keys import SYSTEM_KEY
from keyvault.transit.base import TransitEngine

RINGS_PER_EVENT = 1_000
"""With 48 bytes a ring, well within the 64 KiB of an event."""
ATTESTATION_ID_BYTES = 16
_CUSTODIES = {"k-": "dedicated", "r-": "ring"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Attestation:
    """What was found, and the ids of the events that say so. `id`: 16 bytes; `slots`: reserved slots by ring id (16 bytes).

    `wrapped`: answers of the engine that wait to be fetched, whoever asked for them; None where they were not counted, or cannot be.
    """

    id: bytes
    keys: KeyComparison
    digest: bytes
    slots: Mapping[bytes, int]
    wrapped: int | None
    events: Sequence[str]

    @property
    def agrees(self) -> bool:
        """The engine and the database know the same keys."""
        return not (self.keys.missing or self.keys.returned or self.keys.unknown)


def attest(home: Home, auditor: TransitEngine, person: Person, *, wrapped: bool = False) -> Attestation:
    """Have the engine list what it holds, with the rights of `auditor`, and write it down; whether it agrees is the caller's to judge.

    `wrapped`: count wrapped answers, too, for which each of the engine's tokens is looked at.
    Raises what the engine and the database do.
    """
    keys, slots = compare_keys(home.database, auditor), reserved_slots(auditor)
    waiting = auditor.wrapped_answers() if wrapped else None
    identity, digest = secrets.token_bytes(ATTESTATION_ID_BYTES), keys_digest(keys.names)
    payload: dict[str, Value] = {
        "attestation": b64(identity),
        "attested_by": b64(home.keys.pseudonym_of("person", person.identity)),
        "engine": auditor.kind,
        "keys": _counted(keys.names),
        "keys_digest": b64(digest),
        "missing": len(keys.missing),
        "returned": len(keys.returned),
        "unknown": len(keys.unknown),
        "wrapped": waiting,
    }
    events = _events(home, payload, slots)
    home.database.write(lambda connection: outbox.append(connection, events))
    return Attestation(
        id=identity, keys=keys, digest=digest, slots=slots, wrapped=waiting, events=[event.id for event in events]
    )


def keys_digest(names: Sequence[str]) -> bytes:
    """Return the SHA-256 over sorted names, a newline behind each: what `vault list -format=json ... | jq -r '.[]' | sha256sum` prints."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(names)).encode()).digest()


def _counted(names: Sequence[str]) -> dict[str, Value]:
    counted = dict.fromkeys(("dedicated", "ring", "system", "other"), 0)
    for name in names:
        counted["system" if name == SYSTEM_KEY else _CUSTODIES.get(name[:2], "other")] += 1
    return {**counted}


def _events(home: Home, payload: Mapping[str, Value], slots: Mapping[bytes, int]) -> list[Event]:
    """Split the rings over as many events as they need, one at least."""
    parts = list(chunks(sorted(slots.items()), RINGS_PER_EVENT)) or [[]]
    now = home.clock.now()
    row = home.database.read(system.load)
    policy = {} if row is None or row.policy is None else {"policy": row.policy.version}
    return [
        make_event(
            EventType.INVENTORY_ATTESTED,
            {
                **payload,
                "part": number,
                "parts": len(parts),
                "rings": [{"ring": b64(ring_id), "slots": reserved} for ring_id, reserved in rings],
            },
            at=now,
            **policy,
        )
        for number, rings in enumerate(parts, start=1)
    ]
