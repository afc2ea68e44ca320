"""Requests and what they name, as events make them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from keyvault.errors import KeyVaultError
from keyvault.events import EventType
from keyvault.store.requests import NO_CONTENT, ItemKey, RequestRow
from keyvault.system_keys import SystemKeys
from shredder.policy import Reason
from shredder.rebuild.entries import Entry
from shredder.rebuild.gaps import GapCode, Gaps
from shredder.rebuild.rows import Rows
from shredder.request_events import open_content, open_items
from shredder.requests import APPROVAL_EXPIRED, LIST_CHANGED, OPEN, REJECTED, RequestState

VOIDED = (RequestState.AWAITING_APPROVAL, RequestState.EXPIRED)
_BY_REASON = {
    REJECTED: RequestState.REJECTED,
    LIST_CHANGED: RequestState.AWAITING_APPROVAL,
    APPROVAL_EXPIRED: RequestState.EXPIRED,
}
"""Where a request stood after a refusal in events that do not say so."""


class RequestTables:
    """What a batch of entries makes of requests. Raises `LogError`.

    `emptied`: the ids of those that are listed anew, from their first piece on; `lists`: what is to be added to each.
    """

    def __init__(self, keys: SystemKeys, gaps: Gaps, requests: Mapping[bytes, RequestRow]) -> None:
        """The rows are those that the database has of what `references` names."""
        self.requests = Rows(requests)
        self.emptied: set[bytes] = set()
        self.lists: dict[bytes, list[ItemKey]] = {}
        self._keys = keys
        self._gaps = gaps

    def apply(self, entry: Entry) -> None:
        """Take an entry up; one that is about other tables changes nothing."""
        work = _WORK.get(entry.type)
        if work is not None:
            work(self, entry)

    def received(self, entry: Entry) -> None:
        """Take `request.received` up."""
        request_id, state = entry.data("request"), _state(entry)
        self.requests.now[request_id] = RequestRow(
            id=request_id,
            ticket=entry.data("ticket"),
            row=entry.number("row"),
            content=self._content(entry, request_id),
            kind=entry.text("kind"),
            requester=entry.text("requester"),
            account=entry.optional_data("account"),
            code=entry.optional("reason"),
            state=str(state),
            refusal=entry.optional("waits_for"),
            digest=entry.data("digest"),
            received_at=entry.at,
            due_by=entry.moment("due_by"),
            submitted_by=entry.data("submitted_by"),
            ended_at=None if state in OPEN else entry.at,
            break_glass=entry.fields.get("break_glass") is True,
        )

    def listed(self, entry: Entry) -> None:
        """Take `request.listed` up: the first piece takes the place of what was there."""
        row = self._known(entry)
        if entry.number("piece") == 0:
            self.emptied.add(row.id)
            self.lists[row.id] = []
        try:
            self.lists.setdefault(row.id, []).extend(open_items(self._keys, row.id, entry.data("items")))
        except KeyVaultError as error:
            raise entry.wrong("its list does not open, or is none") from error
        self._put(replace(row, digest=entry.data("digest")))

    def refused(self, entry: Entry) -> None:
        """Take `request.refused` up: the request is over, or waits, or its approval is void."""
        row, reason = self._known(entry), entry.text("reason")
        state = _state(entry) if "state" in entry else self._state_of(row, reason)
        voided = state in VOIDED
        self._put(
            replace(
                row,
                state=str(state),
                refusal=None if state is RequestState.REJECTED else reason,
                approved_by=None if voided else row.approved_by,
                approved_at=None if voided else row.approved_at,
                ended_at=None if state in OPEN else entry.at,
            )
        )

    def approved(self, entry: Entry) -> None:
        """Take `request.approved` up. The signature that was owed changes nothing else, nor does one that has to wait."""
        row, state = self._known(entry), _state(entry)
        owed = row.break_glass and row.approved_by is None
        stays = owed or state is RequestState.AWAITING_BILLING
        self._put(
            replace(
                row,
                state=str(state),
                approved_by=entry.data("approved_by"),
                approved_at=entry.at,
                refusal=row.refusal if stays else None,
            )
        )

    def ended(self, entry: Entry) -> None:
        """Take `request.cancelled` up."""
        self._move(entry, RequestState.CANCELLED)

    def moved(self, entry: Entry) -> None:
        """Take `request.moved` up."""
        self._move(entry, _state(entry))

    def _move(self, entry: Entry, state: RequestState) -> None:
        ended = None if state in OPEN else entry.at
        self._put(replace(self._known(entry), state=str(state), refusal=None, ended_at=ended))

    def _content(self, entry: Entry, request_id: bytes) -> bytes:
        if "content" not in entry:
            self._gaps.add(GapCode.CONTENT, request_id)
        sealed = entry.optional_data("content")
        if sealed is None:
            return NO_CONTENT
        try:
            return open_content(self._keys, request_id, sealed)
        except KeyVaultError as error:
            raise entry.wrong("what it seals does not open: the engine's journal key is another's") from error

    def _state_of(self, row: RequestRow, reason: str) -> RequestState:
        if reason == Reason.AWAITING_BILLING:
            return RequestState.AWAITING_BILLING
        if reason not in _BY_REASON and row.state != RequestState.REFUSED:
            self._gaps.add(GapCode.STATE, row.id)
        return _BY_REASON.get(reason, RequestState.REFUSED)

    def _known(self, entry: Entry) -> RequestRow:
        row = self.requests.now.get(entry.data("request"))
        if row is None:
            raise entry.wrong("it is of a request that was not received before it")
        return row

    def _put(self, row: RequestRow) -> None:
        self.requests.now[row.id] = row


def references(entries: Iterable[Entry]) -> set[bytes]:
    """Return the ids of the requests that entries are about."""
    return {entry.data("request") for entry in entries if entry.type in _WORK}


def _state(entry: Entry) -> RequestState:
    try:
        return RequestState(entry.text("state"))
    except ValueError as error:
        raise entry.wrong("the request's state is not known here") from error


_WORK: Mapping[str, Callable[[RequestTables, Entry], None]] = {
    EventType.REQUEST_RECEIVED: RequestTables.received,
    EventType.REQUEST_LISTED: RequestTables.listed,
    EventType.REQUEST_REFUSED: RequestTables.refused,
    EventType.REQUEST_APPROVED: RequestTables.approved,
    EventType.REQUEST_CANCELLED: RequestTables.ended,
    EventType.REQUEST_MOVED: RequestTables.moved,
}
