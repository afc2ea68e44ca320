"""An audit pack of a home: the log as it stands now, with what the store keeps of its account-months."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from keyvault.errors import LogError
from keyvault.home import Home
from keyvault.scopes import ScopeKind
from keyvault.store import scopes as scope_store
from shredder.audit.pack import Packed, check_target, make_pack
from shredder.audit.population import AccountMonth
from shredder.log.checkpoint import read_unverified
from shredder.log.directory import LogDirectory
from shredder.log.note import ED25519, VerifierKey

PAGE = 10_000


def pack_home(home: Home, target: Path, started: Callable[[int], Callable[[int], None]]) -> Packed:
    """Make a pack in `target`, with every event that was committed before the call.

    `started` is told how many entries there are, and returns what is told of progress. Raises `LogError`, `Unavailable`.
    """
    key = VerifierKey(name=home.log.context.origin, type=ED25519, public=home.log.context.public_key)
    check_target(target, key)
    home.log.settle()
    log = LogDirectory(home.log_directory)
    note = log.checkpoint()
    if note is None:
        raise LogError(f"there is no checkpoint in {log.path}: restore the log's directory")
    progress = started(read_unverified(note).size)
    months = partial(account_months, home)
    return make_pack(target, log=log, log_key=key, note=note, account_months=months, progress=progress)


def account_months(home: Home) -> Iterator[AccountMonth]:
    """Give every account-month of a home, destroyed ones included. `LogError` when the store has lost what stays of one."""
    after = b""
    while rows := home.database.read(partial(scope_store.page, after=after, limit=PAGE, kind=ScopeKind.COMMUNICATIONS)):
        for row in rows:
            if row.period is None or row.salt is None or row.account is None:
                raise LogError(f"scope {row.id.hex()} has lost its month, salt or account: restore the database")
            yield AccountMonth(row.period, row.commitment, row.salt, row.account)
        after = rows[-1].id
