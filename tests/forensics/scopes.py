"""A home with scopes to be destroyed and one that must stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keyvault.home import Home
from keyvault.results import values_of
from keyvault.store import scopes as scope_store
from shredder.destroy import Destroyer
from tests.homes import TestHome, vault_home
from tests.servers import VaultServer

VICTIM = "consumer/acct-1/victim"
NEIGHBOUR = "consumer/acct-1/neighbour"


def home_with(directory: Path, server: VaultServer, scopes: Sequence[str] = (VICTIM, NEIGHBOUR)) -> TestHome:
    """Make a home on `server` that holds `scopes`."""
    home = vault_home(directory, server, f"sqlite:///{directory / 'store.db'}", custody="dedicated")
    with home.vault() as vault:
        values_of(vault.ensure_scopes(scopes))
    return home


def transit_key_of(home: Home, scope: str) -> str:
    """Return the name of the transit key of a scope."""
    lookup = home.keys.lookup(scope.encode())
    key = home.database.read(lambda connection: scope_store.newest_by_lookup(connection, [lookup]))[lookup].key_ref
    assert key is not None
    return key


def transit_mount_of(home: Home) -> str:
    """Return the path of the transit mount in Vault."""
    assert home.settings.vault is not None
    return home.settings.vault.transit_mount


def shred(home: Home, *scopes: str) -> None:
    """Destroy scopes and require that each is acknowledged."""
    outcomes = Destroyer(home).destroy(scopes, ticket="T-1", requested_by="tester")
    assert [outcome.error for outcome in outcomes] == [None] * len(scopes)
