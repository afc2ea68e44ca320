"""Forms of the values in events, as docs/events.md gives them: as patterns, and for columns of many at once. Pure.

A log has a million creations, so that their texts are looked at in columns: the texts of one field, one below the other. What is said of a
column here is what the pattern of the same name says of each text.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import lru_cache
from string import ascii_letters, digits, hexdigits
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from keyvault.events import MAX_SCOPES_PER_EVENT
from shredder.audit.columns import column_of

# Unpadded base64url (RFC 4648, section 5) of 32, 16 and 8 bytes: the last character's spare bits are zero, so that bytes have one text.
_BYTES_32 = r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]"
_BYTES_16 = r"[A-Za-z0-9_-]{21}[AQgw]"
_BYTES_8 = r"[A-Za-z0-9_-]{10}[AEIMQUYcgkosw048]"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_INSTANT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"

Bytes32: TypeAlias = Annotated[str, Meta(pattern=rf"^{_BYTES_32}\Z")]
Bytes16: TypeAlias = Annotated[str, Meta(pattern=rf"^{_BYTES_16}\Z")]
Tag: TypeAlias = Annotated[str, Meta(pattern=rf"^{_BYTES_8}\Z")]
Uuid: TypeAlias = Annotated[str, Meta(pattern=rf"^{_UUID}\Z")]
"""A UUID of version 4 (RFC 9562)."""
Instant: TypeAlias = Annotated[str, Meta(pattern=rf"^{_INSTANT}\Z")]
"""UTC with microseconds; that it is a day of the calendar is checked by `moment`."""
Sealed: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{38,}\Z")]
"""Nonce (12 bytes), ciphertext and tag (16 bytes) in base64url."""
Code: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
Words: TypeAlias = Annotated[str, Meta(min_length=1)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Number: TypeAlias = Annotated[int, Meta(ge=1)]
Scopes: TypeAlias = Annotated[list[Bytes32], Meta(min_length=1, max_length=MAX_SCOPES_PER_EVENT)]
Tags: TypeAlias = Annotated[list[Tag], Meta(max_length=MAX_SCOPES_PER_EVENT)]

CLOCKS: Final = timedelta(minutes=5)
"""How far two machines' clocks may differ before the log calls it wrong; homes allow at most one minute."""
CLOCK_STEP: Final = timedelta(hours=1)
"""How much earlier than the entry before it an entry may have been made: transactions wait, and several machines write."""


@lru_cache(maxsize=4_096)
def moment(text: str) -> datetime:
    """Read an instant (aware, UTC). `ValueError` when there is no such day or time."""
    return datetime.fromisoformat(text)


# --- columns ----------------------------------------------------------------------------------------------------------

_LETTERS: Final = (ascii_letters + digits + "-_").encode()
_HEXADECIMAL: Final = hexdigits[:16].encode()
_LAST_OF_32: Final = b"AEIMQUYcgkosw048"
_LAST_OF_16: Final = b"AQgw"
_TO_ZERO: Final = bytes.maketrans(digits.encode(), b"0" * 10)
_ZERO_INSTANT: Final = b"0000-00-00T00:00:00.000000Z"
_ZERO_MONTH: Final = b"0000-00"
_SECONDS: Final = len("0000-00-00T00:00:00")


def are_bytes_32(column: bytes, count: int) -> bool:
    """Tell whether a column is `count` texts of the form `Bytes32`."""
    return _are_base64(column, count, 43, _LAST_OF_32)


def are_bytes_16(column: bytes, count: int) -> bool:
    """Tell whether a column is `count` texts of the form `Bytes16`."""
    return _are_base64(column, count, 22, _LAST_OF_16)


def are_uuids(column: bytes, count: int) -> bool:
    """Tell whether a column is `count` texts of the form `Uuid`."""
    return (
        _is_cut(column, count, 36)
        and all(column[place::37] == b"-" * count for place in (8, 13, 18, 23))
        and column[14::37] == b"4" * count
        and not column[19::37].translate(None, b"89ab")
        and len(column.translate(None, _HEXADECIMAL)) == count * 4 + count - 1
    )


def are_instants(texts: Collection[str]) -> bool:
    """Tell whether texts are of the form `Instant`, each a time of the calendar."""
    if column_of(texts).translate(_TO_ZERO) != b"\n".join([_ZERO_INSTANT] * len(texts)):
        return False
    try:
        for second in {text[:_SECONDS] for text in texts}:
            moment(f"{second}.000000Z")
    except ValueError:
        return False
    return True


def are_months(column: bytes, count: int) -> bool:
    """Tell whether a column is `count` texts of the digits of a month, `2026-11`."""
    return column.translate(_TO_ZERO) == b"\n".join([_ZERO_MONTH] * count)


def _are_base64(column: bytes, count: int, length: int, last: bytes) -> bool:
    return (
        _is_cut(column, count, length)
        and not column[length - 1 :: length + 1].translate(None, last)
        and len(column.translate(None, _LETTERS)) == count - 1
    )


def _is_cut(column: bytes, count: int, length: int) -> bool:
    """Tell whether a column has as many texts of a length as it must; none has a line feed within, if nothing else is found in it."""
    return len(column) == count * (length + 1) - 1 and column[length :: length + 1] == b"\n" * (count - 1)
