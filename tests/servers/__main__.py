"""Start a Vault and a PostgreSQL, run a command beside them, and stop both: `python -m tests.servers [-- COMMAND...]`.

The command finds them through KEYVAULT_TEST_SERVERS, the path of a JSON file. Without a command the servers run until
Ctrl-C. Exit code: the command's (128 + N after signal N), 1 when a server cannot be had, 128 + N when interrupted.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.servers.description import VARIABLE, Servers, running_servers
from tests.servers.process import ServerError, prefix, say

_PATIENCE_SECONDS = 15


class _InterruptedBy(BaseException):
    """SIGINT or SIGTERM: a BaseException, so that nothing between takes it for a failure."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def main() -> int:
    """Run both servers around the command of the command line."""
    arguments = _parse()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        started = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="keyvault-servers-") as home,
            running_servers(fsync=arguments.fsync) as servers,
        ):
            description = Path(home) / "servers.json"
            servers.save(description)
            say(
                f"Vault {servers.vault.addr} and PostgreSQL port {servers.postgres.port}: "
                f"ready in {time.monotonic() - started:.1f} s"
            )
            return _run(arguments.command, description) if arguments.command else _wait(servers, description)
    except ServerError as error:
        say(f"error: {error}")
        return 1
    except _InterruptedBy as interrupted:
        return 128 + interrupted.signum


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__.splitlines()[0])
    parser.add_argument("--fsync", action="store_true", help="let PostgreSQL sync to disk (for benchmarks)")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="what to run beside the servers")
    return parser.parse_args()


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not leave servers behind
    raise _InterruptedBy(signum)


def _run(command: list[str], description: Path) -> int:
    env = {**os.environ, VARIABLE: str(description)}
    try:
        process = subprocess.Popen([*prefix(death_signal="TERM"), *command], env=env)
        try:
            status = process.wait()
        except _InterruptedBy as interrupted:
            _end_command(process, interrupted.signum)
            raise
    finally:
        description.unlink()
    return status if status >= 0 else 128 - status


def _end_command(process: subprocess.Popen[bytes], signum: int) -> None:
    """Let the command clean up first: a terminal's Ctrl-C has reached it already, SIGTERM has not."""
    if signum == signal.SIGTERM:
        process.terminate()
    for last_word in (process.terminate, process.kill):
        try:
            process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            last_word()
    process.wait()


def _wait(servers: Servers, description: Path) -> int:
    say(f"""
  {VARIABLE}={description}
  Vault       {servers.vault.addr}
    CA        {servers.vault.ca_file}
    token     {servers.vault.root_token}
    log       {servers.vault.log_file}
  PostgreSQL  {servers.postgres.url}
    log       {servers.postgres.log_file}

Ctrl-C stops both.""")
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
