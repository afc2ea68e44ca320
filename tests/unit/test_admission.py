from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyvault.admission import MAX_RECORD_BYTES, Marks, Targets, address_request, admit_request, admit_wrapped, tag_of
from keyvault.custody.base import Target
from keyvault.errors import (
    AlreadyDueError,
    DecryptionFailedError,
    InvalidInputError,
    InvalidScopeError,
    PurposeNotAllowedError,
    RecordsNotSupportedError,
    ScopeDestroyedError,
    ScopeFencedError,
    ScopeSuspendedError,
    UnknownScopeError,
)
from keyvault.scopes import Scope
from keyvault.states import KeyState
from keyvault.store.fenced_records import RecordRow
from keyvault.store.scopes import ScopeRow
from keyvault.values import KeyRequest
from keyvault.wrapped import CustodyCode, Header, ScopeShareRef, WrappedKey

NOW = datetime(2026, 11, 23, tzinfo=UTC)
PERSON, MONTH = "consumer/acct-1/Zenobia", "communications/acct-1/2026-10"
BUSINESS = "business/acct-1/2026"
NAMES = [PERSON, MONTH, BUSINESS, *(f"consumer/acct-1/{index}" for index in range(9))]
SCOPES = {name: Scope.parse(name) for name in NAMES}


INDEX_KEY = b"i" * 32
NO_MARKS: Marks = {}


def row(
    name: str,
    *,
    state: KeyState = KeyState.ACTIVE,
    due_at: datetime | None = None,
    custody: CustodyCode = CustodyCode.DEDICATED,
) -> ScopeRow:
    return ScopeRow(
        id=bytes([NAMES.index(name)]) * 16,
        generation=1,
        custody=custody,
        kind=SCOPES[name].kind,
        due_at=due_at,
        lookup=bytes(32),
        commitment=bytes(32),
        sealed_name="sealed",
        state=state,
        created_at=NOW,
    )


ROWS = {name: row(name) for name in NAMES}
RING_ROWS = {name: row(name, custody=CustodyCode.RING) for name in NAMES}


def admit(request: KeyRequest, rows: Mapping[str, ScopeRow], marks: Marks = NO_MARKS) -> Targets:
    targets = address_request(request, rows, INDEX_KEY)
    admit_request(targets, request.purpose, marks, NOW)
    return targets


def whole(*names: str) -> Targets:
    return tuple(Target(ROWS[name]) for name in names)


def wrapped(*references: ScopeShareRef) -> WrappedKey:
    return WrappedKey(header=Header(salt=bytes(32), scopes=references), raw=b"")


def reference(name: str, *, custody: CustodyCode = CustodyCode.DEDICATED, generation: int = 1) -> ScopeShareRef:
    return ScopeShareRef(scope_id=ROWS[name].id, custody=custody, generation=generation)


STATES = [
    (KeyState.SUSPENDED, ScopeSuspendedError),
    (KeyState.DEACTIVATED, ScopeFencedError),
    (KeyState.DESTROYED, ScopeDestroyedError),
]


# --- new keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [(PERSON,), (MONTH, PERSON), (PERSON, MONTH), tuple(NAMES[:8])])
def test_rows_come_in_the_requests_order(names: tuple[str, ...]) -> None:
    assert admit(KeyRequest(scopes=names), ROWS) == whole(*names)


@pytest.mark.parametrize("names", [(), tuple(NAMES[:9]), (PERSON, PERSON), (PERSON, MONTH, PERSON)])
def test_a_wrong_number_of_scopes_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"^a key is asked for under 1 to 8 different scopes$"):
        admit(KeyRequest(scopes=names), ROWS)


@pytest.mark.parametrize("record", ["r-1", ""])
def test_dedicated_custody_has_no_keys_for_records(record: str) -> None:
    way_out = r"seal under the account-month alone, or move the scope with `keyvault scope migrate`$"
    with pytest.raises(RecordsNotSupportedError, match=way_out):
        admit(KeyRequest(scopes=(MONTH,), record=record), ROWS)


