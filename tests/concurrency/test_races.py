"""What a caller is told when a scope ends between the look at its state and the use of its key."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keyvault import KeyRequest, KeyVault, UnwrapRequest
from keyvault.errors import ScopeDestroyedError, ScopeFencedError
from keyvault.home import assemble
from keyvault.results import values_of
from keyvault.testing import faulty_engine
from shredder.destroy import Destroyer
from tests.homes import TestHome

NAME = "consumer/acct-1/one"


def once(at: str, action: Callable[[], object]) -> Callable[[str], None]:
    done = False

    def hook(step: str) -> None:
        nonlocal done
        if step == at and not done:
            done = True
            action()

    return hook


@pytest.mark.parametrize("call", ["generate", "unwrap"])
def test_a_scope_destroyed_meanwhile_is_destroyed_and_not_an_alarm(home: TestHome, call: str) -> None:
    with home.opened() as opened:
        vault = KeyVault(opened)
        values_of(vault.ensure_scopes([NAME]))
        key = values_of(vault.generate_data_keys([KeyRequest(scopes=(NAME,))]))[0]
        at = {"generate": "before generate_data_keys", "unwrap": "before decrypt"}[call]
        destroyer = Destroyer(opened)
        hook = once(at, lambda: destroyer.destroy([NAME], ticket="T-1", requested_by="tester"))
        racing = KeyVault(assemble(opened.settings, opened.database, faulty_engine(opened.engine, hook)))
        hook_free = racing._issuer
        if call == "generate":
            told: object = hook_free.generate([KeyRequest(scopes=(NAME,))])[0]
        else:
            told = hook_free.unwrap([UnwrapRequest(wrapped=key.wrapped)])[0]
    assert isinstance(told, ScopeDestroyedError | ScopeFencedError), told
