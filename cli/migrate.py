"""`scope migrate`: from a key of its own to a place in a ring, with the wrapped data keys that are at hand."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

import click

from cli.app import App, json_option
from cli.failures import EXIT_REFUSED, message_of, values_or_first_error
from cli.files import STANDARD, check_pair, open_lines, output
from keyvault.errors import InvalidFormatError, KeyVaultError

if TYPE_CHECKING:
    from keyvault.values import RewrapRequest, ScopeInfo
    from keyvault.vault import KeyVault

BATCH = 1_000
SHOWN = 20
"""How many lines that could not be moved are reported one by one."""
LEFT = (
    "What was sealed before stays under the key that the scope had, and opens as before: envelopes and streams cannot be moved, because "
    "their data is bound to the wrapped key in front of it; nor has any single record of it a key to erase. That key is destroyed with "
    "the scope."
)

Line = tuple[int, bytes]
"""A line's number, from 1, and what is in it."""


@click.command()
@click.option("--to", "custody", type=click.Choice(["ring"]), required=True, help="The custody to move to.")
@click.option(
    "--wrapped",
    type=(str, str),
    metavar="IN OUT",
    help="Re-wrap the data keys in IN, one in base64 a line, into OUT. Both may be - for standard input and output.",
)
@click.option(
    "--context", default="", metavar="TEXT", help="Text that is bound to the wrapped data keys, before and after."
)
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@json_option
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_obj
def migrate(
    app: App, *, names: Sequence[str], custody: str, wrapped: tuple[str, str] | None, context: str, force: bool
) -> int:
    """Move scopes of dedicated custody to ring custody. Each moves whole or not at all; run again, it goes on.

    Everything new then goes under the ring. Envelopes, streams and wrapped keys made before stay under the key that the scope had, and
    open as before; that key is destroyed with the scope. Wrapped data keys in a file can be moved with --wrapped: OUT has as many lines
    as IN, in the same order, and what could not be moved as it was. What single records were sealed before have no keys of their own.

    Exit code 0 if every scope named is in ring custody and every line of IN under it, and 1 otherwise.
    """
    from keyvault.results import caught
    from keyvault.scopes import Scope

    values_or_first_error([caught(Scope.parse, name) for name in names])
    _check_output(app, wrapped, force=force)
    with app.opened() as home, _files(wrapped, force=force) as files:
        from keyvault.vault import KeyVault

        vault = KeyVault(home)
        names = list(dict.fromkeys(names))
        before = vault.describe(names)
        results = vault.migrate_scopes(names)
        home.log.settle()
        ids = {info.id: name for name, info in zip(names, results, strict=True) if not isinstance(info, KeyVaultError)}
        answers = [_answer(*item, custody) for item in zip(names, before, results, strict=True)]
        keys = None
        if files is not None:
            source, sink = files
            keys = _Rewrapping(app, vault, ids, context.encode())
            sink.writelines(keys.moved(source))
    app.emit({"scopes": answers, **({} if keys is None else {"wrapped": keys.summary()})})
    return _report(app, answers, keys, quiet=wrapped is not None and wrapped[1] == STANDARD)


def _check_output(app: App, wrapped: tuple[str, str] | None, *, force: bool) -> None:
    if wrapped is None:
        return
    if app.as_json and wrapped[1] == STANDARD:
        raise click.UsageError("with --json OUT must be a file: standard output holds the JSON object")
    check_pair(*wrapped, force=force)


@contextmanager
def _files(wrapped: tuple[str, str] | None, *, force: bool) -> Iterator[tuple[BinaryIO, BinaryIO] | None]:
    """Open IN and OUT before any scope is moved."""
    if wrapped is None:
        yield None
        return
    with open_lines(wrapped[0]) as source, output(wrapped[1], force=force) as sink:
        yield source, sink


def _answer(
    name: str, before: ScopeInfo | KeyVaultError, after: ScopeInfo | KeyVaultError, custody: str
) -> dict[str, object]:
    if isinstance(after, KeyVaultError):
        return {"name": name, "error": {"type": type(after).__name__, "message": message_of(after)}}
    was = None if isinstance(before, KeyVaultError) else before.custody
    return {"name": name, "id": after.id.hex(), "custody": after.custody, "moved": was != custody}


class _Rewrapping:
    """Moves a file's wrapped keys, batch by batch, and counts."""

    def __init__(self, app: App, vault: KeyVault, names: Mapping[bytes, str], associated_data: bytes) -> None:
        """`names` are those of the scopes that are in ring custody now, by id."""
        self._app = app
        self._vault = vault
        self._names = names
        self._associated_data = associated_data
        self._moved = self._there = 0
        self.failed: list[dict[str, object]] = []

    def moved(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield each line with its key re-wrapped, or as it was when that cannot be, or need not be, moved."""
        numbered = enumerate(lines, start=1)
        while batch := list(islice(numbered, BATCH)):
            yield from self._batch(batch)

    def summary(self) -> dict[str, object]:
        """Return what became of the lines."""
        return {"moved": self._moved, "already_there": self._there, "failed": self.failed}

    def _batch(self, lines: Sequence[Line]) -> Iterator[bytes]:
        from keyvault.results import caught

        planned = [caught(self._request, line) for _, line in lines]
        wanted = [request for request in planned if request is not None and not isinstance(request, KeyVaultError)]
        answers = iter(self._vault.rewrap_data_keys(wanted))
        for (number, line), plan in zip(lines, planned, strict=True):
            result = next(answers) if plan is not None and not isinstance(plan, KeyVaultError) else plan
            if isinstance(result, KeyVaultError):
                self._fail(number, result)
            self._moved += isinstance(result, bytes)
            self._there += result is None
            yield (base64.b64encode(result) if isinstance(result, bytes) else line.rstrip(b"\r\n")) + b"\n"

    def _request(self, line: bytes) -> RewrapRequest | None:
        from keyvault.migration import moving_request

        try:
            wrapped = base64.b64decode(line.strip(), validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidFormatError("not base64") from error
        return moving_request(wrapped, self._names, self._associated_data)

    def _fail(self, number: int, error: KeyVaultError) -> None:
        self.failed.append({"line": number, "type": type(error).__name__, "message": str(error)})
        if len(self.failed) <= SHOWN:
            self._app.note(f"line {number}: {error}")
        elif len(self.failed) == SHOWN + 1:
            self._app.note("further lines that could not be moved are only counted")


def _report(app: App, answers: Sequence[dict[str, object]], keys: _Rewrapping | None, *, quiet: bool) -> int:
    say = app.note if quiet else app.say
    for answer in answers:
        say(f"{answer['name']}: {_told(answer)}")
    if keys is not None:
        summary = keys.summary()
        say(
            f"wrapped keys: {summary['moved']} moved, {summary['already_there']} in ring custody already, {len(keys.failed)} not moved"
        )
    if any(answer.get("moved") for answer in answers):
        app.note(LEFT)
    failed = sum("error" in answer for answer in answers)
    if failed:
        app.note(f"keyvault: error: {failed} of {len(answers)} scopes could not be moved")
    if keys is not None and keys.failed:
        app.note(f"keyvault: error: {len(keys.failed)} wrapped keys could not be moved, and stand in OUT as they were")
    return EXIT_REFUSED if failed or (keys is not None and keys.failed) else 0


def _told(answer: Mapping[str, object]) -> object:
    error = answer.get("error")
    if isinstance(error, Mapping):
        return error["message"]
    return "moved to ring custody" if answer["moved"] else "in ring custody already"
