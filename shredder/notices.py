"""Notices: each destruction is told to the storage layer at least once, so that it can drop the ciphertext that nobody can read now.

A line is written in the transaction that acknowledges the destruction, and removed after it was given. Killed in between, it is given
again: whoever gets it must not mind.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

from keyvault.events import instant
from keyvault.home import Home
from keyvault.settings import NoticeSettings
from keyvault.store import notices

AT_ONCE = 100
"""Lines that are appended to a file together."""
TIMEOUT = 60.0
"""Seconds after which a command that does not end has failed."""


class _NotGivenError(Exception):
    """Why a notice could not be given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """How many notices were given; how many are left for the next run, and why."""

    given: int
    left: int = 0
    error: str | None = None


def line(event_id: str, keys: Sequence[tuple[bytes, bytes]], at: datetime) -> bytes:
    """Return the line (UTF-8, without a line feed) of one event: of scopes, or of records of one scope.

    `keys` are ids of scopes (16 bytes) and tags of records (8 bytes, or none), at most 1,000.
    """
    body = {
        "event": event_id,
        "destroyed_at": instant(at),
        "scopes": list(dict.fromkeys(scope.hex() for scope, _ in keys)),
        "records": [tag.hex() for _, tag in keys if tag],
    }
    return json.dumps(body).encode()


def deliver(home: Home) -> Delivery:
    """Give all notices that are kept, oldest first; stop at the first that cannot be given, and say so."""
    given = 0
    try:
        for number in _given(home):
            given += number
    except _NotGivenError as error:
        return Delivery(given=given, left=home.database.read(notices.count), error=str(error))
    return Delivery(given=given)


def _given(home: Home) -> Iterator[int]:
    settings = home.settings.notices
    limit = 1 if settings is not None and settings.command else AT_ONCE
    while rows := home.database.read(partial(notices.oldest, limit=limit)):
        _give(settings, [body for _, body in rows])
        home.database.write(partial(notices.remove, ids=[number for number, _ in rows]))
        yield len(rows)


def _give(settings: NoticeSettings | None, lines: Sequence[bytes]) -> None:
    if settings is None:
        raise _NotGivenError("notices are not configured any more: set [notices] in keyvault.toml again")
    text = b"".join(body + b"\n" for body in lines)
    if settings.file is not None:
        _append(Path(settings.file), text)
    elif settings.command is not None:
        _run(settings.command, text)


def _append(path: Path, text: bytes) -> None:
    """Append durably; what a crash left of a line is ended first, so that it spoils no other."""
    try:
        with open(path, "a+b", opener=_private) as file:
            file.write((b"\n" if _is_torn(file) else b"") + text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _NotGivenError(f"{path} cannot be written: {error.strerror}") from error


def _is_torn(file: BinaryIO) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _run(command: Sequence[str], text: bytes) -> None:
    try:
        done = subprocess.run(command, input=text, stdout=subprocess.DEVNULL, timeout=TIMEOUT, check=False)  # noqa: S603 - the operator's own command
    except OSError as error:
        raise _NotGivenError(f"the command {command[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise _NotGivenError(f"the command {command[0]} did not end within {TIMEOUT:.0f} s") from error
    if done.returncode:
        raise _NotGivenError(f"the command {command[0]} ended with {done.returncode}")
