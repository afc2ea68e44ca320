"""What a call tells of itself while it is answered, for its line in the log and its metrics: ids and counts, never names or bodies."""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping
from typing import Any

import msgspec

from keyvault.errors import KeyVaultError
from keyvault.service.access import Caller
from keyvault.service.wire import KeyAnswers

_KEY = "keyvault.note"


class CallNote:
    """Kept in the request's scope. `items`: how many were answered; `errors`: how many of which class; `keys`: how many were issued."""

    __slots__ = ("caller", "errors", "items", "keys")

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.caller: Caller | None = None
        self.items: int | None = None
        self.keys = 0
        self.errors: Counter[str] = Counter()

    def answered(self, answer: msgspec.Struct) -> None:
        """Count what an answer holds: its list, whose items are values or errors."""
        items = next((value for value in msgspec.structs.astuple(answer) if isinstance(value, list)), None)
        if items is None:
            return
        failed = [item.error for item in items if getattr(item, "error", None) is not None]
        self.items = len(items)
        self.errors.update(error.type for error in failed)
        if isinstance(answer, KeyAnswers):
            self.keys = len(items) - len(failed)

    def failed(self, error: KeyVaultError) -> None:
        """Count a call that failed as a whole."""
        self.errors[type(error).__name__] += 1


def start_note(scope: MutableMapping[str, Any]) -> CallNote:
    """Begin a note in a request's scope."""
    note = scope[_KEY] = CallNote()
    return note


def note_of(scope: MutableMapping[str, Any]) -> CallNote:
    """Return the note of a request; one that nobody reads, where the application runs by itself."""
    note: CallNote = scope.get(_KEY) or start_note(scope)
    return note
