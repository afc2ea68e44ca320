"""A home with two scopes, one to be destroyed and one that must stay."""

from __future__ import annotations

from pathlib import Path

from keyvault.home import Home
from keyvault.results import values_of
from keyvault.store import scopes as scope_store
from shredder.destroy import Destroyer
from tests.homes import TestHome, vault_home
from tests.servers import VaultServer

VICTIM = "consumer/acct-1/victim"
NEIGHBOUR = "consumer/acct-1/neighbour"


def home_with_two_scopes(directory: Path, server: VaultServer) -> TestHome:
    """Make a home on `server` that holds `VICTIM` and `NEIGHBOUR`."""
    home = vault_home(directory, server, f"sqlite:///{directory / 'store.db'}")
    with home.vault() as vault:
        values_of(vault.ensure_scopes([VICTIM, NEIGHBOUR]))
    return home


def transit_key_of(home: Home, scope: str) -> str:
    """Return the name of the transit key of a scope."""
    lookup = home.keys.lookup(scope.encode())
    key = home.database.read(lambda connection: scope_store.newest_by_lookup(connection, [lookup]))[lookup].key_ref
    assert key is not None
    return key


def shred(home: Home, scope: str) -> None:
    """Destroy a scope and require that it is acknowledged."""
    assert Destroyer(home).destroy([scope], ticket="T-1", requested_by="tester")[0].error is None