def test_an_unknown_scope_is_refused_by_its_kind_alone() -> None:
    with pytest.raises(UnknownScopeError, match=r"^no such consumer scope: create it with ensure_scopes first$"):
        admit(KeyRequest(scopes=(MONTH, PERSON)), {MONTH: ROWS[MONTH]})


@pytest.mark.parametrize(
    "wrong", ["", "consumer/acct-1", "consumer/acct-1/%41", "consumer/acct-1/\udcff", PERSON + "/x"]
)
@pytest.mark.parametrize("others", [(), (PERSON,), (BUSINESS,), tuple(NAMES[:8])])
def test_what_is_no_name_is_refused_as_such_whatever_else_is_asked_for(wrong: str, others: tuple[str, ...]) -> None:
    with pytest.raises(InvalidScopeError):
        admit(KeyRequest(scopes=(*others, wrong)), {PERSON: ROWS[PERSON]})


@pytest.mark.parametrize(("state", "error"), STATES)
@pytest.mark.parametrize("names", [(PERSON,), (PERSON, MONTH), (MONTH, PERSON)])
def test_no_key_under_any_scope_that_is_not_active(
    state: KeyState, error: type[Exception], names: tuple[str, ...]
) -> None:
    rows = {**ROWS, PERSON: row(PERSON, state=state)}
    with pytest.raises(error, match=f"^scope {ROWS[PERSON].id.hex()} is "):
        admit(KeyRequest(scopes=names), rows)


@pytest.mark.parametrize(
    ("due_at", "refused"), [(NOW - timedelta(days=1), True), (NOW, True), (NOW + timedelta(microseconds=1), False)]
)
def test_nothing_new_under_a_scope_from_its_due_date_on(due_at: datetime, *, refused: bool) -> None:
    rows = {MONTH: row(MONTH, due_at=due_at)}
    request = KeyRequest(scopes=(MONTH,))
    if not refused:
        assert admit(request, rows) == (Target(rows[MONTH]),)
        return
    with pytest.raises(AlreadyDueError, match=f"^scope {'01' * 16} is due for destruction: nothing new may be put"):
        admit(request, rows)


@pytest.mark.parametrize(
    ("name", "purpose", "refused"),
    [
        (BUSINESS, "marketing", True),
        (BUSINESS, "accounting", False),
        (BUSINESS, None, False),
        (PERSON, "marketing", False),
    ],
)
def test_purposes(name: str, purpose: str | None, *, refused: bool) -> None:
    request = KeyRequest(scopes=(name,), purpose=purpose)
    if not refused:
        assert admit(request, ROWS) == whole(name)
        assert admit_wrapped(wrapped(reference(name)), BY_ID, purpose, NO_MARKS) == whole(name)
        return
    message = r"^the policy allows no key of a business scope for the purpose 'marketing'$"
    with pytest.raises(PurposeNotAllowedError, match=message):
        admit(request, ROWS)
    with pytest.raises(PurposeNotAllowedError, match=message):
        admit_wrapped(wrapped(reference(name)), {ROWS[name].id: ROWS[name]}, purpose, NO_MARKS)


# --- wrapped keys ------------------------------------------------------------------------------------------------

BY_ID = {row.id: row for row in ROWS.values()}


@pytest.mark.parametrize("names", [(PERSON,), (MONTH, PERSON), tuple(NAMES[:8])])
def test_rows_come_in_the_headers_order(names: tuple[str, ...]) -> None:
    assert admit_wrapped(wrapped(*map(reference, names)), BY_ID, None, NO_MARKS) == whole(*names)


def test_a_key_of_a_scope_that_is_due_but_not_destroyed_still_opens() -> None:
    due = row(MONTH, due_at=NOW - timedelta(days=400))
    assert admit_wrapped(wrapped(reference(MONTH)), {due.id: due}, None, NO_MARKS) == (Target(due),)


def test_a_scope_of_another_store_is_named_by_its_id() -> None:
    with pytest.raises(UnknownScopeError, match=f"^scope {'00' * 16} is not in this store: the data belongs to"):
        admit_wrapped(wrapped(reference(MONTH), reference(PERSON)), {ROWS[MONTH].id: ROWS[MONTH]}, None, NO_MARKS)


