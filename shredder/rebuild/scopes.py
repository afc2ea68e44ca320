"""Scopes, marks of single records, and destructions, as events make them. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from keyvault.errors import KeyVaultError
from keyvault.events import EventType
from keyvault.scopes import KIND_RULES, ScopeKind
from keyvault.states import KeyState, SuspendedBy
from keyvault.store.destructions import Destruction
from keyvault.store.fenced_records import RecordKey, RecordRow
from keyvault.store.scopes import ScopeRow
from keyvault.system_keys import SystemKeys
from keyvault.wrapped import CustodyCode
from shredder.rebuild.entries import Entry
from shredder.rebuild.gaps import GapCode, Gaps
from shredder.rebuild.rows import Rows

CUSTODIES = {"dedicated": CustodyCode.DEDICATED, "ring": CustodyCode.RING}
CAUSES = {cause.code: cause for cause in SuspendedBy}


class ScopeTables:
    """What a batch of entries makes of scopes, marks and destructions. Raises `LogError` for an entry that fits nothing before it."""

    def __init__(
        self,
        keys: SystemKeys,
        gaps: Gaps,
        *,
        scopes: Mapping[bytes, ScopeRow],
        marks: Mapping[RecordKey, RecordRow],
        destructions: Mapping[bytes, Destruction],
    ) -> None:
        """The rows are those that the database has of what `references` names."""
        self.scopes = Rows(scopes)
        self.marks = Rows(marks)
        self.destructions = Rows(destructions)
        self._by_commitment = {row.commitment: row.id for row in scopes.values()}
        self._keys = keys
        self._gaps = gaps

    def apply(self, entry: Entry) -> None:
        """Take an entry up; one that is about other tables changes nothing."""
        work = _WORK.get(entry.type)
        if work is not None:
            work(self, entry)

    # --- scopes -----------------------------------------------------------------------------------------------------

    def created(self, entry: Entry) -> None:
        """Take `scope.created` up."""
        scope_id = entry.data("scope_id")
        if scope_id in self.scopes.now:
            raise entry.wrong(f"it creates scope {scope_id.hex()} a second time")
        kind, custody = _kind(entry), entry.text("custody")
        if custody not in CUSTODIES:
            raise entry.wrong("its custody is not known here")
        place = self._placement(entry, scope_id)
        row = ScopeRow(
            id=scope_id,
            generation=entry.number("generation"),
            custody=CUSTODIES[custody].value,
            kind=kind,
            lookup=place["lookup"],
            commitment=entry.data("scope"),
            sealed_name=entry.text("sealed"),
            state=KeyState.ACTIVE,
            created_at=entry.at,
            key_ref=place["key_ref"],
            ring_id=place["ring_id"],
            slot=place["slot"],
            period=entry.optional("period"),
            due_at=entry.optional_moment("due_at"),
            account=entry.optional_data("account"),
            salt=place["salt"],
        )
        self.scopes.now[scope_id] = row
        self._by_commitment[row.commitment] = scope_id

    def migrated(self, entry: Entry) -> None:
        """Take `scope.migrated` up: the sealed name, salt and look-up stay as they were."""
        row = self._of_id(entry)
        place = self._placement(entry, row.id)
        self._put(row._replace(custody=CustodyCode.RING.value, ring_id=place["ring_id"], slot=place["slot"]))

    def suspended(self, entry: Entry) -> None:
        """Take `scope.suspended` up."""
        row = self._of_id(entry)
        cause = CAUSES.get(entry.optional("cause") or "")
        if cause is None:
            self._gaps.add(GapCode.SUSPENSION, row.id)
        self._put(row._replace(state=KeyState.SUSPENDED, suspended_by=cause))

    def resumed(self, entry: Entry) -> None:
        """Take `scope.resumed` up."""
        self._put(self._of_id(entry)._replace(state=KeyState.ACTIVE, suspended_by=None))

    # --- records ----------------------------------------------------------------------------------------------------

    def record_suspended(self, entry: Entry) -> None:
        """Take `record.suspended` up."""
        for tag in entry.all_data("records"):
            self._mark(self._of_id(entry).id, tag, KeyState.SUSPENDED)

    def record_resumed(self, entry: Entry) -> None:
        """Take `record.resumed` up."""
        for tag in entry.all_data("records"):
            if self.marks.now.pop((self._of_id(entry).id, tag), None) is None:
                raise entry.wrong("it resumes a record that was not suspended")

    def record_destroyed(self, entry: Entry) -> None:
        """Take `record.destroyed` up."""
        scope = self._of_commitment(entry, entry.data("scope"))
        for tag in entry.all_data("records"):
            mark = self.marks.now.get((scope.id, tag))
            if mark is None:
                raise entry.wrong("it destroys a record that was not fenced")
            self.marks.now[mark.key] = replace(mark, state=KeyState.DESTROYED, destroyed_at=entry.at)
        self.stamped(entry)

    def _mark(self, scope_id: bytes, tag: bytes, state: KeyState, destroy_id: bytes | None = None) -> None:
        self.marks.now[scope_id, tag] = RecordRow(
            scope_id=scope_id, tag=tag, state=state, fenced_at=None, destroyed_at=None, destroy_id=destroy_id
        )

    # --- destructions -----------------------------------------------------------------------------------------------

    def fenced(self, entry: Entry) -> None:
        """Take `destroy.fenced` up."""
        destroy_id = entry.data("destroy_id")
        self.destructions.now[destroy_id] = Destruction(
            id=destroy_id,
            reason=entry.text("reason"),
            ticket=entry.data("ticket"),
            requested_by=entry.data("requested_by"),
            fence_event=entry.id,
            created_at=entry.at,
        )
        tags = entry.all_data("records")
        for scope in self._all_of(entry):
            for tag in tags:
                self._mark(scope.id, tag, KeyState.DEACTIVATED, destroy_id)
            if not tags:
                self._put(scope._replace(state=KeyState.DEACTIVATED, suspended_by=None, destroy_id=destroy_id))

    def destroyed(self, entry: Entry) -> None:
        """Take `key.destroyed` up: names go, and salts of people's."""
        for scope in self._all_of(entry):
            self._put(
                scope._replace(
                    state=KeyState.DESTROYED,
                    sealed_name=None,
                    salt=None if KIND_RULES[scope.kind].names_person else scope.salt,
                    destroyed_at=entry.at,
                    horizon=entry.moment("horizon"),
                )
            )
            if scope.lookup is None and not KIND_RULES[scope.kind].names_person:
                self._gaps.add(GapCode.MONTH, scope.id)
        self.stamped(entry)

    def stamped(self, entry: Entry) -> None:
        """Note when the fence was committed, where the entry tells."""
        found = self.destructions.now.get(entry.data("destroy_id"))
        if found is None:
            raise entry.wrong("it is of a destruction that was not begun before it")
        if found.fenced_at is None:
            fenced_at, bound = entry.optional_moment("fenced_at"), entry.optional_moment("lease_bound")
            self.destructions.now[found.id] = replace(found, fenced_at=fenced_at, lease_bound=bound)

    # --- within -----------------------------------------------------------------------------------------------------

    def _put(self, row: ScopeRow) -> None:
        self.scopes.now[row.id] = row

    def _of_id(self, entry: Entry) -> ScopeRow:
        return self._known(entry, entry.data("scope_id"))

    def _of_commitment(self, entry: Entry, commitment: bytes) -> ScopeRow:
        return self._known(entry, self._by_commitment.get(commitment, b""))

    def _all_of(self, entry: Entry) -> list[ScopeRow]:
        return [self._of_commitment(entry, commitment) for commitment in entry.all_data("scopes")]

    def _known(self, entry: Entry, scope_id: bytes) -> ScopeRow:
        row = self.scopes.now.get(scope_id)
        if row is None:
            raise entry.wrong("it names a scope that was not created before it")
        return row

    def _placement(self, entry: Entry, scope_id: bytes) -> dict[str, Any]:
        """Open what the event seals: where the key sits; salt and look-up of what names no person."""
        try:
            place = json.loads(self._keys.open_journal(entry.data("placement"), scope_id))
            return {
                "key_ref": place["key_ref"],
                "ring_id": _unhex(place["ring"]),
                "slot": place["slot"],
                "salt": _unhex(place["salt"]),
                "lookup": _unhex(place.get("lookup")),
            }
        except (KeyVaultError, ValueError, LookupError, TypeError) as error:
            raise entry.wrong(
                "its placement does not open, or is none: the engine's journal key is another's"
            ) from error


