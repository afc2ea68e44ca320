"""`demo`: seal records, back the database up, shred two keys, and try everything against both."""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.app import App, json_option
from cli.failures import EXIT_REFUSED, Refused

if TYPE_CHECKING:
    from keyvault.errors import KeyVaultError
    from keyvault.records import ImportSummary, OpenedRecord, SourceRecord

TICKET = "DEMO-1"
PII_FIELDS = ("consumer",)

MEANING = """\
A shredded account-month takes everything with it: none of its records can be read, here or in any backup.
A shredded consumer takes what identifies the consumer: these fields of the consumer's records cannot be read, here or in any
backup. The rest of those records stays readable, without saying whose they are, until its account-month is shredded."""


Opened = Mapping[str, "OpenedRecord"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of the table: how many there should be, and how many there are (live and in the backup)."""

    what: str
    expected: int
    live: int
    backup: int

    @property
    def right(self) -> bool:
        """Whether both are as expected."""
        return self.expected == self.live == self.backup


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The two scopes to shred."""

    month: str
    consumer: str


@click.command()
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Records to use (JSON lines, as for import-records) instead of the bundled ones.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Make everything in this new directory and leave it there.",
)
@json_option
@click.pass_obj
def demo(app: App, source: Path | None, keep: Path | None) -> int:
    """Seal records, shred two keys, and show what is gone.

    One account-month and one consumer are shredded; then everything is tried with the live database and with a backup from before. Uses the embedded engine in a temporary directory; no home and no server is needed or touched. Exit code 1 if anything is
    not as it should be.
    """
    lines = _sample(datetime.now(UTC)) if source is None else source.read_bytes().splitlines(keepends=True)
    with _folder(keep) as folder:
        return _run(app, lines, folder, "the bundled sample" if source is None else str(source), kept=keep is not None)


def _run(app: App, lines: Sequence[bytes], folder: Path, source: str, *, kept: bool) -> int:
    app.say(f"1. Sealing {len(lines)} records of {source} under keys of their account-months and consumers.")
    home = _make_home(folder)
    summary = _import(app, home, lines, folder)
    if not summary.sealed:
        raise Refused("no record could be sealed, so there is nothing to show")
    records = _sealed_records(folder, lines)
    chosen = _choose(records)
    app.say("2. Copying the database, as a backup would, and opening everything with both.")
    copy = _back_up(home, folder)
    homes = {"live": home, "restored": copy}
    before = [_open_all(app, each, folder, title) for title, each in homes.items()]
    app.say("3. Shredding two keys: those of the account-month and of the consumer with the most records:")
    app.say(f"   {chosen.month}\n   {chosen.consumer}")
    _shred(app, home, chosen)
    app.say("4. Trying to open everything again, with the live database and with the restored copy.\n")
    after = [_open_all(app, each, folder, title) for title, each in homes.items()]
    table = [_everything(records, before), *_expectations(records, chosen, after)]
    right = all(line.right for line in table)
    _show(app, summary, table, right=right)
    app.emit(_answer(summary, chosen, table, right=right, folder=folder if kept else None))
    if kept:
        app.say(f"\nLeft in {folder}: try `keyvault --home {home} status`.")
    return 0 if right else EXIT_REFUSED


# --- the scene ---------------------------------------------------------------------------------------------------------


def _sample(now: datetime) -> list[bytes]:
    """Return the bundled records, with times counted back from now."""
    lines = []
    for line in (files("cli") / "sample.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        at = now - timedelta(days=values.pop("days_ago"))
        values["recorded_at"] = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        lines.append(json.dumps(values, ensure_ascii=False).encode() + b"\n")
    return lines


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="keyvault-demo-") as name:
            yield Path(name)
        return
    if keep.exists() and any(keep.iterdir()):
        raise Refused(f"{keep} is not empty; name a new directory")
    keep.mkdir(mode=0o700, parents=True, exist_ok=True)
    yield keep.resolve()


def _make_home(folder: Path) -> Path:
    from keyvault.initialize import InitOptions, init_home

    home = folder / "home"
    init_home(home, InitOptions(engine="embedded", engine_dir=str(folder / "engine")))
    return home


def _import(app: App, home: Path, lines: Sequence[bytes], folder: Path) -> ImportSummary:
    from keyvault import open_vault
    from keyvault.records import RecordFile, RecordImporter

    with (
        open_vault(home) as vault,
        RecordFile(folder / "records", PII_FIELDS) as target,
        app.progress("sealing", sum(map(len, lines)), in_bytes=True) as advance,
    ):
        importer = RecordImporter(
            vault,
            target,
            pii_fields=PII_FIELDS,
            on_malformed=lambda number, reason: app.note(f"line {number}: {reason}"),
        )
        return importer.run(lines, batch=100, progress=advance)


def _sealed_records(folder: Path, lines: Sequence[bytes]) -> dict[str, SourceRecord]:
    """Return, by id, what was sealed: read from the input again, so that what is opened can be compared with it."""
    from keyvault.errors import KeyVaultError
    from keyvault.records import FILE_NAME, parse_record, read_sealed
    from keyvault.results import caught

    sealed = {item.record for item in read_sealed(folder / "records" / FILE_NAME)}
    records: dict[str, SourceRecord] = {}
    for line in lines:
        record = caught(parse_record, line, PII_FIELDS)
        if not isinstance(record, KeyVaultError) and record.record in sealed:
            records.setdefault(record.record, record)
    return records


