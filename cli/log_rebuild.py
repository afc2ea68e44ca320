"""`keyvault log rebuild`: a lost database, made anew from the log and the engine."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from cli.app import Advance, App, json_option

if TYPE_CHECKING:
    from shredder.rebuild.run import Rebuilt


@click.command()
@json_option
@click.pass_obj
def rebuild(app: App) -> None:
    """Make the home's lost database anew from its log and its engine.

    The database that keyvault.toml names must be empty or new. The log must be whole and the one that the engine knows; then scopes,
    destructions, requests, facts and all else come back as they were, and nothing is served before that is so. Destructions are paused
    afterwards: see `keyvault status`, then run `keyvault destroy resume`. Events that had not reached the log are lost.
    """
    app.settings()
    from shredder.rebuild.run import rebuild as run

    with ExitStack() as shown:

        def progress(title: str, total: int | None) -> Advance:
            shown.close()
            return shown.enter_context(app.progress(title, total))

        done = run(app.home, progress)
    _report(app, done)


def _report(app: App, done: Rebuilt) -> None:
    from shredder.rebuild.gaps import CONSEQUENCES

    gaps = done.gaps
    app.emit(
        {
            "entries": done.entries,
            "live": done.live,
            "unheld_keys": done.unheld,
            "paused": True,
            "gaps": {str(code): {"count": count, "first": gaps.named[code]} for code, count in gaps.counts.items()},
        }
    )
    app.say(f"rebuilt from {done.entries} events: {done.live} scopes live; destructions are paused")
    if done.unheld:
        app.say(f"{done.unheld} keys that no scope holds are deleted by the next `keyvault destroy resume` or sweep")
    for code, count in gaps.counts.items():
        app.note(f"keyvault: warning: {code}: {count} ({', '.join(gaps.named[code])}): {CONSEQUENCES[code]}")
    app.note(
        "keyvault: events that were committed and never reached the log are lost with the database, and nothing says how many they were; what was "
        "created by them never had a key, what was fenced by them and not destroyed is live, and has to be asked for again"
    )