@pytest.mark.parametrize(
    "altered", [reference(PERSON, custody=CustodyCode.RING), reference(PERSON, generation=2)], ids=["custody", "gen"]
)
def test_a_header_that_contradicts_the_store_is_refused(altered: ScopeShareRef) -> None:
    with pytest.raises(DecryptionFailedError, match=f"^scope {'00' * 16}: the header's custody or generation was alt"):
        admit_wrapped(wrapped(altered), BY_ID, None, NO_MARKS)


@pytest.mark.parametrize(("state", "error"), STATES)
def test_no_key_is_given_back_under_any_scope_that_is_not_active(state: KeyState, error: type[Exception]) -> None:
    rows = {**BY_ID, ROWS[PERSON].id: ROWS[PERSON]._replace(state=state)}
    for names in ((PERSON,), (PERSON, MONTH), (MONTH, PERSON)):
        with pytest.raises(error, match=f"^scope {ROWS[PERSON].id.hex()} is "):
            admit_wrapped(wrapped(*map(reference, names)), rows, None, NO_MARKS)


MOVED = ROWS[MONTH]._replace(custody=CustodyCode.RING.value, key_ref="k-1", ring_id=bytes(16), slot=7)


def test_a_scope_that_moved_is_found_under_either_of_its_keys() -> None:
    old = reference(MONTH)
    new = replace(old, custody=CustodyCode.RING)
    (former,) = admit_wrapped(wrapped(old), {MOVED.id: MOVED}, None, NO_MARKS)
    assert former == Target(ROWS[MONTH]._replace(key_ref="k-1"))
    assert admit_wrapped(wrapped(new), {MOVED.id: MOVED}, None, NO_MARKS) == (Target(MOVED),)


@pytest.mark.parametrize(
    ("row", "altered"),
    [
        (MOVED, {"generation": 2}),
        (MOVED, {"record_tag": b"r" * 8}),
        (MOVED._replace(key_ref=None), {}),
        (ROWS[MONTH]._replace(key_ref="k-1"), {"custody": CustodyCode.RING}),
    ],
)
def test_a_key_that_a_scope_never_had_is_refused(row: ScopeRow, altered: dict[str, Any]) -> None:
    with pytest.raises(DecryptionFailedError, match=f"^scope {row.id.hex()}: the header"):
        admit_wrapped(wrapped(replace(reference(MONTH), **altered)), {row.id: row}, None, NO_MARKS)


@pytest.mark.parametrize(("state", "error"), STATES)
def test_the_former_key_of_a_scope_that_moved_is_as_shut_as_its_new_one(
    state: KeyState, error: type[Exception]
) -> None:
    rows = {MOVED.id: MOVED._replace(state=state)}
    for custody in CustodyCode:
        with pytest.raises(error):
            admit_wrapped(wrapped(replace(reference(MONTH), custody=custody)), rows, None, NO_MARKS)


# --- records -----------------------------------------------------------------------------------------------------

TAG = tag_of(RING_ROWS[MONTH], "r-1", INDEX_KEY)


def mark(state: KeyState) -> Marks:
    row = RecordRow(
        scope_id=RING_ROWS[MONTH].id, tag=TAG, state=state, fenced_at=None, destroyed_at=None, destroy_id=None
    )
    return {row.key: row}


def test_a_record_narrows_the_account_month_alone() -> None:
    request = KeyRequest(scopes=(PERSON, MONTH), record="r-1")
    assert admit(request, RING_ROWS) == (Target(RING_ROWS[PERSON]), Target(RING_ROWS[MONTH], TAG))


@pytest.mark.parametrize("name", [PERSON, BUSINESS])
def test_only_account_months_have_records(name: str) -> None:
    with pytest.raises(RecordsNotSupportedError, match=r"^only account-months have records with keys of their own"):
        admit(KeyRequest(scopes=(name,), record="r-1"), RING_ROWS)
    with pytest.raises(RecordsNotSupportedError, match=r"^a \w+ scope has no records with keys of their own$"):
        tag_of(RING_ROWS[name], "r-1", INDEX_KEY)