def _choose(records: Mapping[str, SourceRecord]) -> Chosen:
    """Take the account-month with the most records, and the consumer with the most records elsewhere."""
    month = Counter(record.month for record in records.values()).most_common(1)[0][0]
    elsewhere = [record for record in records.values() if record.month != month] or list(records.values())
    return Chosen(month=month, consumer=Counter(record.consumer for record in elsewhere).most_common(1)[0][0])


def _back_up(home: Path, folder: Path) -> Path:
    """Copy the database by SQLite's own backup into a second home beside the same engine."""
    from keyvault.settings import load_settings, write_settings

    settings = load_settings(home, environment={})
    copy = folder / "restored"
    copy.mkdir(mode=0o700)
    target = copy / "store.db"
    target.touch(mode=0o600)
    with (
        closing(sqlite3.connect(home / "store.db")) as source,
        closing(sqlite3.connect(target)) as destination,
    ):
        source.backup(destination)
    write_settings(copy, replace(settings, store=f"sqlite:///{target}"))
    return copy


def _shred(app: App, home: Path, chosen: Chosen) -> None:
    from keyvault.home import open_home
    from shredder.destroy import Destroyer

    with closing(open_home(home, role="shredder")) as opened:
        outcomes = Destroyer(opened).destroy([chosen.month, chosen.consumer], ticket=TICKET, requested_by="demo")
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
        app.say(f"   scope {outcome.scope_id.hex()} destroyed at {outcome.at.isoformat() if outcome.at else '-'}")


def _open_all(app: App, home: Path, folder: Path, title: str) -> dict[str, OpenedRecord]:
    from keyvault import open_vault
    from keyvault.records import FILE_NAME, open_records, read_sealed

    path = folder / "records" / FILE_NAME
    opened: dict[str, OpenedRecord] = {}
    with open_vault(home) as vault, app.progress(f"opening ({title})", None) as advance:
        for record in open_records(vault, read_sealed(path)):
            opened[record.record] = record
            advance(1)
    return opened


# --- the proof ---------------------------------------------------------------------------------------------------------


PARTS = ("identity", "content")


def _everything(records: Mapping[str, SourceRecord], opened: Sequence[Opened]) -> Line:
    return _line("before: all opened byte for byte", list(records.values()), PARTS, opened, readable=True)


def _expectations(records: Mapping[str, SourceRecord], chosen: Chosen, opened: Sequence[Opened]) -> Iterator[Line]:
    month = [record for record in records.values() if record.month == chosen.month]
    consumer = [r for r in records.values() if r.consumer == chosen.consumer and r.month != chosen.month]
    others = [r for r in records.values() if r.month != chosen.month and r.consumer != chosen.consumer]
    yield _line("of the shredded account-month: all unreadable", month, PARTS, opened, readable=False)
    yield _line("of the shredded consumer: identifying fields unreadable", consumer, PARTS[:1], opened, readable=False)
    yield _line("of the shredded consumer: the rest opened byte for byte", consumer, PARTS[1:], opened, readable=True)
    yield _line("all others: opened byte for byte", others, PARTS, opened, readable=True)


def _line(
    what: str, group: Sequence[SourceRecord], parts: Sequence[str], opened: Sequence[Opened], *, readable: bool
) -> Line:
    """Count the records whose parts are as they should be, live and in the backup.

    Unreadable means refused because the key is gone, and for no other reason: the live database knows that it was destroyed, the
    older one does not and finds no key.
    """
    from keyvault.errors import KeyMissingError, ScopeDestroyedError

    def right(found: object, sealed: bytes, refusal: type[KeyVaultError]) -> bool:
        return found == sealed if readable else isinstance(found, refusal)

    live, backup = (
        sum(
            all(right(getattr(results.get(r.record), part, None), getattr(r, part), refusal) for part in parts)
            for r in group
        )
        for results, refusal in zip(opened, (ScopeDestroyedError, KeyMissingError), strict=True)
    )
    return Line(what=what, expected=len(group), live=live, backup=backup)


def _show(app: App, summary: ImportSummary, table: Sequence[Line], *, right: bool) -> None:
    rows = [["sealed", str(summary.sealed), "", "", ""], ["refused as past due", str(summary.past_due), "", "", ""]]
    left = summary.malformed + summary.future + sum(summary.refused.values())
    if left:
        rows.append(["refused as malformed or in the future", str(left), "", "", ""])
    rows.append(["keys shredded", "2", "", "", ""])
    rows += [
        [line.what, str(line.expected), str(line.live), str(line.backup), "ok" if line.right else "WRONG"]
        for line in table
    ]
    headings = ["records", "expected", "live", "from the backup", ""]
    if sys.stdout.isatty():
        app.table(headings, rows)
    else:
        _show_plain(app, [headings, *rows])
    app.say(f"\n{MEANING}")
    app.say("\nEverything is as it should be." if right else "\nSomething is WRONG: see the table.")


def _show_plain(app: App, rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        numbers = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        app.say("  ".join([f"{first:<{widths[0]}}", *numbers]).rstrip())


def _answer(
    summary: ImportSummary, chosen: Chosen, table: Sequence[Line], *, right: bool, folder: Path | None
) -> dict[str, object]:
    return {
        "sealed": summary.sealed,
        "past_due": summary.past_due,
        "future": summary.future,
        "malformed": summary.malformed,
        "shredded": [chosen.month, chosen.consumer],
        "checks": [
            {
                "what": line.what,
                "expected": line.expected,
                "live": line.live,
                "backup": line.backup,
                "right": line.right,
            }
            for line in table
        ],
        "right": right,
        "kept_in": None if folder is None else str(folder),
    }
