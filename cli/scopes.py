"""`scope`: what scopes there are, and the reversible mark on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cli.app import App, json_option
from cli.failures import EXIT_REFUSED, message_of, values_or_first_error
from cli.migrate import migrate
from keyvault.errors import KeyMissingError, KeyVaultError, ScopeDestroyedError
from keyvault.scopes import ScopeKind
from keyvault.states import KeyState

if TYPE_CHECKING:
    from datetime import datetime

    from keyvault.values import ScopeInfo

_names = click.argument("names", metavar="NAME...", nargs=-1, required=True)
_records = click.option(
    "--record",
    "records",
    multiple=True,
    metavar="ID",
    help="Only this record of the one account-month named; repeat for several.",
)


@click.group()
def scope() -> None:
    """List scopes, show one, suspend and resume; move them to ring custody."""


scope.add_command(migrate)


@scope.command("list")
@click.option("--kind", type=click.Choice([str(kind) for kind in ScopeKind]), help="Only scopes of this kind.")
@click.option("--state", type=click.Choice([str(state) for state in KeyState]), help="Only scopes in this state.")
@json_option
@click.pass_obj
def list_(app: App, kind: str | None, state: str | None) -> None:
    """List scopes, with their names opened by their own keys.

    The name of a destroyed scope was destroyed with its key. A key that is missing although the scope is not destroyed is an
    alarm. On a terminal this is a table; elsewhere state, due date and name, separated by tabs.
    """
    with app.opened() as home:
        from keyvault.vault import KeyVault

        found = list(
            KeyVault(home).list_scopes(kind=ScopeKind(kind) if kind else None, state=KeyState(state) if state else None)
        )
    found.sort(key=lambda item: (isinstance(item[1], KeyVaultError), str(item[1]), item[0].id))
    app.emit({"scopes": [_listed(info, name) for info, name in found]})
    rows = [[str(info.state), _day(info.due_at), _shown(info, name)] for info, name in found]
    app.table(["state", "due", "name"], rows)
    missing = sum(isinstance(name, KeyMissingError) for _, name in found)
    if missing:
        app.note(f"keyvault: alarm: the keys of {missing} scopes are missing from the engine; run `keyvault doctor`")


@scope.command()
@json_option
@click.argument("name")
@click.pass_obj
def show(app: App, name: str) -> None:
    """Show the newest generation of a scope."""
    with app.opened() as home:
        from keyvault.results import value_of
        from keyvault.vault import KeyVault

        facts = _facts(value_of(KeyVault(home).describe([name])[0]))
    app.emit({"name": name, **facts})
    for label, value in {"name": name, **facts}.items():
        app.say(f"{label.replace('_', ' '):<14}{'-' if value is None else value}")


@scope.command()
@_records
@json_option
@_names
@click.pass_obj
def suspend(app: App, names: Sequence[str], records: Sequence[str]) -> int:
    """Let no key of these scopes be issued until they are resumed. Data stays; nothing is destroyed."""
    if records:
        return _move_records(app, names, list(dict.fromkeys(records)), "suspend")
    return _move(app, names, "suspend")


@scope.command()
@_records
@json_option
@_names
@click.pass_obj
def resume(app: App, names: Sequence[str], records: Sequence[str]) -> int:
    """Let keys of suspended scopes be issued again."""
    if records:
        return _move_records(app, names, list(dict.fromkeys(records)), "resume")
    return _move(app, names, "resume")


def _move(app: App, names: Sequence[str], action: str) -> int:
    """Move all that can be moved; an invalid name among them stops the command before anything is moved."""
    from keyvault.results import caught
    from keyvault.scopes import Scope

    values_or_first_error([caught(Scope.parse, name) for name in names])
    with app.opened() as home:
        from keyvault.vault import KeyVault

        vault = KeyVault(home)
        results = (vault.suspend if action == "suspend" else vault.resume)(names)
        home.log.settle()
    outcomes = list(zip(names, results, strict=True))
    app.emit({"scopes": [_moved(name, result) for name, result in outcomes]})
    for name, result in outcomes:
        app.say(f"{name}: {message_of(result) if isinstance(result, KeyVaultError) else result.state}")
    failed = sum(isinstance(result, KeyVaultError) for result in results)
    if failed:
        app.note(f"keyvault: error: {failed} of {len(names)} scopes could not be moved")
    return EXIT_REFUSED if failed else 0


def _move_records(app: App, names: Sequence[str], records: Sequence[str], action: str) -> int:
    if len(names) != 1:
        raise click.UsageError("--record goes with the name of one account-month")
    with app.opened() as home:
        from keyvault.vault import KeyVault

        vault = KeyVault(home)
        results = (vault.suspend_records if action == "suspend" else vault.resume_records)(names[0], records)
        home.log.settle()
    outcomes = list(zip(records, results, strict=True))
    app.emit({"name": names[0], "records": [_moved_record(record, result) for record, result in outcomes]})
    for record, result in outcomes:
        app.say(f"{record}: {message_of(result) if isinstance(result, KeyVaultError) else result}")
    failed = sum(isinstance(result, KeyVaultError) for result in results)
    if failed:
        app.note(f"keyvault: error: {failed} of {len(records)} records could not be moved")
    return EXIT_REFUSED if failed else 0


def _moved_record(record: str, result: KeyState | KeyVaultError) -> dict[str, object]:
    if isinstance(result, KeyVaultError):
        return {"record": record, "error": {"type": type(result).__name__, "message": message_of(result)}}
    return {"record": record, "state": str(result)}


def _moved(name: str, result: ScopeInfo | KeyVaultError) -> dict[str, object]:
    if isinstance(result, KeyVaultError):
        return {"name": name, "error": {"type": type(result).__name__, "message": message_of(result)}}
    return {"name": name, **_facts(result)}


def _listed(info: ScopeInfo, name: str | KeyVaultError) -> dict[str, object]:
    if isinstance(name, KeyVaultError):
        return {"name": None, "error": {"type": type(name).__name__, "message": str(name)}, **_facts(info)}
    return {"name": name, **_facts(info)}


def _facts(info: ScopeInfo) -> dict[str, str | int | None]:
    return {
        "id": info.id.hex(),
        "generation": info.generation,
        "kind": str(info.kind),
        "period": info.period,
        "custody": info.custody,
        "former_custody": info.former_custody,
        "state": str(info.state),
        "created_at": _instant(info.created_at),
        "due_at": _instant(info.due_at),
        "fenced_at": _instant(info.fenced_at),
        "destroyed_at": _instant(info.destroyed_at),
        "destroy_id": info.destroy_id.hex() if info.destroy_id else None,
    }


def _shown(info: ScopeInfo, name: str | KeyVaultError) -> str:
    if isinstance(name, KeyMissingError):
        return f"ALARM: the key of scope {info.id.hex()} is missing"
    if isinstance(name, ScopeDestroyedError):
        return f"({info.kind} scope {info.id.hex()}; its name went with its key)"
    return message_of(name) if isinstance(name, KeyVaultError) else name


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _day(moment: datetime | None) -> str:
    return "-" if moment is None else moment.date().isoformat()
