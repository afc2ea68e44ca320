"""Input and output files of commands. `-` is standard input or output."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, cast

import click

from cli.failures import Refused

STANDARD = "-"

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


class Prefixed:
    """A source with bytes put back in front, for pipes, which cannot seek."""

    def __init__(self, prefix: bytes, source: BinaryIO) -> None:
        self._prefix = prefix
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, or all."""
        if size < 0:
            prefix, self._prefix = self._prefix, b""
            return prefix + self._source.read()
        if self._prefix:
            piece, self._prefix = self._prefix[:size], self._prefix[size:]
            return piece
        return self._source.read(size)


def check_pair(source: str, sink: str, *, force: bool) -> None:
    """Refuse an output that is the input, exists already, or is no regular file, before anything is done."""
    if sink == STANDARD:
        return
    target = Path(sink)
    if source != STANDARD and target.exists() and Path(source).exists() and target.samefile(source):
        raise click.UsageError("IN and OUT are the same file; give the output another name")
    check_output(target, force=force)


def check_output(target: Path, *, force: bool) -> None:
    """Refuse an output that may not be written."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise Refused(f"{target} is {what}; name a file, or - for standard output")
    if not force:
        raise Refused(f"{target} exists already; --force replaces it")


def open_input(name: str) -> AbstractContextManager[BinaryIO]:
    """Open a file to read, or lend standard input, unbuffered: a buffer that fills itself would not see a signal meanwhile."""
    if name != STANDARD:
        return open_lines(name)
    return nullcontext(cast("BinaryIO", getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)))


@contextmanager
def output(name: str, *, force: bool = False) -> Iterator[BinaryIO]:
    """Lend a file that gets its name (mode 0600) only when the block ends well; on any error nothing of it stays.

    Standard output is lent as it is.
    """
    if name == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(name).resolve()  # a symbolic link stays, and what it points to is replaced
    descriptor, draft = _draft(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        check_output(target, force=force)
        Path(draft).rename(target)
    except BaseException as error:
        with suppress(FileNotFoundError):
            Path(draft).unlink()
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            error.filename = str(target)
        raise
    _sync_directory(target.parent)


def _draft(target: Path) -> tuple[int, str]:
    try:
        return tempfile.mkstemp(dir=target.parent, prefix=".keyvault-", suffix=".partial")
    except OSError as error:
        error.filename = str(target.parent)  # the draft's random name would tell nothing
        raise


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_lines(name: str) -> AbstractContextManager[BinaryIO]:
    """Open a file to read line by line, or lend standard input."""
    return nullcontext(sys.stdin.buffer) if name == STANDARD else Path(name).open("rb")


def size_of(source: BinaryIO) -> int | None:
    """Return a regular file's size in bytes, or None."""
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None
