"""Packs for tests: of a home's events, under a key of the tests', so that what was changed can be signed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from keyvault.home import Home
from shredder.audit.home_pack import account_months
from shredder.audit.pack import make_pack
from shredder.audit.population import AccountMonth
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.verify import Evidence, Verified, verify_pack
from tests.logs import LOG_KEY, write_log

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What packs are made of. `at`: the time at which everything is as it should be."""

    entries: Sequence[bytes]
    months: Sequence[AccountMonth]
    at: datetime


def material(home: Home) -> Material:
    home.log.settle()
    log = LogDirectory(home.log_directory)
    note = log.checkpoint()
    assert note is not None
    size = int(note.split(b"\n")[1])
    return Material(entries=list(log.entries(0, size)), months=list(account_months(home)), at=home.clock.now())


def packed(folder: Path, what: Material, entries: Sequence[bytes] | None = None) -> Path:
    """Make a pack of entries that are signed by the key of the tests', beside the log that it is made of."""
    write_log(folder / "log", what.entries if entries is None else entries)
    log = LogDirectory(folder / "log")
    note = log.checkpoint()
    assert note is not None
    make_pack(folder / "pack", log=log, log_key=LOG_KEY, note=note, account_months=lambda: what.months)
    return folder / "pack"


def verified(pack: Path, at: datetime, *, previous: bytes | None = None, billing: str | None = None) -> Verified:
    return verify_pack(pack, Evidence(log_key=LOG_KEY, previous=previous, billing=billing), at=at)


def lines(found: Verified) -> list[str]:
    return [str(finding) for finding in found.findings]


def note_of(pack: Path) -> bytes:
    return (pack / CHECKPOINT).read_bytes()
