"""Entries of the log as the rebuild reads them. Pure."""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keyvault.errors import LogError
from keyvault.events import SCHEMA_VERSION

_HEADER = ("id", "type", "at", "policy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One event of the log: its index, its exact bytes, and what they say."""

    index: int
    body: bytes
    fields: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Return the UUID of the event."""
        return str(self.fields["id"])

    @property
    def type(self) -> str:
        """Return the type of the event, which may be one that this program does not know."""
        return str(self.fields["type"])

    @property
    def at(self) -> datetime:
        """Return when the event was made."""
        return self.moment("at")

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def text(self, name: str) -> str:
        """Return a text. `LogError` when it is none."""
        value = self.optional(name)
        if value is None:
            raise self.wrong(f"it has no {name}")
        return value

    def optional(self, name: str) -> str | None:
        """Return a text, or None where the field is null or missing. `LogError` for anything else."""
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(f"its {name} is no text")
        return value

    def number(self, name: str) -> int:
        """Return a number. `LogError` when it is none."""
        value = self.fields.get(name)
        if type(value) is not int:
            raise self.wrong(f"its {name} is no number")
        return value

    def data(self, name: str) -> bytes:
        """Return what a text of unpadded base64url stands for. `LogError` when it is none."""
        return self.decoded(self.text(name))

    def optional_data(self, name: str) -> bytes | None:
        """Return the same, or None where the field is null or missing."""
        text = self.optional(name)
        return None if text is None else self.decoded(text)

    def all_data(self, name: str) -> list[bytes]:
        """Return what a list of such texts stands for."""
        return [self.decoded(text) for text in self.fields.get(name, ())]

    def moment(self, name: str) -> datetime:
        """Return an instant, in UTC. `LogError` when it is none."""
        return self.instant(self.text(name))

    def optional_moment(self, name: str) -> datetime | None:
        """Return an instant, or None where the field is null or missing."""
        text = self.optional(name)
        return None if text is None else self.instant(text)

    def instant(self, text: str) -> datetime:
        """Read an instant. `LogError` when it is none, or has no zone."""
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise self.wrong("an instant in it is none") from error
        if moment.tzinfo is None:
            raise self.wrong("an instant in it has no zone")
        return moment

    def decoded(self, text: str) -> bytes:
        """Read unpadded base64url. `LogError` when it is none."""
        try:
            return binascii.a2b_base64(
                text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), strict_mode=True
            )
        except (binascii.Error, ValueError, AttributeError) as error:
            raise self.wrong("a value in it is not base64url") from error

    def wrong(self, what: str) -> LogError:
        """Return the error that says what is wrong with this entry."""
        return wrong(self.index, what)


def wrong(index: int, what: str) -> LogError:
    """Return the error that says what is wrong with an entry."""
    return LogError(
        f"entry {index} of the log: {what}; the database was not rebuilt: use the version of the program that wrote it, and an empty database"
    )


def read_entry(index: int, body: bytes) -> Entry:
    """Read an entry's bytes. `LogError` when they are no event of this schema."""
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise wrong(index, "it is not JSON") from error
    if not isinstance(fields, dict) or any(not isinstance(fields.get(name), str) for name in _HEADER):
        raise wrong(index, "it is no event")
    if fields.get("v") != SCHEMA_VERSION:
        raise wrong(index, f"its schema is not version {SCHEMA_VERSION}")
    return Entry(index=index, body=body, fields=fields)
