"""The file of sealed records: JSON lines, append-only, whole after a crash at any moment."""

from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keyvault.errors import ConfigurationError, InvalidFormatError
from keyvault.records.parts import FORMAT, SealedRecord, encode_json

FILE_NAME = "records.jsonl"


class RecordFile:
    """The sealed file of a directory, open for appending by one process at a time.

    Opening it drops a last line that a crash left torn. `ConfigurationError` when another process writes it, or it was begun
    with other identifying fields; `InvalidFormatError` when it is no such file.
    """

    def __init__(self, directory: Path, pii_fields: Sequence[str]) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / FILE_NAME
        # Without a buffer: what could not be written must not be tried again when the file is closed.
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        try:
            _lock(self._file.fileno(), path)
            self.records = self._recover(path, pii_fields)
        except BaseException:
            self._file.close()
            raise
        _sync_directory(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, sealed: Sequence[SealedRecord]) -> None:
        """Add records; they are on disk when this returns, and after a crash each is there whole or not at all."""
        if not sealed:
            return
        self._write(b"".join(map(_line, sealed)))
        self.records.update(item.record for item in sealed)

    def _recover(self, path: Path, pii_fields: Sequence[str]) -> set[str]:
        """Return the ids that are in the file, after cutting a torn end off; begin an empty file with its header."""
        header = {"format": FORMAT, "pii_fields": list(pii_fields)}
        whole, records = 0, set[str]()
        with path.open("rb") as reading:
            for number, line in enumerate(reading, start=1):
                if not line.endswith(b"\n"):
                    break
                if number == 1:
                    _check_header(path, line, header)
                else:
                    records.add(_read_line(path, number, line).record)
                whole += len(line)
        self._file.truncate(whole)
        self._write(b"" if whole else encode_json(header) + b"\n")
        return records

    def _write(self, data: bytes) -> None:
        end = self._file.seek(0, os.SEEK_END)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            raise


def read_sealed(path: Path) -> Iterator[SealedRecord]:
    """Yield the records of a sealed file. A torn last line, which an interrupted import may leave, is passed over."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            if number == 1:
                _header(path, line)
                continue
            yield _read_line(path, number, line)


def _line(item: SealedRecord) -> bytes:
    parts = {name: base64.b64encode(getattr(item, name)).decode() for name in ("identity", "content")}
    return encode_json({"record": item.record, **parts}) + b"\n"


def _read_line(path: Path, number: int, line: bytes) -> SealedRecord:
    try:
        values = json.loads(line)
        parts = {name: base64.b64decode(values[name], validate=True) for name in ("identity", "content")}
        return SealedRecord(record=values["record"], **parts)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidFormatError(f"{path}: line {number} is not a sealed record: restore the file") from error


def _header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(line)
        if header["format"] == FORMAT:
            return header
    except (ValueError, KeyError, TypeError):
        pass
    raise InvalidFormatError(f"{path} does not begin as a file of sealed records ({FORMAT}) does")


def _check_header(path: Path, line: bytes, wanted: Mapping[str, Any]) -> None:
    found = _header(path, line)
    if found != wanted:
        names = ",".join(found.get("pii_fields", []))
        raise ConfigurationError(
            f"{path} was begun with --pii-fields {names}: go on with these, or use another directory"
        )


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(f"another import is writing {path}: wait until it has finished") from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
