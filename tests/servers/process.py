"""Server processes: free ports, start with a readiness loop, stop, and no orphans."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Below Linux's default ephemeral range (32768 and up): an outgoing connection can never take a stopped server's port.
_FIRST_PORT, _LAST_PORT = 15_000, 32_000
_POLL_SECONDS = 0.05


class ServerError(RuntimeError):
    """A server could not be had, started, or asked to do something; the message says what to do next."""


def say(line: str) -> None:
    """Write one line of progress to standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nothing listens on."""
    while True:
        port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def prefix(*, death_signal: str = "KILL", user: pwd.struct_passwd | None = None) -> list[str]:
    """Return the words to put before a command so that it dies with its parent thread, as `user` if given.

    `death_signal` is a name without SIG. Linux sends it when the *thread* that started the command ends, so servers
    are started from a thread that outlives them (in tests: the main thread).
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ServerError("setpriv is missing: install util-linux, which carries it")
    identity = [] if user is None else [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [setpriv, f"--pdeathsig={death_signal}", *identity, "--"]


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    death_signal: str = "KILL",
    user: pwd.struct_passwd | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own (Ctrl-C reaches the tests, not it); its output is appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*prefix(death_signal=death_signal, user=user), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=None if env is None else dict(env),
            start_new_session=True,
        )


def wait_until(
    condition: Callable[[], bool],
    *,
    what: str,
    log: Path,
    process: subprocess.Popen[bytes] | None,
    timeout: float = 60.0,
) -> None:
    """Poll until `condition` holds; raise ServerError with the end of `log` when the process ends or time is up."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process is not None and process.poll() is not None:
            raise ServerError(
                f"{what}: the server ended with status {process.returncode}; its log ends with\n{tail(log)}"
            )
        if time.monotonic() > deadline:
            raise ServerError(f"{what}: not so after {timeout:.0f} s; the server's log ends with\n{tail(log)}")
        time.sleep(_POLL_SECONDS)


def end(process: subprocess.Popen[bytes], *, with_signal: int = signal.SIGTERM, patience: float = 20.0) -> None:
    """Send a signal and wait; kill the process when it is still there after `patience` seconds."""
    if process.poll() is None:
        process.send_signal(with_signal)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(log: Path, *, lines: int = 20) -> str:
    """Return the last lines of a log file, or a note that there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error})"


def is_root() -> bool:
    """Tell whether the caller is root."""
    return os.geteuid() == 0
