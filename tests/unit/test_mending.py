"""Mending a log's directory from its entries: every file as it was, none that was right written again, none from other entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyvault.errors import LogError, VerificationError
from shredder.log import mending
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.log.mending import mend
from shredder.log.tiles import tiles_of
from tests.logs import LOG_KEY, write_log
from tests.publishing import assert_whole, entries_of


def files(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("size", [1, 256, 700, 1_034, 66_000])
def test_a_log_is_written_again_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(mending, "LEAVES_AT_ONCE", 512)
    entries = entries_of(size)
    write_log(tmp_path / "log", entries)
    before, note = files(tmp_path / "log"), (tmp_path / "log" / CHECKPOINT).read_bytes()
    again = LogDirectory(tmp_path / "again")
    assert mend(again, LOG_KEY, note, lambda first, end: entries[first:end]) == len(list(tiles_of(size))) + 1
    assert files(tmp_path / "again") == before
    assert mend(again, LOG_KEY, note, lambda first, end: entries[first:end]) == 0
    assert_whole(tmp_path / "again", entries)


def test_only_what_is_wrong_is_written(tmp_path: Path) -> None:
    entries = entries_of(600)
    write_log(tmp_path, entries)
    log, note = LogDirectory(tmp_path), (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / "tile/0/001").unlink()
    (tmp_path / "tile/entries/000").write_bytes(b"damaged")
    (tmp_path / "tile/theirs").write_bytes(b"stays")
    assert mend(log, LOG_KEY, note, lambda first, end: entries[first:end]) == 2
    assert_whole(tmp_path, entries)
    assert (tmp_path / "tile/theirs").read_bytes() == b"stays"


def test_other_entries_and_other_notes_change_nothing(tmp_path: Path) -> None:
    entries = entries_of(600)
    write_log(tmp_path, entries)
    log, note = LogDirectory(tmp_path), (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / "tile/0/001").unlink()
    before = files(tmp_path)
    for other in ([*entries[:599], b"another"], entries[:599], [*entries[1:], entries[0]]):
        with pytest.raises(LogError, match="do not lead to the root"):
            mend(log, LOG_KEY, note, lambda first, end, other=other: other[first:end])  # type: ignore[misc]
    with pytest.raises(VerificationError):
        mend(log, LOG_KEY, note.replace(b"600", b"599"), lambda first, end: entries[first:end])
    assert files(tmp_path) == before
