"""The real servers, of which a test that needs one fails where it cannot be had, and never skips; and how long to look for counterexamples.

HYPOTHESIS_PROFILE=thorough looks with fresh seeds, for minutes; `ci`, the default, repeats the same runs, however slow the machine is.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from hypothesis import settings

from keyvault.store.database import Database
from keyvault.store.migrate import migrate
from tests.servers import PostgresServer, VaultServer, description, running_postgres, running_vault

pytest_plugins = ("tests.home_fixtures",)

Server = TypeVar("Server")

settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("thorough", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def vault_server(request: pytest.FixtureRequest) -> Iterator[VaultServer]:
    """The shared, unsealed Vault: leave it unsealed; use mounts and namespaces of your own in it."""
    servers = description.shared()
    with contextlib.ExitStack() as stack:
        yield servers.vault if servers else _shown(request, lambda: stack.enter_context(running_vault()))


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """The shared PostgreSQL: use databases of your own in it."""
    servers = description.shared()
    with contextlib.ExitStack() as stack:
        yield servers.postgres if servers else _shown(request, lambda: stack.enter_context(running_postgres()))


@pytest.fixture
def new_vault() -> Iterator[Callable[..., VaultServer]]:
    """`new_vault(raw_storage=False)` starts a Vault of the test's own (some 2 s), to seal, kill, restore or look into."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(running_vault(**options))


@pytest.fixture
def new_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """`new_postgres(fsync=False)` starts a PostgreSQL of the test's own (some 2 s), to stop or crash."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(running_postgres(**options))


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """SQLAlchemy URL of a fresh database, dropped after the test."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def migrated_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a database with the store's tables, for copies: nobody connects to it."""
    url = postgres_server.create_database()
    with contextlib.closing(Database(url)) as database:
        migrate(database)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def store_url(postgres_server: PostgresServer, migrated_url: str) -> Iterator[str]:
    """SQLAlchemy URL of a fresh database that has the store's tables already; dropped after the test."""
    url = postgres_server.create_database(like=migrated_url)
    yield url
    postgres_server.drop_database(url)


def _shown(request: pytest.FixtureRequest, start: Callable[[], Server]) -> Server:
    """Start a server with its progress on the terminal, past pytest's capture: a first Vault build takes minutes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        return start()
