"""Forms of the values in events, as docs/events.md gives them. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from keyvault.events import MAX_SCOPES_PER_EVENT

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

_CREATED = f"{_BYTES_32} {_BYTES_32} {_BYTES_16} {_UUID} {_INSTANT}"
CREATED: Final = re.compile(_CREATED, re.ASCII)
ALL_CREATED: Final = re.compile(rf"{_CREATED}(?:\n{_CREATED})*", re.ASCII)
"""The texts of `scope.created` that have a fixed form, in one look: a log has a million of them."""

CLOCKS: Final = timedelta(minutes=5)
"""How far two machines' clocks may differ before the log calls it wrong; homes allow at most one minute."""


@lru_cache(maxsize=4_096)
def moment(text: str) -> datetime:
    """Read an instant (aware, UTC). `ValueError` when there is no such day or time."""
    return datetime.fromisoformat(text)
