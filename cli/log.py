"""`log`: publish the log, prove what is in it, look at it, and have the engine's own inventory attested."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.app import App, json_option
from cli.failures import EXIT_REFUSED
from cli.files import check_output, output
from cli.log_rebuild import rebuild

if TYPE_CHECKING:
    from shredder.attest import Attestation
    from shredder.log.directory import LogDirectory
    from shredder.log.proving import ProvenEntry

POLL_SECONDS = 0.5
ENTRY_SUFFIX = ".entry"


@click.group()
def log() -> None:
    """Publish the log, prove what is in it, and look at it."""


@log.command()
@json_option
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.pass_obj
def publish(app: App, directory: Path) -> None:
    """Copy the log to DIR, which any web server or bucket can show as it is.

    Made for a timer: only what is new is copied, and readers of DIR always see a whole log. Files in DIR that are not the log's stay.
    Another log, or one that this does not continue, is refused. Can be interrupted at any time; the next run goes on.
    """
    with app.opened() as home:
        from shredder.log.directory import LogDirectory
        from shredder.log.proving import log_key
        from shredder.log.publish import publish as run

        home.log.settle()
        source = LogDirectory(home.log_directory)
        done = run(source, directory, log_key(home), progress=lambda total: app.progress("publishing", total))
    app.emit({"directory": str(directory), "size": done.size, "before": done.before, "files": done.files})
    app.say(f"{directory}: {done.size} entries, {done.size - done.before} of them new; {done.files} files written")


@log.command()
@json_option
@click.pass_obj
def checkpoint(app: App) -> None:
    """Print the newest checkpoint, as the signed note that it is: what an auditor keeps until the next time."""
    with app.opened() as home:
        from shredder.log.checkpoint import open_checkpoint
        from shredder.log.directory import LogDirectory
        from shredder.log.proving import log_key

        home.log.settle()
        note = LogDirectory(home.log_directory).checkpoint()
        if note is None:
            from keyvault.errors import LogError

            raise LogError("the log has no checkpoint yet: there is nothing in it")
        found = open_checkpoint(note, log_key(home))
    app.emit({"origin": found.origin, "size": found.size, "root": found.root.hex(), "note": note.decode()})
    if not app.as_json:
        click.echo(note.decode(), nl=False)


@log.command()
@click.option("--event", metavar="ID", help="Prove the event of this id, whatever it is; NAME is then left out.")
@click.option("--force", is_flag=True, help="Replace output files that exist.")
@json_option
@click.argument("arguments", metavar="[NAME] OUT", nargs=-1, required=True)
@click.pass_obj
def prove(app: App, *, event: str | None, force: bool, arguments: tuple[str, ...]) -> None:
    """Prove that the destruction of a scope is in the log; of a scope that lives, that its creation is.

    OUT gets the proof (C2SP tlog-proof), OUT.entry the exact bytes of the event that it is about. With the log's key, and nothing else
    from here, a stranger can verify them.
    """
    if len(arguments) != (2 if event is None else 1):
        raise click.UsageError("name a scope and a file, or give --event ID and a file")
    target = Path(arguments[-1])
    beside = target.with_name(target.name + ENTRY_SUFFIX)
    for path in (target, beside):
        check_output(path, force=force)
    with app.opened() as home:
        from shredder.log.directory import LogDirectory
        from shredder.log.proving import index_of_event, index_of_scope, log_key
        from shredder.log.proving import prove as run

        home.log.settle()
        index = index_of_scope(home, arguments[0]) if event is None else index_of_event(home, event)
        proven = run(LogDirectory(home.log_directory), log_key(home), index)
    with output(str(beside), force=force) as file:
        file.write(proven.entry)
    with output(str(target), force=force) as file:
        file.write(proven.proof.text)
    _say_proven(app, proven, target, beside)


def _say_proven(app: App, proven: ProvenEntry, target: Path, beside: Path) -> None:
    event = json.loads(proven.entry)
    answer = {
        "index": proven.index,
        "size": proven.size,
        "event": event["id"],
        "type": event["type"],
        "at": event["at"],
    }
    app.emit({**answer, "proof": str(target), "entry": str(beside)})
    app.say(f"{event['type']} of {event['at']} is entry {proven.index} of {proven.size}")
    app.say(f"proof         {target}")
    app.say(f"entry         {beside}")


@log.command()
@json_option
@click.pass_obj
def key(app: App) -> None:
    """Print the log's verifier key, one line: what whoever verifies the log gets once, by a way of its own."""
    with app.opened() as home:
        from shredder.log.proving import log_key

        found = log_key(home)
    app.emit({"key": str(found), "origin": found.name, "public_key": found.public.hex()})
    app.say(str(found))


