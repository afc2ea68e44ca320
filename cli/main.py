"""The command `keyvault`: its groups, loaded when they are used, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType

import click

from cli.app import App, default_home
from cli.failures import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_TERMINATED, EXIT_USAGE, Failure, Stopped, describe
from keyvault.errors import KeyVaultError

COMMANDS = {
    "init": "cli.setup:init",
    "doctor": "cli.setup:doctor",
    "status": "cli.setup:status",
    "seal": "cli.data:seal",
    "open": "cli.data:open_",
    "scope": "cli.scopes:scope",
    "shred": "cli.destruction:shred",
    "destroy": "cli.destruction:destroy",
    "sweep": "cli.sweep:sweep",
    "forecast": "cli.sweep:forecast",
    "request": "cli.requests:request",
    "log": "cli.log:log",
    "policy": "cli.policy:policy",
    "facts": "cli.facts:facts",
    "audit": "cli.audit:audit",
    "serve": "cli.serve:serve",
    "token": "cli.token:token",
    "import-records": "cli.records:import_records",
    "demo": "cli.demo:demo",
}
"""Each command and where it lives; nothing of it is imported before it is asked for."""


STOPPED_BY = {
    signal.SIGINT: Failure(kind="Interrupted", message="interrupted", code=EXIT_INTERRUPTED),
    signal.SIGTERM: Failure(kind="Terminated", message="terminated", code=EXIT_TERMINATED),
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Return the commands in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the signature is click's
        """Import a command, or return None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(
    cls=LazyGroup,
    # A fixed width, so that the help reads the same everywhere, and the same as in the documentation.
    context_settings={"help_option_names": ["-h", "--help"], "terminal_width": 100, "max_content_width": 100},
)
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="KEYVAULT_HOME",
    help="The home's directory.  [env: KEYVAULT_HOME; default: ~/.keyvault]",
)
@click.version_option(package_name="keyvault-shredder", prog_name="keyvault")
@click.pass_obj
def cli(app: App, home: Path | None) -> None:
    """Keys of account-months and consumers: seal data under them, destroy them for good.

    Exit codes: 0 done, 1 refused or failed, 2 usage or malformed input, 3 verification failed, 130 interrupted.
    """
    app.home = home or default_home()


def main(args: Sequence[str] | None = None) -> int:
    """Run one command as a program does, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    for number in STOPPED_BY:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and background jobs want it
            signal.signal(number, _stop)
    return run(sys.argv[1:] if args is None else args)


def run(args: Sequence[str]) -> int:
    """Run one command and return the exit code; every error becomes one line on stderr (and JSON, if asked for)."""
    app = App(as_json=_wants_json(args))
    try:
        return _flushed(lambda: cli.main(args=list(args), prog_name="keyvault", standalone_mode=False, obj=app))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except Stopped as stopped:
        return _fail(app, stopped.failure)
    except BrokenPipeError:
        _abandon_stdout()
        return EXIT_REFUSED
    except (KeyVaultError, click.ClickException, OSError) as error:
        return _fail(app, describe(error))


def _flushed(work: Callable[[], object]) -> int:
    """Run the command, and count what could not be written as its failure."""
    result = work()
    try:
        sys.stdout.flush()
    except OSError:
        _abandon_stdout()
        raise
    return result if isinstance(result, int) else 0


def _fail(app: App, failure: Failure) -> int:
    try:
        app.fail(failure)
        sys.stdout.flush()
    except OSError:
        _abandon_stdout()
    return failure.code


def _abandon_stdout() -> None:
    """Let nothing be written at exit to a standard output that is gone, which would print a second error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)


def _wants_json(args: Sequence[str]) -> bool:
    """Tell before parsing, because parsing may be what fails."""
    options = list(args)
    return "--json" in (options[: options.index("--")] if "--" in options else options)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(STOPPED_BY[signal.Signals(number)])
