"""A PostgreSQL server of one's own: found or installed, started as somebody other than root, thrown away at the end."""

import contextlib
import os
import pwd
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.servers.places import data_root
from tests.servers.postgres_programs import client_environment, find_programs, server_user
from tests.servers.process import ServerError, end, free_port, prefix, spawn, tail, wait_until

USER = "keyvault"
_DRIVER = "postgresql+psycopg"
# The postmaster's own shutdown modes: https://www.postgresql.org/docs/current/server-shutdown.html
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


@dataclass(kw_only=True)
class PostgresServer:
    """A running server on 127.0.0.1; `process` is None where another process owns it and only it may stop it."""

    port: int
    password: str = field(repr=False)
    data_dir: Path
    log_file: Path
    bin_dir: Path
    fsync: bool
    pid: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the server's maintenance database; tests use `create_database`."""
        return self._url("postgres")

    def start(self) -> None:
        """Start the server again after `stop`, at the same port and with the same data; return when it answers."""
        if self.process is not None and self.process.poll() is None:
            raise ServerError("this PostgreSQL server runs already")
        command = [str(self.bin_dir / "postgres"), "-D", str(self.data_dir)]
        self.process = spawn(
            command,
            log=self.log_file,
            cwd=self.data_dir,
            death_signal="INT",
            user=server_user(),
            env=client_environment(),
        )
        self.pid = self.process.pid
        wait_until(self._answers, what="PostgreSQL answers", log=self.log_file, process=self.process)

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server and keep its data; `immediate` is a crash of the server: it recovers at the next start."""
        if self.process is None:
            raise ServerError(
                "this PostgreSQL server is shared: only its owner stops it; use new_postgres for your own"
            )
        end(self.process, with_signal=_STOP_SIGNALS[mode])

    def create_database(self, *, like: str | None = None) -> str:
        """Return the URL of a fresh database with a random name: empty, or a copy of one that nobody is connected to."""
        name = f"test_{secrets.token_hex(8)}"
        # template0 holds nothing of anybody's, and nobody can be connected to it, which would block the copy.
        template = "template0" if like is None else _name_in(like)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._administer(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self._url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database, also while somebody is connected to it."""
        self._administer(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(_name_in(url))))

    def dump(self, url: str, file: Path) -> None:
        """Write a plain-SQL dump of one database, made by pg_dump."""
        self._client("pg_dump", "--no-owner", f"--dbname={libpq_url(url)}", f"--file={file}")

    def restore(self, file: Path) -> str:
        """Load a dump into a fresh database and return its URL."""
        url = self.create_database()
        options = ("--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1")
        self._client("psql", *options, f"--dbname={libpq_url(url)}", f"--file={file}", "--output=/dev/null")
        return url

    def _url(self, database: str) -> str:
        return f"{_DRIVER}://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def _answers(self) -> bool:
        try:
            psycopg.connect(libpq_url(self.url), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(libpq_url(self.url), autocommit=True) as connection:
            connection.execute(statement)

    def _client(self, program: str, *arguments: str) -> None:
        command = [str(self.bin_dir / program), *arguments]
        done = subprocess.run(command, env=client_environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerError(f"{program} ended with status {done.returncode}: {done.stderr.strip()}")


def _name_in(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


def libpq_url(url: str) -> str:
    """Return the URL that psycopg, pg_dump and psql take for a SQLAlchemy URL."""
    return url.replace(f"{_DRIVER}://", "postgresql://", 1)


@contextlib.contextmanager
def running_postgres(*, fsync: bool = False) -> Iterator[PostgresServer]:
    """Run a server of one's own until the block ends.

    Without `fsync` a commit survives the death of every process, but not a power cut, which no test stages; it makes
    creating databases several times faster. Benchmarks turn it on.
    """
    bin_dir = find_programs()
    with _home(durable=fsync) as home:
        server = PostgresServer(
            port=free_port(),
            password=secrets.token_urlsafe(16),
            data_dir=home / "data",
            log_file=home / "postgres.log",
            bin_dir=bin_dir,
            fsync=fsync,
        )
        _initialise(server)
        try:
            server.start()
            yield server
        finally:
            if server.process is not None:
                server.stop("fast")


def _initialise(server: PostgresServer) -> None:
    """Create the cluster: C.UTF-8, passwords over TCP, no socket files."""
    home, user = server.data_dir.parent, server_user()
    secret = home / "password"
    secret.touch(mode=0o600)
    secret.write_text(server.password)
    if user is not None:
        os.chown(secret, user.pw_uid, user.pw_gid)
    options = [
        f"--username={USER}",
        f"--pwfile={secret}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
    ]
    sync = [] if server.fsync else ["--no-sync"]
    command = [*prefix(user=user), str(server.bin_dir / "initdb"), "-D", str(server.data_dir), *options, *sync]
    with server.log_file.open("ab") as log:
        done = subprocess.run(command, cwd=home, env=client_environment(), stdout=log, stderr=log, check=False)
    if done.returncode != 0:
        raise ServerError(f"initdb ended with status {done.returncode}:\n{tail(server.log_file)}")
    with (server.data_dir / "postgresql.conf").open("a") as configuration:
        configuration.writelines(f"{name} = {value}\n" for name, value in _settings(server).items())


def _settings(server: PostgresServer) -> dict[str, str]:
    return {
        "listen_addresses": "'127.0.0.1'",
        "port": str(server.port),
        "unix_socket_directories": "''",
        "max_connections": "200",
        "fsync": "on" if server.fsync else "off",
    }


@contextlib.contextmanager
def _home(*, durable: bool) -> Iterator[Path]:
    """Make a temporary directory that the server's user owns and can reach; pytest's own are closed to others."""
    user = server_user()
    root = _reachable(data_root(durable=durable), user)
    with tempfile.TemporaryDirectory(prefix="keyvault-postgres-", dir=root) as name:
        if user is not None:
            os.chown(name, user.pw_uid, user.pw_gid)
        yield Path(name)


def _reachable(directory: Path, user: pwd.struct_passwd | None) -> Path:
    """Return the directory, or /tmp where another user could not pass through it."""
    root = directory.resolve()
    closed = any(not parent.stat().st_mode & 0o001 for parent in (root, *root.parents))
    return Path("/tmp") if user is not None and closed else root
