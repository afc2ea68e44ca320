"""What a worker tells the process that started it, over a socket that ends with either of them. A line a message."""

from __future__ import annotations

import msgspec

from keyvault.service.wire import ErrorAnswer


class Told(msgspec.Struct, omit_defaults=True):
    """That it accepts connections, that its home is open too, or why its home cannot be. Nothing, every few seconds, says that its event loop turns."""

    listening: bool = False
    open: bool = False
    failed: ErrorAnswer | None = None


def encode(told: Told) -> bytes:
    """Return a line."""
    return msgspec.json.encode(told) + b"\n"


def decode(line: bytes) -> Told:
    """Return what a line says."""
    return msgspec.json.decode(line, type=Told)