def references(entries: Iterable[Entry]) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """Return what the rows must be read of before entries are applied: ids of scopes, commitments, ids of destructions."""
    ids: set[bytes] = set()
    commitments: set[bytes] = set()
    destructions: set[bytes] = set()
    for entry in entries:
        if entry.type not in _WORK:
            continue
        if "scope_id" in entry:
            ids.add(entry.data("scope_id"))
        if "destroy_id" in entry:
            destructions.add(entry.data("destroy_id"))
            commitments.update(entry.all_data("scopes"))
            commitments.update(entry.data("scope") for _ in range("scope" in entry))
    return ids, commitments, destructions


def record_keys(entries: Iterable[Entry], by_commitment: Mapping[bytes, bytes]) -> set[RecordKey]:
    """Return the marks that entries are about; of scopes that are created by them none can be there yet."""
    found: set[RecordKey] = set()
    for entry in entries:
        if entry.type not in _WORK or not (tags := entry.all_data("records")):
            continue
        scopes = [entry.data("scope_id")] if "scope_id" in entry else _ids(entry, by_commitment)
        found |= {(scope, tag) for scope in scopes for tag in tags}
    return found


def _ids(entry: Entry, by_commitment: Mapping[bytes, bytes]) -> list[bytes]:
    commitments = [entry.data("scope")] if "scope" in entry else entry.all_data("scopes")
    return [by_commitment[commitment] for commitment in commitments if commitment in by_commitment]


def _kind(entry: Entry) -> ScopeKind:
    try:
        return ScopeKind(entry.text("kind"))
    except ValueError as error:
        raise entry.wrong("its kind of scope is not known here") from error


def _unhex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


_WORK: Mapping[str, Callable[[ScopeTables, Entry], None]] = {
    EventType.SCOPE_CREATED: ScopeTables.created,
    EventType.SCOPE_MIGRATED: ScopeTables.migrated,
    EventType.SCOPE_SUSPENDED: ScopeTables.suspended,
    EventType.SCOPE_RESUMED: ScopeTables.resumed,
    EventType.RECORD_SUSPENDED: ScopeTables.record_suspended,
    EventType.RECORD_RESUMED: ScopeTables.record_resumed,
    EventType.RECORD_DESTROYED: ScopeTables.record_destroyed,
    EventType.DESTROY_FENCED: ScopeTables.fenced,
    EventType.KEY_DESTROYED: ScopeTables.destroyed,
    EventType.DESTROY_FAILED: ScopeTables.stamped,
}
