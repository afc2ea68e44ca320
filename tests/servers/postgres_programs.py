"""PostgreSQL's programs, found or installed, and who may run them."""

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.servers.process import ServerError, is_root, say

_PROGRAMS = ("initdb", "postgres", "pg_dump", "psql")


def find_programs() -> Path:
    """Return the directory of PostgreSQL's programs; root on Debian installs the package when there is none."""
    found = _installed_programs()
    if found is None and is_root() and shutil.which("apt-get"):
        _install()
        found = _installed_programs()
    if found is None:
        raise ServerError(
            "PostgreSQL's programs (initdb, postgres, pg_dump, psql) are neither on PATH nor in /usr/lib/postgresql/*/bin: "
            "install them, on Debian with `apt-get install postgresql`, and run this again"
        )
    return found


def _installed_programs() -> Path | None:
    on_path = shutil.which("pg_ctl")
    packaged = sorted(Path("/usr/lib/postgresql").glob("[0-9][0-9]/bin"), reverse=True)
    candidates = [*([Path(on_path).resolve().parent] if on_path else []), *packaged]
    return next((path for path in candidates if all(os.access(path / name, os.X_OK) for name in _PROGRAMS)), None)


def _install() -> None:
    say("PostgreSQL is missing: installing Debian's postgresql package")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-q", "-y", "postgresql"]):
        # apt talks on standard output, which belongs to the command that is run beside the servers.
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=2, check=False)
        if done.returncode != 0:
            raise ServerError(f"`{' '.join(command)}` ended with status {done.returncode}: install postgresql by hand")


def server_user() -> pwd.struct_passwd | None:
    """Return who runs the server: the caller, except that PostgreSQL refuses root."""
    if not is_root():
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it")


def client_environment() -> Mapping[str, str]:
    """Return the environment without libpq's variables, which would redirect clients to other servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C.UTF-8"}
