"""`import-records`: a file of communication records, sealed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from cli.app import App, json_option
from cli.failures import EXIT_REFUSED
from cli.files import open_lines, size_of

SHOWN = 20
"""How many malformed lines are reported one by one."""


@click.command()
@click.option(
    "--pii-fields",
    default="consumer",
    show_default=True,
    metavar="NAMES",
    help="Identifying fields, separated by commas.",
)
@click.option(
    "--batch", type=click.IntRange(1, 5_000), default=500, show_default=True, help="Records that are sealed in one go."
)
@json_option
@click.argument("source", metavar="FILE")
@click.argument("folder", metavar="OUTDIR", type=click.Path(path_type=Path))
@click.pass_obj
def import_records(app: App, pii_fields: str, batch: int, source: str, folder: Path) -> int:
    """Seal the communication records in FILE (JSON lines) into OUTDIR/records.jsonl.

    A record has the fields record, account, consumer and recorded_at, and any others. Its identifying fields are sealed under
    its account-month and its consumer, the rest under its account-month. Records whose month is past its 25 months, or has not
    begun, are refused and counted. Run again after an interruption, it goes on where it stopped. FILE may be - for standard input.

    Exit code 0 if everything is in but what is past due, and 1 if lines were malformed or refused; the others are in.
    """
    from keyvault.records import RecordFile, RecordImporter, check_pii_fields

    names = check_pii_fields(pii_fields.split(","))
    with open_lines(source) as lines, app.opened() as home:
        from keyvault.vault import KeyVault

        with RecordFile(folder, names) as target, app.progress("importing", size_of(lines), in_bytes=True) as advance:
            importer = RecordImporter(KeyVault(home), target, pii_fields=names, on_malformed=_reporter(app))
            summary = importer.run(lines, batch=batch, progress=advance)
            path = folder / "records.jsonl"
    app.emit(
        {
            "file": str(path),
            "sealed": summary.sealed,
            "already_there": summary.already_there,
            "past_due": summary.past_due,
            "future": summary.future,
            "malformed": summary.malformed,
            "refused": dict(summary.refused),
        }
    )
    app.say(f"sealed         {summary.sealed}")
    app.say(f"already there  {summary.already_there}")
    app.say(f"past due       {summary.past_due} (refused: their 25 months are over)")
    app.say(f"future         {summary.future}{' (refused: their month has not begun)' if summary.future else ''}")
    app.say(f"malformed      {summary.malformed}")
    for kind, count in sorted(summary.refused.items()):
        app.say(f"refused        {count} ({kind})")
    app.say(f"into           {path}")
    if summary.complete:
        return 0
    left = summary.malformed + summary.future + sum(summary.refused.values())
    app.note(f"keyvault: error: {left} records could not be imported; all others are in")
    return EXIT_REFUSED


def _reporter(app: App) -> Callable[[int, str], None]:
    told = 0

    def report(number: int, reason: str) -> None:
        nonlocal told
        told += 1
        if told <= SHOWN:
            app.note(f"line {number}: {reason}")
        elif told == SHOWN + 1:
            app.note("further malformed lines are only counted")

    return report
