"""Calls that are answered from memory: without a thread, without the database, and only while what they rest on stands."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest

from keyvault import KeyRequest, UnwrapRequest, open_vault
from keyvault.leases import AnswerLease
from keyvault.results import values_of
from keyvault.service.app import AT_ONCE
from keyvault.store.endings import Endings
from tests.homes import TestHome
from tests.service.conftest import Service

NAME = "consumer/acct-001/one"
OTHER = "consumer/acct-001/other"


def asked(*names: str) -> dict[str, Any]:
    return {"keys": [{"scopes": [name]} for name in names]}


def forbid(monkeypatch: pytest.MonkeyPatch, *methods: str) -> None:
    def reached(*_: object) -> None:
        raise AssertionError("a call went the way that may wait")

    for method in methods:
        monkeypatch.setattr(f"keyvault.vault.KeyVault.{method}", reached)


def test_what_is_kept_is_answered_without_the_way_that_waits(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.logged(NAME)
    wrapped = service.post("/v1/keys/generate", asked(NAME)).json()["keys"][0]
    unwrap = {"keys": [{"wrapped": wrapped["wrapped"]}]}
    service.post("/v1/keys/unwrap", unwrap)
    forbid(monkeypatch, "generate_data_keys", "unwrap_data_keys")
    answer = service.post("/v1/keys/generate", asked(NAME, NAME)).json()
    assert len({key["plaintext"] for key in answer["keys"]}) == 2
    assert 0 < answer["lease"] <= 60
    opened = service.post("/v1/keys/unwrap", unwrap).json()
    assert b64decode(opened["keys"][0]["plaintext"]) == b64decode(wrapped["plaintext"])
    assert 0 < opened["lease"] <= 60


def test_long_batches_leave_the_event_loop_to_others(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.logged(NAME)
    forbid(monkeypatch, "generate_kept")
    answer = service.post("/v1/keys/generate", asked(*[NAME] * (AT_ONCE + 1))).json()
    assert len(answer["keys"]) == AT_ONCE + 1


def test_all_of_a_call_is_kept_or_the_call_may_wait(home: TestHome) -> None:
    with open_vault(home.path, leased=True) as vault:
        values_of(vault.ensure_scopes([NAME, OTHER]))
        one, other = (KeyRequest(scopes=(name,)) for name in (NAME, OTHER))
        assert vault.generate_kept([one], AnswerLease()) is None
        key, wanted = values_of(vault.generate_data_keys([one, other]))
        (mine, theirs) = (UnwrapRequest(wrapped=item.wrapped) for item in (key, wanted))
        values_of(vault.unwrap_data_keys([mine]))
        assert vault.unwrap_kept([mine, theirs], AnswerLease()) is None
        assert vault.unwrap_kept([mine], AnswerLease()) == [key.plaintext]
        lease = AnswerLease()
        assert vault.generate_kept([one, other], lease) is not None
        assert 0 < vault.lease_left(lease) <= 60


def test_what_ended_is_answered_from_memory_no_more(home: TestHome) -> None:
    with open_vault(home.path, leased=True) as vault:
        (made,) = values_of(vault.ensure_scopes([NAME]))
        request = KeyRequest(scopes=(NAME,))
        (key,) = values_of(vault.generate_data_keys([request]))
        unwrap = UnwrapRequest(wrapped=key.wrapped)
        values_of(vault.unwrap_data_keys([unwrap]))
        vault.drop_kept(Endings(scopes={made.id}))
        assert vault.generate_kept([request], AnswerLease()) is None
        assert vault.unwrap_kept([unwrap], AnswerLease()) is None