@pytest.mark.parametrize("record", ["", "é" * (MAX_RECORD_BYTES // 2) + "x", "x" * 513])
def test_a_records_id_has_a_length(record: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^a record's id has 1 to 512 bytes$"):
        admit(KeyRequest(scopes=(MONTH,), record=record), RING_ROWS)
    assert len(tag_of(RING_ROWS[MONTH], "é" * (MAX_RECORD_BYTES // 2), INDEX_KEY)) == 8
    assert len(tag_of(RING_ROWS[MONTH], "r", INDEX_KEY)) == 8


@pytest.mark.parametrize("record", ["\ud800", "r-\udcff"])
def test_a_records_id_is_utf_8(record: str) -> None:
    with pytest.raises(InvalidInputError, match="lone surrogate"):
        admit(KeyRequest(scopes=(MONTH,), record=record), RING_ROWS)


def test_tags_differ_by_record_and_by_scope() -> None:
    other = RING_ROWS[MONTH]._replace(id=b"o" * 16)
    assert len({TAG, tag_of(RING_ROWS[MONTH], "r-2", INDEX_KEY), tag_of(other, "r-1", INDEX_KEY)}) == 3


@pytest.mark.parametrize(("state", "error"), STATES)
def test_a_marked_record_gives_no_key_and_the_rest_of_its_month_does(state: KeyState, error: type[Exception]) -> None:
    reference = ScopeShareRef(scope_id=RING_ROWS[MONTH].id, custody=CustodyCode.RING, generation=1, record_tag=TAG)
    rows = {RING_ROWS[MONTH].id: RING_ROWS[MONTH]}
    with pytest.raises(error, match=f"^a record of scope {'01' * 16} is "):
        admit(KeyRequest(scopes=(MONTH,), record="r-1"), RING_ROWS, mark(state))
    with pytest.raises(error, match=f"^a record of scope {'01' * 16} is "):
        admit_wrapped(wrapped(reference), rows, None, mark(state))
    assert admit(KeyRequest(scopes=(MONTH,), record="r-2"), RING_ROWS, mark(state))
    assert admit(KeyRequest(scopes=(MONTH,)), RING_ROWS, mark(state)) == (Target(RING_ROWS[MONTH]),)
    assert admit_wrapped(wrapped(reference), rows, None, NO_MARKS) == (Target(RING_ROWS[MONTH], TAG),)


def test_a_record_in_a_header_of_dedicated_custody_is_refused() -> None:
    altered = ScopeShareRef(scope_id=ROWS[MONTH].id, custody=CustodyCode.DEDICATED, generation=1, record_tag=TAG)
    with pytest.raises(DecryptionFailedError, match=r"the header names a record, and its custody has none$"):
        admit_wrapped(wrapped(altered), BY_ID, None, NO_MARKS)


def test_no_refusal_shows_a_name() -> None:
    cases: list[tuple[KeyRequest, dict[str, ScopeRow]]] = [
        (KeyRequest(scopes=(PERSON,)), {}),
        (KeyRequest(scopes=(PERSON,)), {PERSON: row(PERSON, due_at=NOW)}),
        *((KeyRequest(scopes=(PERSON,)), {PERSON: row(PERSON, state=state)}) for state, _ in STATES),
    ]
    for request, rows in cases:
        with pytest.raises((UnknownScopeError, AlreadyDueError, *(error for _, error in STATES))) as raised:
            admit(request, rows)
        assert "Zenobia" not in str(raised.value)
        assert "acct-1" not in str(raised.value)


def test_a_record_id_that_utf_8_cannot_carry_is_refused() -> None:
    with pytest.raises(InvalidInputError) as raised:
        tag_of(RING_ROWS[MONTH], "\ud800", INDEX_KEY)
    assert str(raised.value) == "a record's id holds a lone surrogate, which UTF-8 cannot carry"
