"""A storage engineer's two lines: connect, and seal; data stays in the client."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from keyvault import connect
from keyvault.errors import (
    NotPermittedError,
    TokenRefusedError,
    UnknownScopeError,
)
from keyvault.results import values_of
from keyvault.states import KeyState
from keyvault.values import KeyRequest, RewrapRequest, UnwrapRequest, WrapRequest
from tests.homes import TestHome, in_ring_custody
from tests.serving import issue_token, revoke_token, served

ADA, BOB = "consumer/acct-1/ada", "consumer/acct-1/bob"
MONTH = "communications/acct-1/2026-10"


@in_ring_custody
def test_a_client_seals_and_opens_and_a_shredded_scope_is_gone(home: TestHome, tmp_path: Path) -> None:
    token = issue_token(home.path)
    with served(home.path, log=tmp_path / "log") as service, connect(service.url, token=token) as vault:
        infos = values_of(vault.ensure_scopes([ADA, BOB, MONTH]))
        assert [info.state for info in infos] == [KeyState.ACTIVE] * 3
        assert vault.describe([ADA]) == infos[:1]
        sealed = vault.seal(b"hello", [ADA, MONTH], associated_data=b"row 1", record="r-1")
        other = vault.seal(b"other", [BOB])
        assert vault.open(sealed, associated_data=b"row 1") == b"hello"

        (key,) = values_of(vault.generate_data_keys([KeyRequest(scopes=(BOB,))]))
        assert vault.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped)]) == [key.plaintext]
        (moved,) = values_of(vault.rewrap_data_keys([RewrapRequest(scopes=(MONTH,), wrapped=key.wrapped)]))
        assert vault.unwrap_data_keys([UnwrapRequest(wrapped=moved)]) == [key.plaintext]
        (own,) = values_of(vault.wrap_data_keys([WrapRequest(scopes=(BOB,), data_key=bytes(range(16)))]))
        assert own.plaintext == bytes(range(16))

        assert values_of(vault.suspend([BOB]))[0].state is KeyState.SUSPENDED
        assert isinstance(
            vault.generate_data_keys([KeyRequest(scopes=("consumer/acct-1/unknown",))])[0], UnknownScopeError
        )
        assert values_of(vault.resume([BOB]))[0].state is KeyState.ACTIVE
        assert vault.suspend_records(MONTH, ["r-1"]) == [KeyState.SUSPENDED]
        assert vault.resume_records(MONTH, ["r-1"]) == [KeyState.ACTIVE]

        with home.destroyer() as destroyer:
            (outcome,) = destroyer.destroy([ADA], ticket="T-1", requested_by="tester")
        assert outcome.error is None
        (gone,) = vault.describe([ADA])
        assert not isinstance(gone, Exception)
        assert gone.state is KeyState.DESTROYED
        assert vault.open(other) == b"other"


@in_ring_custody
def test_a_token_is_needed_and_stops_when_it_is_revoked(home: TestHome, tmp_path: Path) -> None:
    token, platform = issue_token(home.path), issue_token(home.path, "platform")
    with served(home.path, log=tmp_path / "log") as service:
        with connect(service.url, token="kv1_" + "0" * 32 + "_" + "0" * 64) as vault, pytest.raises(TokenRefusedError):
            vault.describe([ADA])
        with connect(service.url, token=platform) as vault, pytest.raises(NotPermittedError):
            vault.describe([ADA])
        with connect(service.url, token=token) as vault:
            assert isinstance(vault.describe([ADA])[0], UnknownScopeError)
            revoke_token(home.path, token)
            time.sleep(1)
            with pytest.raises(TokenRefusedError):
                vault.describe([ADA])
