"""What a call tells of itself while it is answered, for its line in the log and its metrics: ids and counts, never names or bodies."""

from __future__ import annotations

from collections.abc import MutableMapping
from time import perf_counter
from typing import Any

import msgspec

from keyvault.errors import KeyVaultError
from keyvault.service.access import Caller
from keyvault.service.wire import KeyAnswers

_KEY = "keyvault.note"


class CallNote:
    """Kept in the request's scope. `items`: how many were answered; `errors`: how many of which class; `keys`: how many were issued.

    `began`: on `perf_counter`; `raised`: by an attempt to answer at once, and not told yet.
    """

    __slots__ = ("began", "caller", "errors", "items", "keys", "raised")

    def __init__(self) -> None:
        """A call begins; nothing is known yet."""
        self.began = perf_counter()
        self.caller: Caller | None = None
        self.raised: Exception | None = None
        self.items: int | None = None
        self.keys = 0
        self.errors: dict[str, int] = {}

    def answered(self, answer: msgspec.Struct) -> None:
        """Count what an answer holds: its list, whose items are values or errors."""
        items: list[Any] | None = answer.keys if isinstance(answer, KeyAnswers) else _list_in(answer)
        if items is None:
            return
        failed = [item.error for item in items if getattr(item, "error", None) is not None]
        self.items = len(items)
        for error in failed:
            self._count(error.type)
        if isinstance(answer, KeyAnswers):
            self.keys = len(items) - len(failed)

    def failed(self, error: KeyVaultError) -> None:
        """Count a call that failed as a whole."""
        self._count(type(error).__name__)

    def _count(self, kind: str) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1


def put_note(scope: Any, note: CallNote) -> None:
    """Put a note in a request's scope."""
    scope[_KEY] = note


def note_of(scope: MutableMapping[str, Any]) -> CallNote:
    """Return the note of a request, which begins where it has none."""
    note: CallNote | None = scope.get(_KEY)
    if note is None:
        note = CallNote()
        put_note(scope, note)
    return note


def _list_in(answer: msgspec.Struct) -> list[Any] | None:
    return next((value for value in msgspec.structs.astuple(answer) if isinstance(value, list)), None)
