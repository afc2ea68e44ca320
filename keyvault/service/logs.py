"""Structured logs on standard error: JSON, a line an event; readable lines on a terminal. Libraries' loggers go the same way.

An exception is written as its class and where it came from. Its message is written only where it is one of ours, which hold no name and
no secret: messages of others may quote what they were given. Values of variables are never written.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec
import structlog

from keyvault.errors import KeyVaultError

QUIET = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "asyncio",
    "httpx2",
    "httpcore2",
    "hvac",
    "urllib3",
    "alembic",
    "stamina",
)
"""Loggers of libraries, which tell what they do at INFO: here from WARNING on."""

_Event = MutableMapping[str, Any]


def configure_logs() -> None:
    """Send every log of this process to standard error."""
    readable = sys.stderr.isatty()
    first: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _tell_exception,
    ]
    last: Any = (
        structlog.dev.ConsoleRenderer(colors=False) if readable else structlog.processors.JSONRenderer(serializer=_json)
    )
    global _lines  # noqa: PLW0603 - the logs of a process are one thing, as those of `logging` are
    _lines = None if readable else structlog.BytesLogger(sys.stderr.buffer)
    structlog.configure(
        processors=[*first, last] if readable else [*first, _to_bytes],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr)
        if readable
        else structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *first],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_colours, last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name in QUIET:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.WARNING)


def log_request(level: str, told: _Event) -> None:
    """Write the line of a request as any other is: without the chain that makes those, which would cost a tenth of what most calls do."""
    if _lines is None:
        getattr(structlog.get_logger("keyvault.service"), level)("request", **told)
        return
    _lines.msg(_encode({**told, "event": "request", "level": level, "time": datetime.now(UTC)}))


_lines: structlog.BytesLogger | None = None
"""What lines of JSON are written to; None where lines are written to be read."""


def _json(event: _Event, **_: Any) -> str:
    return _encode(event).decode()


def _to_bytes(_logger: Any, _method: str, event: _Event) -> bytes:
    return _encode(event)


def _encode(event: _Event) -> bytes:
    return _encoder.encode(event)


_encoder = msgspec.json.Encoder(enc_hook=str)


def _without_colours(_logger: Any, _method: str, event: _Event) -> _Event:
    event.pop("color_message", None)
    return event


def _tell_exception(_logger: Any, _method: str, event: _Event) -> _Event:
    given = event.pop("exc_info", None)
    if not given:
        return event
    error = given if isinstance(given, BaseException) else (sys.exc_info() if given is True else given)[1]
    if error is not None:
        event["exception"] = _causes(error)
    return event


def _causes(error: BaseException) -> list[dict[str, Any]]:
    """Return an error and what it came from, the last first."""
    told: list[dict[str, Any]] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        message = {"message": str(current)} if isinstance(current, KeyVaultError) else {}
        told.append({"type": type(current).__name__, **message, "at": _frames(current.__traceback__)})
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return told


def _frames(trace: TracebackType | None) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]
