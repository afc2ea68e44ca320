from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyvault.admission import admit_request, admit_wrapped
from keyvault.errors import (
    AlreadyDueError,
    DecryptionFailedError,
    InvalidInputError,
    PurposeNotAllowedError,
    RecordsNotSupportedError,
    ScopeDestroyedError,
    ScopeFencedError,
    ScopeSuspendedError,
    UnknownScopeError,
)
from keyvault.scopes import Scope
from keyvault.states import KeyState
from keyvault.store.scopes import ScopeRow
from keyvault.values import KeyRequest
from keyvault.wrapped import CustodyCode, Header, ScopeShareRef, WrappedKey

NOW = datetime(2026, 11, 23, tzinfo=UTC)
PERSON, MONTH = "consumer/acct-1/Zenobia", "communications/acct-1/2026-10"
BUSINESS = "business/acct-1/2026"
NAMES = [PERSON, MONTH, BUSINESS, *(f"consumer/acct-1/{index}" for index in range(9))]
SCOPES = {name: Scope.parse(name) for name in NAMES}


def row(name: str, *, state: KeyState = KeyState.ACTIVE, due_at: datetime | None = None) -> ScopeRow:
    return ScopeRow(
        id=bytes([NAMES.index(name)]) * 16,
        generation=1,
        custody=CustodyCode.DEDICATED,
        kind=SCOPES[name].kind,
        due_at=due_at,
        lookup=bytes(32),
        commitment=bytes(32),
        sealed_name="sealed",
        state=state,
        created_at=NOW,
    )


ROWS = {name: row(name) for name in NAMES}


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
    assert admit_request(KeyRequest(scopes=names), SCOPES, ROWS, NOW) == tuple(ROWS[name] for name in names)


@pytest.mark.parametrize("names", [(), tuple(NAMES[:9]), (PERSON, PERSON), (PERSON, MONTH, PERSON)])
def test_a_wrong_number_of_scopes_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"^a key is asked for under 1 to 8 different scopes$"):
        admit_request(KeyRequest(scopes=names), SCOPES, ROWS, NOW)


@pytest.mark.parametrize("record", ["r-1", ""])
def test_dedicated_custody_has_no_keys_for_records(record: str) -> None:
    with pytest.raises(
        RecordsNotSupportedError, match=r"^dedicated custody has no keys for single records: seal under"
    ):
        admit_request(KeyRequest(scopes=(MONTH,), record=record), SCOPES, ROWS, NOW)


def test_an_unknown_scope_is_refused_by_its_kind_alone() -> None:
    with pytest.raises(UnknownScopeError, match=r"^no such consumer scope: create it with ensure_scopes first$"):
        admit_request(KeyRequest(scopes=(MONTH, PERSON)), SCOPES, {MONTH: ROWS[MONTH]}, NOW)


@pytest.mark.parametrize(("state", "error"), STATES)
@pytest.mark.parametrize("names", [(PERSON,), (PERSON, MONTH), (MONTH, PERSON)])
def test_no_key_under_any_scope_that_is_not_active(
    state: KeyState, error: type[Exception], names: tuple[str, ...]
) -> None:
    rows = {**ROWS, PERSON: row(PERSON, state=state)}
    with pytest.raises(error, match=f"^scope {ROWS[PERSON].id.hex()} is "):
        admit_request(KeyRequest(scopes=names), SCOPES, rows, NOW)


@pytest.mark.parametrize(
    ("due_at", "refused"), [(NOW - timedelta(days=1), True), (NOW, True), (NOW + timedelta(microseconds=1), False)]
)
def test_nothing_new_under_a_scope_from_its_due_date_on(due_at: datetime, *, refused: bool) -> None:
    rows = {MONTH: row(MONTH, due_at=due_at)}
    request = KeyRequest(scopes=(MONTH,))
    if not refused:
        assert admit_request(request, SCOPES, rows, NOW) == (rows[MONTH],)
        return
    with pytest.raises(AlreadyDueError, match=f"^scope {'01' * 16} is due for destruction: nothing new may be put"):
        admit_request(request, SCOPES, rows, NOW)


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
        assert admit_request(request, SCOPES, ROWS, NOW) == (ROWS[name],)
        assert admit_wrapped(wrapped(reference(name)), {row.id: row for row in ROWS.values()}, purpose) == (ROWS[name],)
        return
    message = r"^the policy allows no key of a business scope for the purpose 'marketing'$"
    with pytest.raises(PurposeNotAllowedError, match=message):
        admit_request(request, SCOPES, ROWS, NOW)
    with pytest.raises(PurposeNotAllowedError, match=message):
        admit_wrapped(wrapped(reference(name)), {ROWS[name].id: ROWS[name]}, purpose)


# --- wrapped keys ------------------------------------------------------------------------------------------------

BY_ID = {row.id: row for row in ROWS.values()}


@pytest.mark.parametrize("names", [(PERSON,), (MONTH, PERSON), tuple(NAMES[:8])])
def test_rows_come_in_the_headers_order(names: tuple[str, ...]) -> None:
    assert admit_wrapped(wrapped(*map(reference, names)), BY_ID, None) == tuple(ROWS[name] for name in names)


def test_a_key_of_a_scope_that_is_due_but_not_destroyed_still_opens() -> None:
    due = row(MONTH, due_at=NOW - timedelta(days=400))
    assert admit_wrapped(wrapped(reference(MONTH)), {due.id: due}, None) == (due,)


def test_a_scope_of_another_store_is_named_by_its_id() -> None:
    with pytest.raises(UnknownScopeError, match=f"^scope {'00' * 16} is not in this store: the data belongs to"):
        admit_wrapped(wrapped(reference(MONTH), reference(PERSON)), {ROWS[MONTH].id: ROWS[MONTH]}, None)


@pytest.mark.parametrize(
    "altered", [reference(PERSON, custody=CustodyCode.RING), reference(PERSON, generation=2)], ids=["custody", "gen"]
)
def test_a_header_that_contradicts_the_store_is_refused(altered: ScopeShareRef) -> None:
    with pytest.raises(DecryptionFailedError, match=f"^scope {'00' * 16}: the header's custody or generation was alt"):
        admit_wrapped(wrapped(altered), BY_ID, None)


@pytest.mark.parametrize(("state", "error"), STATES)
def test_no_key_is_given_back_under_any_scope_that_is_not_active(state: KeyState, error: type[Exception]) -> None:
    rows = {**BY_ID, ROWS[PERSON].id: replace(ROWS[PERSON], state=state)}
    for names in ((PERSON,), (PERSON, MONTH), (MONTH, PERSON)):
        with pytest.raises(error, match=f"^scope {ROWS[PERSON].id.hex()} is "):
            admit_wrapped(wrapped(*map(reference, names)), rows, None)


def test_no_refusal_shows_a_name() -> None:
    cases: list[tuple[KeyRequest, dict[str, ScopeRow]]] = [
        (KeyRequest(scopes=(PERSON,)), {}),
        (KeyRequest(scopes=(PERSON,)), {PERSON: row(PERSON, due_at=NOW)}),
        *((KeyRequest(scopes=(PERSON,)), {PERSON: row(PERSON, state=state)}) for state, _ in STATES),
    ]
    for request, rows in cases:
        with pytest.raises((UnknownScopeError, AlreadyDueError, *(error for _, error in STATES))) as raised:
            admit_request(request, SCOPES, rows, NOW)
        assert "Zenobia" not in str(raised.value)
        assert "acct-1" not in str(raised.value)
