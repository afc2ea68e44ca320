"""What a worker process of the service runs. Its home is named by the environment, because workers are started anew."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from starlette.applications import Starlette

from keyvault.home import open_home
from keyvault.process_hardening import harden_process
from keyvault.service.access import Access
from keyvault.service.app import key_calls, make_app
from keyvault.service.push import Push
from keyvault.vault import KeyVault

HOME_VARIABLE = "KEYVAULT_HOME"


def application() -> Starlette:
    """Open the home as the issuer, and return the application over it. Raises as `open_home`."""
    logging.getLogger("uvicorn.error").info("%s", harden_process().text)
    home = open_home(Path(os.environ[HOME_VARIABLE]), role="issuer")
    vault = KeyVault(home, leased=True)
    push = Push(vault)

    def close() -> None:
        push.close()
        vault.close()

    return make_app(Access(home.database, home.clock), [*key_calls(vault), push], close)