@log.command()
@click.option(
    "-n", "count", type=click.IntRange(min=0), default=10, show_default=True, help="How many of the last entries."
)
@click.option("--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@json_option
@click.pass_obj
def tail(app: App, *, count: int, follow: bool) -> None:
    """Print the log's last entries, one a line: index, tab, the entry's exact bytes. With --json one object a line.

    It reads the log's directory and nothing else, so it works while database and engine are down; it verifies nothing.
    """
    from keyvault.home import log_directory
    from shredder.log.directory import LogDirectory

    directory = LogDirectory(log_directory(app.home, app.settings()))
    size = _size(directory)
    seen = max(0, size - count)
    for end in _sizes(directory, size, follow=follow):
        for index, entry in enumerate(directory.entries(seen, end), start=seen):
            app.emit({"index": index, "entry": json.loads(entry)})
            app.say(f"{index}\t{entry.decode()}")
        sys.stdout.flush()
        seen = max(seen, end)


def _sizes(directory: LogDirectory, size: int, *, follow: bool) -> Iterator[int]:
    yield size
    while follow:
        time.sleep(POLL_SECONDS)
        yield _size(directory)


def _size(directory: LogDirectory) -> int:
    from shredder.log.checkpoint import read_unverified

    note = directory.checkpoint()
    return 0 if note is None else read_unverified(note).size


@log.command()
@json_option
@click.pass_obj
def mend(app: App) -> None:
    """Write again what is missing or damaged in the log's directory, from the events that the database keeps.

    For a directory that was lost, or restored from an older backup. The events must lead to the root that was signed; else nothing is written.
    """
    with app.opened() as home:
        from keyvault.store import log as log_store
        from shredder.log.directory import LogDirectory
        from shredder.log.mending import mend as run
        from shredder.log.proving import log_key

        def entries(first: int, end: int) -> list[bytes]:
            return home.database.read(lambda connection: log_store.bodies(connection, first, end))

        known = home.database.read(log_store.recorded)
        files = 0
        if known.note is not None:
            files = run(LogDirectory(home.log_directory), log_key(home), known.note.encode(), entries)
        home.log.settle()
    app.emit({"size": known.size, "files": files})
    app.say(f"{known.size} entries; {files} files written")


@log.command()
@click.option(
    "--wrapped",
    is_flag=True,
    help="Count Vault's wrapped answers, too, which outlive keys: it looks at each of its tokens.",
)
@json_option
@click.pass_obj
def attest(app: App, *, wrapped: bool) -> int:
    """Have the engine list its keys and its rings' slots, compare them with the database, and put both into the log.

    Needs the role auditor. Exit code 1 if they differ: the event says by how much, the lines here say which.
    """
    with app.opened() as home:
        from keyvault.home import AUDITOR, open_engine
        from keyvault.persons import system_user
        from shredder.attest import attest as run

        with closing(open_engine(home.path, home.settings, role=AUDITOR)) as auditor:
            found = run(home, auditor, system_user(os.getuid()), wrapped=wrapped)
        home.log.settle()
    _say_attested(app, found)
    return 0 if found.agrees else EXIT_REFUSED


def _say_attested(app: App, found: Attestation) -> None:
    wrong = {"missing": found.keys.missing, "returned": found.keys.returned, "unknown": found.keys.unknown}
    app.emit(
        {
            "attestation": found.id.hex(),
            "events": list(found.events),
            "keys": len(found.keys.names),
            "keys_digest": found.digest.hex(),
            "rings": len(found.slots),
            "slots": sum(found.slots.values()),
            "wrapped": found.wrapped,
            **{name: sorted(keys) for name, keys in wrong.items()},
        }
    )
    app.say(f"keys          {len(found.keys.names)} (SHA-256 of their names: {found.digest.hex()})")
    app.say(f"rings         {len(found.slots)}, with {sum(found.slots.values())} slots given out")
    if found.wrapped is not None:
        app.say(f"wrapped       {found.wrapped} answers wait to be fetched, whoever asked for them")
    for name, what in _WRONG.items():
        for key_ref in sorted(wrong[name]):
            app.note(f"keyvault: alarm: key {key_ref} {what}")
    app.say(
        "the engine and the database agree"
        if found.agrees
        else "the engine and the database differ; run `keyvault doctor`"
    )


_WRONG = {
    "missing": "is missing from the engine although the database calls it live",
    "returned": "is in the engine although it was destroyed",
    "unknown": "is in the engine and belongs to nothing in the database",
}

log.add_command(rebuild)
