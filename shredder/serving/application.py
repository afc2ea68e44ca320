"""What a worker process of the service runs. Its home is named by the environment, because workers are started anew."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from starlette.applications import Starlette

from keyvault.home import Home, open_home
from keyvault.process_hardening import harden_process
from keyvault.service.access import Access
from keyvault.service.app import key_calls, make_app
from keyvault.service.health import Readiness
from keyvault.service.jwt_access import jwt_access
from keyvault.service.limited import LimitedCalls
from keyvault.service.operations import Served
from keyvault.service.push import Push
from keyvault.vault import KeyVault
from shredder.serving.facts import fact_calls
from shredder.serving.log_files import LogFiles
from shredder.serving.requests import request_calls

HOME_VARIABLE = "KEYVAULT_HOME"


def application() -> Starlette:
    """Open the home as the issuer, and return the application over it. Raises as `open_home`.

    The issuer's rights are enough for all of it: facts and requests are rows and events of the database, and what they destroy is
    destroyed by others.
    """
    logging.getLogger("keyvault.service").info("%s", harden_process().text)
    home = open_home(Path(os.environ[HOME_VARIABLE]), role="issuer")
    vault = KeyVault(home, leased=True)
    push = Push(vault)

    def close() -> None:
        push.close()
        vault.close()

    access, readiness = Access(home.database, home.clock, jwt_access(home)), Readiness(home, vault.kept_keys)
    return make_app(access, [*every_call(home, vault), push], readiness, drain=push.end_streams, close=close)


def every_call(home: Home, vault: KeyVault) -> list[Served]:
    """Return all that the service answers for a home; the most frequent first, since routes are tried in order."""
    limited = LimitedCalls(home.database, home.keys)
    return [*key_calls(vault, limited), *fact_calls(home), *request_calls(home), LogFiles(home)]
