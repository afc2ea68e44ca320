"""Rings, and what the engine itself listed, set against the log: room for scopes that the log does not know, and keys that nobody knows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from shredder.audit.events import InventoryAttested, RingChanged, SlotsDestroyed, SlotsFenced
from shredder.audit.finding import Findings
from shredder.audit.forms import moment
from shredder.audit.scopes import Scopes

CHUNK: Final = 256
"""Slots that a process reserves at a time."""
READING: Final = timedelta(minutes=15)
"""How long before its event an engine may have been read: scopes that were made since then may be in slots that it did not count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attested:
    """The last whole attestation, at `at` (UTC).

    `slots`: given out in all rings, without those that no scope sat in and that are destroyed; `scopes`: that the log had put into rings before.

    `dedicated` and `ring`: keys that the engine listed; `missing`, `returned` and `unknown`: of them, as the event counts them. `wrapped`:
    answers that wait in the engine to be fetched, any of which may hold a key; None where nobody counted them.
    """

    entry: int
    at: datetime
    slots: int
    scopes: int
    dedicated: int
    ring: int
    missing: int
    returned: int
    unknown: int
    wrapped: int | None

    @property
    def room(self) -> int:
        """In how many slots there could be scopes that the log does not know."""
        return max(self.slots - self.scopes, 0)


class Inventory:
    """Rings by their events, and attestations, part after part."""

    def __init__(self, findings: Findings, scopes: Scopes) -> None:
        self._findings = findings
        self._scopes = scopes
        self._changed: dict[str, RingChanged] = {}
        self._fenced: dict[str, SlotsFenced] = {}
        self._emptied: set[str] = set()
        self._first: InventoryAttested | None = None
        self._parts = 0
        self._slots: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self.last: Attested | None = None

    def change(self, event: RingChanged) -> None:
        """Take in `ring.changed`."""
        before = self._changed.get(event.ring)
        self._changed[event.ring] = event
        if before is None:
            return
        kept = ("incarnation", "capacity", "month")
        set_once = [name for name in ("opened_at", "closed_at", "destroyed_at") if getattr(before, name) is not None]
        if any(getattr(before, name) != getattr(event, name) for name in (*kept, *set_once)):
            self._findings.add(
                "ring-changed", f"ring {event.ring} is another than it was: what is said of it once stays"
            )
        if (event.epoch, event.highest_version) < (before.epoch, before.highest_version):
            self._findings.add("ring-changed", f"ring {event.ring} has an older state than before")

    def fence(self, event: SlotsFenced) -> None:
        """Take in `slots.fenced`."""
        ring = self._changed.get(event.ring)
        if event.ring in self._fenced:
            self._findings.add("impossible-step", f"unused slots of ring {event.ring} were fenced before")
        elif ring is None or ring.closed_at is None:
            self._findings.add(
                "impossible-step", f"unused slots of ring {event.ring} are fenced, and it still takes scopes"
            )
        elif event.scopes + event.unused != ring.capacity:
            self._findings.add(
                "ring-changed", f"ring {event.ring} has {ring.capacity} slots, and its fence counts others"
            )
        else:
            self._fenced[event.ring] = event
            if not event.unused:
                self._emptied.add(event.ring)

    def destroy(self, event: SlotsDestroyed) -> None:
        """Take in `slots.destroyed`."""
        if event.ring not in self._fenced:
            self._findings.add(
                "no-fence", f"unused slots of ring {event.ring} are destroyed, and were not fenced before"
            )
        elif event.ring in self._emptied:
            self._findings.add("destroyed-twice", f"unused slots of ring {event.ring} were destroyed before")
        else:
            self._emptied.add(event.ring)

    def attest(self, event: InventoryAttested) -> None:
        """Take in `inventory.attested`."""
        if event.part == 1:
            self._first, self._parts, self._slots = event, 0, {}
        if self._first is None or event.part != self._parts + 1 or _common(event) != _common(self._first):
            self._findings.add(
                "attestation-parts", f"attestation {event.attestation}: part {event.part} does not follow"
            )
            return
        self._parts = event.part
        for ring in event.rings:
            if ring.ring in self._slots:
                self._findings.add("listed-twice", f"attestation {event.attestation} lists ring {ring.ring} twice")
            if ring.slots % CHUNK or ring.slots < self._before.get(ring.ring, 0):
                self._findings.add(
                    "slots-fell", f"ring {ring.ring}: {ring.slots} slots are no whole chunks, or fewer than before"
                )
            self._slots[ring.ring] = ring.slots
        if event.part == event.parts:
            self._finish(event)

    def _finish(self, event: InventoryAttested) -> None:
        for ring in self._before.keys() - self._slots.keys():
            self._findings.add(
                "slots-fell", f"attestation {event.attestation} does not list ring {ring}, which one before did"
            )
        self._first, self._before = None, self._slots
        at = moment(event.at)
        for ring, fence in self._fenced.items():
            if moment(fence.at) < at - READING and fence.scopes > self._slots.get(ring, 0):
                self._findings.add(
                    "more-scopes-than-slots",
                    f"{fence.scopes} scopes are said to sit in ring {ring}, and only {self._slots.get(ring, 0)} slots were given out in it",
                )
        self.last = Attested(
            entry=self._findings.entry,
            at=at,
            slots=sum(self._holding(ring, slots) for ring, slots in self._slots.items()),
            scopes=self._scopes.in_rings_before(at - READING),
            dedicated=event.keys.dedicated,
            ring=event.keys.ring,
            missing=event.missing,
            returned=event.returned,
            unknown=event.unknown,
            wrapped=event.wrapped,
        )
        if self.last.scopes > self.last.slots:
            self._findings.add(
                "more-scopes-than-slots",
                f"the log has {self.last.scopes} scopes in rings, and only {self.last.slots} slots were ever given out",
            )

    def _holding(self, ring: str, slots: int) -> int:
        """Return in how many of the slots that were given out in a ring there can be scopes: where the unused ones are gone, in those it was closed with."""
        fence = self._fenced.get(ring)
        gone = ring in self._emptied or (ring in self._changed and self._changed[ring].destroyed_at is not None)
        return fence.scopes if fence is not None and gone else slots

    def finish(self) -> None:
        """Note what the last attestation found wrong; what an earlier one found may have been put right."""
        if self.last is None:
            return
        for count, what in (
            (self.last.missing, "keys of live scopes or rings are missing from the engine"),
            (
                self.last.returned,
                "keys of destroyed scopes or rings are in the engine: a snapshot may have brought them back",
            ),
            (self.last.unknown, "keys are in the engine that nothing accounts for"),
        ):
            if count:
                self._findings.add("inventory-differs", f"{count} {what}", entry=self.last.entry)


def _common(event: InventoryAttested) -> tuple[object, ...]:
    """Return what all parts of an attestation say alike."""
    names = (name for name in event.__struct_fields__ if name not in {"id", "part", "rings", "keys"})
    keys = (event.keys.dedicated, event.keys.ring, event.keys.system, event.keys.other)
    return (*(getattr(event, name) for name in names), *keys)
