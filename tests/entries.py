"""Entries of a log written by hand, each legal unless a test says otherwise, without database or engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from keyvault.events import b64, canonical, instant
from keyvault.scopes import month_due_at
from shredder.audit.finding import Finding
from shredder.audit.fold import Fold, Ledger
from shredder.request_digest import digest_of

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def name32(text: str) -> str:
    return b64(digest(text))


def name16(text: str) -> str:
    return b64(digest(text)[:16])


def tag(text: str) -> str:
    return b64(digest(text)[:8])


def uuid(text: str) -> str:
    digits = digest(text).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:32]}"


class Entries:
    """Entries one behind the other; each method adds one and returns its event. `at` is the time of those that follow."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at
        self.events: list[dict[str, Any]] = []

    def add(self, kind: str, /, *, policy: str = "builtin/1", **fields: Any) -> dict[str, Any]:
        event = {
            "at": instant(self.at),
            "id": uuid(f"event {len(self.events)}"),
            "policy": policy,
            "type": kind,
            "v": 1,
            **fields,
        }
        self.events.append(event)
        return event

    @property
    def bytes(self) -> list[bytes]:
        return [canonical(event) for event in self.events]

    def ledger(self, after: timedelta = timedelta()) -> Ledger:
        fold = Fold()
        fold.add_bundle(0, self.bytes)
        return fold.finish(at=self.at + after)

    def codes(self, after: timedelta = timedelta()) -> list[tuple[str, str]]:
        return [(finding.where, finding.code) for finding in self.ledger(after).findings]

    def created(
        self, scope: str, *, kind: str = "consumer", period: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        due = instant(month_due_at(period)) if kind == "communications" and period else None
        given = {
            "account": name32("account"),
            "custody": "ring",
            "due_at": due,
            "generation": 1,
            "kind": kind,
            "period": period,
            "placement": "A" * 40,
            "scope": name32(scope),
            "scope_id": name16(scope),
            "sealed": "ring:1:abc",
        }
        return self.add("scope.created", **{**given, **fields})

    def of_scope(self, kind: str, scope: str, /, **fields: Any) -> dict[str, Any]:
        return self.add(kind, **{"scope": name32(scope), "scope_id": name16(scope), **fields})

    def fenced(self, *scopes: str, destroy: str = "d", records: Sequence[str] = (), **fields: Any) -> dict[str, Any]:
        given = {
            "approvals": 1,
            "approved_by": None,
            "destroy_id": name16(destroy),
            "reason": "customer-request",
            "records": [tag(record) for record in records],
            "request": None,
            "requested_by": name32("ada"),
            "scopes": [name32(scope) for scope in scopes],
            "ticket": name32("ticket"),
        }
        return self.add("destroy.fenced", **{**given, **fields})

    def destroyed(
        self, *scopes: str, fence: Mapping[str, Any], records: Sequence[str] = (), **fields: Any
    ) -> dict[str, Any]:
        given: dict[str, Any] = {
            "custody": ["ring"],
            "destroy_id": fence["destroy_id"],
            "engine": "embedded",
            "erasure": uuid("erasure"),
            "fence": fence["id"],
            "fenced_at": instant(self.at),
            "horizon": instant(self.at + 90 * DAY),
            "lease_bound": instant(self.at + timedelta(seconds=65)),
            "proof": {"key": "punctured", "neighbour": "derivable", "retained_ciphertext": "refused"},
            "tool": "keyvault-shredder 0.1.0",
        }
        if records:
            what = {"scope": name32(scopes[0]), "records": [tag(record) for record in records]}
            return self.add("record.destroyed", **{**given, **what, **fields})
        return self.add("key.destroyed", **{**given, "scopes": [name32(scope) for scope in scopes], **fields})

    def policy(self, version: str = "p/1", *, months: int = 25, **fields: Any) -> dict[str, Any]:
        before = [event for event in self.events if event["type"] == "policy.changed"]
        previous = {name: before[-1][name] for name in ("version", "digest")} if before else None
        rules = {
            "communications": ("calendar", months, None),
            "consumer": ("account", None, 30),
            "customer": ("account", None, 30),
            "user": ("user", 13, None),
            "marketing": ("contact", None, None),
            "business": ("class", None, None),
        }
        categories: dict[str, Any] = {
            kind: {
                "rule": rule,
                "months": count,
                "grace_days": grace,
                "classes": {"tax": 84} if rule == "class" else {},
                "refused_purposes": [],
            }
            for kind, (rule, count, grace) in rules.items()
        }
        given = {
            "categories": categories,
            "digest": name32(version),
            "facts_days": 7,
            "previous": previous,
            "version": version,
        }
        return self.add("policy.changed", policy=version, **{**given, **fields})

    def facts(
        self, *facts: tuple[str, str, str], at: datetime | None = None, policy: str = "p/1", detail: str = ""
    ) -> dict[str, Any]:
        """Each fact is a kind of subject, its name, and a type."""
        happened = instant(at or self.at)
        stated = [
            {"at": happened, "detail": detail, "kind": kind, "subject": name32(subject), "type": what}
            for kind, subject, what in facts
        ]
        return self.add("facts.recorded", policy=policy, facts=stated, not_before=instant(self.at))

    def received(self, request: str = "r", scopes: Sequence[str] = ("s",), **fields: Any) -> dict[str, Any]:
        given = {
            "account": None,
            "break_glass": False,
            "digest": list_digest(request, scopes),
            "due_by": instant(self.at + 30 * DAY),
            "kind": "anonymize",
            "reason": None,
            "records": 0,
            "request": name16(request),
            "requester": "customer",
            "row": 1,
            "scopes": len(scopes),
            "state": "awaiting-approval",
            "submitted_by": name32("ada"),
            "ticket": name32("ticket " + request),
        }
        return self.add("request.received", policy="p/1", **{**given, **fields})

    def approved(self, received: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        given = {
            "approvals": 2,
            "approved_by": name32("grace"),
            "digest": received["digest"],
            "request": received["request"],
            "state": "approved",
        }
        return self.add("request.approved", policy="p/1", **{**given, **fields})

    def refused(self, received: Mapping[str, Any], reason: str, **fields: Any) -> dict[str, Any]:
        given = {"by": None, "destroy_id": None, "reason": reason, "request": received["request"]}
        return self.add("request.refused", policy="p/1", **{**given, **fields})

    def fenced_for(
        self, received: Mapping[str, Any], *scopes: str, destroy: str = "d", **fields: Any
    ) -> dict[str, Any]:
        """Fence scopes for a request that two people stand behind."""
        given = {
            "approvals": 2,
            "approved_by": name32("grace"),
            "policy": "p/1",
            "request": received["request"],
            "requested_by": received["submitted_by"],
            "ticket": received["ticket"],
        }
        return self.fenced(*scopes, destroy=destroy, **{**given, **fields})

    def swept(self, *scopes: str, reason: str, destroy: str = "d", **fields: Any) -> dict[str, Any]:
        """Fence scopes by the policy's own rule."""
        given = {
            "approvals": 0,
            "policy": "p/1",
            "reason": reason,
            "requested_by": name32("policy"),
            "ticket": name32("sweep"),
        }
        return self.fenced(*scopes, destroy=destroy, **{**given, **fields})

    def attested(self, slots: Mapping[str, int], **fields: Any) -> dict[str, Any]:
        given = {
            "attestation": name16("attestation"),
            "attested_by": name32("ada"),
            "engine": "embedded",
            "keys": {"dedicated": 0, "other": 0, "ring": len(slots), "system": 1},
            "keys_digest": name32("keys"),
            "missing": 0,
            "part": 1,
            "parts": 1,
            "returned": 0,
            "rings": [{"ring": name16(ring), "slots": count} for ring, count in slots.items()],
            "unknown": 0,
        }
        return self.add("inventory.attested", **{**given, **fields})


def list_digest(request: str, scopes: Sequence[str]) -> str:
    items = [(digest(scope)[:16], b"") for scope in scopes]
    return b64(digest_of(digest(request)[:16], "anonymize", items))


def replaced(entry: bytes, **fields: Any) -> bytes:
    return canonical({**json.loads(entry), **fields})


def shown(findings: Sequence[Finding]) -> str:
    return "\n".join(map(str, findings))
