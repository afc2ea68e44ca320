"""What is told of each request: a line in the log, and metrics. Nothing of it names anybody."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable
from itertools import count

from keyvault.service.logs import log_request
from keyvault.service.metrics import Metrics
from keyvault.service.notes import CallNote

REQUEST_ID = b"x-request-id"
SERVER_ERROR = 500
_WELL_FORMED = re.compile(rb"[0-9A-Fa-f-]{16,64}")
"""Hexadecimal with dashes, as UUIDs and trace ids are: nothing that could hold a name or a telephone number is taken over."""

_process = os.urandom(6).hex().encode()
_numbers = count(1)
"""An id of ours: of the process, 12 digits, and of the request in it. To ask the system for random bytes would let other threads in between."""


class Telling:
    """Tells of requests."""

    def __init__(self, metrics: Metrics, quiet: Container[str]) -> None:
        """`quiet`: routes that only metrics tell of, unless they fail: probes would drown the calls."""
        self._metrics = metrics
        self._quiet = quiet

    def tell(self, route: str, request_id: bytes, status: int, seconds: float, note: CallNote) -> None:
        """Tell of one. `route` must be a template, `status` 0 where the connection ended before the answer began."""
        self._metrics.request(route, status, seconds, note)
        if route in self._quiet and status < SERVER_ERROR:
            return
        caller = note.caller
        log_request(
            "info" if 0 < status < SERVER_ERROR else "warning",
            {
                "request": request_id.decode(),
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "token": None if caller is None else caller.token.hex(),
                "role": None if caller is None else caller.role,
                "items": note.items,
                "errors": note.errors or None,
            },
        )


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id that a request came with, if it is of a form that cannot name anybody, or a new one."""
    for name, value in headers:
        if name == REQUEST_ID:
            if _WELL_FORMED.fullmatch(value):
                return bytes(value)
            break
    return b"%b%08x" % (_process, next(_numbers) & 0xFFFFFFFF)
