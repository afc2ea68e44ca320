"""What a command's failure is called, says and exits with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import click

from keyvault.errors import (
    ConfigurationError,
    DecryptionFailedError,
    InvalidFormatError,
    InvalidInputError,
    InvalidScopeError,
    KeyVaultError,
    NotYetOpenError,
    PermissionDeniedError,
    ScopeSuspendedError,
    StoreError,
    Unavailable,
    UnknownScopeError,
    VerificationError,
)

T = TypeVar("T")

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNVERIFIED = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

HINTS: tuple[tuple[type[KeyVaultError], str], ...] = (
    (InvalidScopeError, "docs/formats/scope-names.md has the rules"),
    (InvalidFormatError, "check that this is the whole file that `keyvault seal` wrote"),
    (DecryptionFailedError, "give the --context it was sealed with, or take another copy of it"),
    (UnknownScopeError, "`keyvault scope list` shows what there is"),
    (ScopeSuspendedError, "`keyvault scope resume NAME` does"),
    (NotYetOpenError, "check the clock and the name"),
    (PermissionDeniedError, "`keyvault doctor` checks the role's rights"),
    (Unavailable, "try again; `keyvault doctor` says what is wrong"),
    (StoreError, "`keyvault doctor` checks the store"),
)
"""What to do next, where the library's message does not say it in terms of commands."""


class Refused(click.ClickException):
    """The command will not do what was asked, and says why; nothing was changed."""

    exit_code = EXIT_REFUSED


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One failure: the error's `kind`, a message of one line, and the exit code."""

    kind: str
    message: str
    code: int


class Stopped(BaseException):
    """A signal asks to end: clean up first. Not KeyboardInterrupt, which click and others handle in ways of their own."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def describe(error: KeyVaultError | click.ClickException | OSError) -> Failure:
    """Return what to tell of an error, and what to exit with."""
    if isinstance(error, click.ClickException):
        return Failure(kind=type(error).__name__, message=_one_line(_usage_message(error)), code=error.exit_code)
    if isinstance(error, KeyVaultError):
        return Failure(kind=type(error).__name__, message=_one_line(message_of(error)), code=_exit_code(error))
    return Failure(kind=type(error).__name__, message=_one_line(_system_message(error)), code=EXIT_REFUSED)


def message_of(error: KeyVaultError) -> str:
    """Return the library's message with the command that helps, if it names none."""
    text = str(error)
    if isinstance(error, ConfigurationError) or "`keyvault" in text or "docs/" in text:
        return text
    hint = next((hint for kind, hint in HINTS if isinstance(error, kind)), None)
    return f"{text} ({hint})" if hint else text


def values_or_first_error(results: Sequence[T | KeyVaultError]) -> list[T]:
    """Return all values, or raise the first error, saying which of several names it is about."""
    values: list[T] = []
    for number, result in enumerate(results, start=1):
        if isinstance(result, KeyVaultError):
            raise (
                result if len(results) == 1 else type(result)(f"name {number} of {len(results)}: {result}")
            ) from result
        values.append(result)
    return values


def _exit_code(error: KeyVaultError) -> int:
    if isinstance(error, InvalidFormatError | DecryptionFailedError | VerificationError):
        return EXIT_UNVERIFIED
    return EXIT_USAGE if isinstance(error, InvalidInputError) else EXIT_REFUSED


def _usage_message(error: click.ClickException) -> str:
    message = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message.rstrip('.')} (see `{error.ctx.command_path} --help`)"
    return message


def _system_message(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {what}" if isinstance(error.filename, str | bytes) else what


def _one_line(text: str) -> str:
    return " ".join(text.split())
