"""Real servers for the tests: a Vault with raft storage and TLS, and a PostgreSQL, both in temporary directories.

Depends on the standard library, `cryptography` (certificates) and `psycopg` only, never on the product, so that a fault
of the product cannot hide in its own test servers. `python -m tests.servers -- COMMAND` runs a command beside both.
"""

from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.process import ServerError
from tests.servers.vault import VaultError, VaultServer, running_vault

__all__ = [
    "PostgresServer",
    "ServerError",
    "VaultError",
    "VaultServer",
    "running_postgres",
    "running_vault",
]
