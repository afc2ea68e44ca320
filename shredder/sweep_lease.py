"""One sweep at a time: a lease in the database, renewed by a thread while the sweep works. Safety never rests on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy.engine import Connection

from keyvault.errors import KeyVaultError, SweepRunningError
from keyvault.home import Home
from keyvault.store import leases

NAME = "sweep"
LEASE = timedelta(seconds=60)
RENEWED_EVERY = 15.0
"""Seconds."""


class SweepLease:
    """A lease that is held; `check` before each step that begins something."""

    def __init__(self, home: Home, token: int) -> None:
        """Renew the lease with this token until `end`."""
        self._home = home
        self._token = token
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="sweep lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `SweepRunningError` when the lease was lost."""
        if self._lost.is_set():
            raise SweepRunningError(
                "this sweep could not renew its lease, and another may have begun: run `keyvault sweep` again; what is fenced is finished then"
            )

    def end(self) -> None:
        """Give the lease back."""
        self._ended.set()
        self._thread.join()
        database = self._home.database
        database.write(lambda connection: leases.release(connection, NAME, self._token, now=database.now(connection)))

    def _keep(self) -> None:
        while not self._ended.wait(RENEWED_EVERY):
            if not self._renewed():
                self._lost.set()
                return

    def _renewed(self) -> bool:
        database = self._home.database
        try:
            return database.write(
                lambda connection: leases.renew(connection, NAME, self._token, until=database.now(connection) + LEASE)
            )
        except KeyVaultError:  # `check` says so, in the sweep's own thread
            return False


@contextmanager
def held(home: Home) -> Iterator[SweepLease]:
    """Take the lease, or raise `SweepRunningError`. That of a process that died on this machine, or expired, is taken over."""
    database = home.database

    def take(connection: Connection) -> int | None:
        now = database.now(connection)
        return leases.acquire(connection, NAME, now=now, until=now + LEASE)

    token = database.write(take)
    if token is None:
        raise SweepRunningError(
            "another sweep is at work, and this one did nothing: wait until it has ended, or, if its machine died, for a minute"
        )
    lease = SweepLease(home, token)
    try:
        yield lease
    finally:
        lease.end()
