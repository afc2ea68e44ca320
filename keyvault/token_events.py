"""Events of tokens: who gave whom access, to what, until when; and what rebuilds the row, sealed under the journal key. Pure."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final, NamedTuple

from keyvault.errors import InvalidFormatError
from keyvault.events import Event, EventType, Value, b64, canonical, instant, make_event
from keyvault.limits import decode_limits, limits_digest
from keyvault.store.tokens import TokenRow
from keyvault.system_keys import SystemKeys

_CONTENT: Final = b"token-content"


class TokenContent(NamedTuple):
    """What of a token's row no event tells openly. `secret_hash` 32 bytes."""

    name: str
    secret_hash: bytes
    limits: str | None


def issued(keys: SystemKeys, row: TokenRow) -> Event:
    """Return the event `token.issued`, made at the instant that the row has."""
    limits = decode_limits(row.limits)
    payload: dict[str, Value] = {
        "token": b64(row.id),
        "role": row.role,
        "owner": b64(row.owner),
        "expires_at": instant(row.expires_at),
        "rate": row.rate,
        "accounts": None if limits.accounts is None else len(limits.accounts),
        "kinds": None if limits.kinds is None else sorted(map(str, limits.kinds)),
        "purposes": None if limits.purposes is None else len(limits.purposes),
        "limits": None if row.limits is None else b64(limits_digest(row.limits) or b""),
        "content": b64(_seal(keys, row)),
    }
    return make_event(EventType.TOKEN_ISSUED, payload, at=row.created_at)


def revoked(token_id: bytes, revoked_by: bytes, *, at: datetime) -> Event:
    """Return the event `token.revoked`. `revoked_by`: a person's pseudonym, 32 bytes."""
    payload: dict[str, Value] = {"token": b64(token_id), "revoked_by": b64(revoked_by)}
    return make_event(EventType.TOKEN_REVOKED, payload, at=at)


def open_content(keys: SystemKeys, token_id: bytes, sealed: bytes) -> TokenContent:
    """Open what an event seals. `DecryptionFailedError` when it was altered, `InvalidFormatError` when it is another thing."""
    data = keys.open_journal(sealed, _CONTENT + token_id)
    try:
        written = json.loads(data)
        return TokenContent(written["name"], bytes.fromhex(written["secret_hash"]), written["limits"])
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidFormatError("not the content of a token") from error


def _seal(keys: SystemKeys, row: TokenRow) -> bytes:
    content: dict[str, Value] = {"name": row.name, "secret_hash": row.secret_hash.hex(), "limits": row.limits}
    return keys.seal_journal(canonical(content), _CONTENT + row.id)
