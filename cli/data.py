"""`seal` and `open`: files and pipes under scopes, in constant memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, BinaryIO

import click

from cli.app import Advance, App, json_option
from cli.failures import values_or_first_error
from cli.files import STANDARD, Prefixed, check_pair, open_input, output, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyvault.home import Home
    from keyvault.vault import KeyVault

LARGE = 8 * 1024 * 1024
"""From this many bytes on, progress is shown."""

_context = click.option(
    "--context", default="", metavar="TEXT", help="Text that is bound to the data, and needed to open it."
)
_purpose = click.option("--purpose", metavar="P", help="What the data is used for; the policy refuses some.")
_force = click.option("--force", is_flag=True, help="Replace OUT if it exists.")


@click.command()
@click.option(
    "--scope", "scopes", multiple=True, required=True, metavar="NAME", help="A scope's name; repeat for several."
)
@click.option(
    "--record", metavar="ID", help="One record of the account-month, with a key of its own (ring custody only)."
)
@_purpose
@_context
@_force
@json_option
@click.argument("source", metavar="IN")
@click.argument("sink", metavar="OUT")
@click.pass_obj
def seal(
    app: App,
    *,
    scopes: tuple[str, ...],
    record: str | None,
    purpose: str | None,
    context: str,
    source: str,
    sink: str,
    force: bool,
) -> None:
    """Seal IN into OUT under the named scopes, which are made if need be.

    All of them are needed to open it again: destroying any one makes it unreadable. IN and OUT may be - for standard input
    and output. OUT appears under its name, with mode 0600, only when it is complete.
    """
    _check(app, source, sink, force=force)
    with open_input(source) as reading, app.opened() as home:
        from keyvault.vault import KeyVault

        _check_scopes(home, scopes, purpose=purpose, record=record)
        vault = KeyVault(home)
        # The output first: if it cannot be written, no scope is made for it.
        with output(sink, force=force) as writing, _progress(app, "sealing", size_of(reading)) as advance:
            infos = values_or_first_error(vault.ensure_scopes(scopes))
            vault.seal_stream(
                reading,
                writing,
                scopes,
                associated_data=context.encode(),
                purpose=purpose,
                record=record,
                progress=advance,
            )
    app.emit({"sealed": sink, "scopes": [info.id.hex() for info in infos]})


@click.command("open")
@_purpose
@_context
@_force
@json_option
@click.argument("source", metavar="IN")
@click.argument("sink", metavar="OUT")
@click.pass_obj
def open_(app: App, *, purpose: str | None, context: str, source: str, sink: str, force: bool) -> None:
    """Open IN, an envelope or a stream, into OUT.

    IN and OUT may be - for standard input and output. OUT appears under its name, with mode 0600, only when all of IN was
    verified. To standard output a stream is written piece by piece, each verified before it is written; when a later piece
    fails, the exit code is 3 and what was written must be thrown away.
    """
    _check(app, source, sink, force=force)
    with open_input(source) as reading, app.opened() as home, output(sink, force=force) as writing:
        from keyvault.vault import KeyVault

        _open(app, KeyVault(home), reading, writing, associated_data=context.encode(), purpose=purpose)
    app.emit({"opened": sink})


def _open(
    app: App, vault: KeyVault, reading: BinaryIO, writing: BinaryIO, *, associated_data: bytes, purpose: str | None
) -> None:
    from keyvault.errors import InvalidFormatError
    from keyvault.formats import MAGIC_BYTES, Format, read_exactly, sniff

    start = read_exactly(reading.read, MAGIC_BYTES)
    found = sniff(start)
    if found is Format.WRAPPED_KEY:
        raise InvalidFormatError("this is a wrapped data key, not sealed data; unwrap it with the library")
    source = Prefixed(start, reading)
    if found is Format.ENVELOPE:
        writing.write(vault.open(source.read(), associated_data=associated_data, purpose=purpose))
        return
    with _progress(app, "opening", size_of(reading)) as advance:
        vault.open_stream(
            source,  # type: ignore[arg-type]  # all that is called is read
            writing,
            associated_data=associated_data,
            purpose=purpose,
            progress=advance,
        )


def _check(app: App, source: str, sink: str, *, force: bool) -> None:
    if app.as_json and sink == STANDARD:
        raise click.UsageError("with --json OUT must be a file: standard output holds the JSON object")
    check_pair(source, sink, force=force)


def _check_scopes(home: Home, names: Sequence[str], *, purpose: str | None, record: str | None) -> None:
    """Refuse before any scope is made: one bad name among several must not leave the others behind."""
    from keyvault.admission import encode_record
    from keyvault.errors import PurposeNotAllowedError, RecordsNotSupportedError
    from keyvault.results import caught
    from keyvault.scopes import Scope, ScopeKind, check_creatable
    from keyvault.wrapped import MAX_SCOPES

    for scope in values_or_first_error([caught(Scope.parse, name) for name in names]):
        check_creatable(scope, home.clock.now())
        if purpose in home.refused_purposes[scope.kind]:
            raise PurposeNotAllowedError(
                f"the policy allows no key of a {scope.kind} scope for the purpose {purpose!r}"
            )
    if record is not None and not home.custody.holds_records and not _was_moved(home, names):
        raise RecordsNotSupportedError(
            "dedicated custody has no keys for single records: seal under the account-month alone, without --record, or move the "
            "scope with `keyvault scope migrate`"
        )
    if record is not None and not any(name.startswith(f"{ScopeKind.COMMUNICATIONS}/") for name in names):
        raise RecordsNotSupportedError("only account-months have records with keys of their own: name the record's")
    if record is not None:
        encode_record(record)
    if len(set(names)) != len(names) or len(names) > MAX_SCOPES:
        raise click.UsageError(f"--scope names 1 to {MAX_SCOPES} different scopes")


def _was_moved(home: Home, names: Sequence[str]) -> bool:
    """Tell whether an account-month among the scopes has left the home's custody for one that holds records."""
    from keyvault.values import ScopeInfo
    from keyvault.vault import KeyVault

    found = KeyVault(home).describe(names)
    return any(isinstance(info, ScopeInfo) and info.holds_records for info in found)


def _progress(app: App, title: str, size: int | None) -> AbstractContextManager[Advance]:
    if size is not None and size < LARGE:
        return nullcontext(lambda _: None)
    return app.progress(title, size, in_bytes=True)
