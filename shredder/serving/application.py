"""What a worker process of the service runs. Its home is named by the environment, because workers are started anew."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette

from keyvault.home import open_home
from keyvault.service.access import Access
from keyvault.service.app import key_calls, make_app
from keyvault.service.health import Readiness
from keyvault.vault import KeyVault

HOME_VARIABLE = "KEYVAULT_HOME"


def application() -> Starlette:
    """Open the home as the issuer, and return the application over it. Raises as `open_home`."""
    home = open_home(Path(os.environ[HOME_VARIABLE]), role="issuer")
    vault = KeyVault(home, leased=True)
    access, readiness = Access(home.database, home.clock), Readiness(home, vault.kept_keys)
    return make_app(access, key_calls(vault), readiness, vault.close)
