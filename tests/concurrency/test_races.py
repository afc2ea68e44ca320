"""What a caller is told when a scope ends between the look at its state and the use of its key."""

from __future__ import annotations

import pytest

from keyvault import KeyRequest, KeyVault, UnwrapRequest
from keyvault.errors import ScopeDestroyedError
from keyvault.home import assemble
from keyvault.results import values_of
from keyvault.testing import faulty_engine
from shredder.destroy import Destroyer
from tests.homes import TestHome

NAME = "consumer/acct-1/one"


@pytest.mark.parametrize(
    ("custody", "issue", "step"),
    [
        ("dedicated", True, "before generate_data_keys"),
        ("dedicated", False, "before decrypt"),
        ("ring", True, "before get_state"),
        ("ring", False, "before get_state"),
        ("ring", True, "after get_state"),
        ("ring", False, "before decrypt"),
    ],
    indirect=["custody"],
)
def test_a_scope_destroyed_meanwhile_is_destroyed_and_not_an_alarm(home: TestHome, step: str, *, issue: bool) -> None:
    with home.opened("issuer") as issuing, home.opened("shredder") as shredding:
        vault = KeyVault(issuing)
        values_of(vault.ensure_scopes([NAME]))
        key = values_of(vault.generate_data_keys([KeyRequest(scopes=(NAME,))]))[0]
        armed: list[str] = []

        def hook(now: str) -> None:
            if now in armed:
                armed.clear()
                outcome = Destroyer(shredding).destroy([NAME], ticket="T-1", requested_by="tester")[0]
                assert outcome.error is None

        engine = faulty_engine(issuing.engine, hook)
        racing = KeyVault(assemble(issuing.settings, issuing.database, engine, path=issuing.path))
        armed.append(step)
        told: object
        if issue:
            told = racing.generate_data_keys([KeyRequest(scopes=(NAME,))])[0]
        else:
            told = racing.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped)])[0]
        assert not armed, "the race was not run"
    assert isinstance(told, ScopeDestroyedError), told
