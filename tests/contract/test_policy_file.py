"""The policy in force: from which file, how it is recorded, and the purposes that it refuses; on both stores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text as sql
from sqlalchemy.engine import Connection

from keyvault import KeyVault, open_vault
from keyvault.errors import ConfigurationError, PurposeNotAllowedError, StoreError
from keyvault.events import EventType, b64
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.scopes import REFUSED_PURPOSES, ScopeKind
from keyvault.store import outbox, system
from shredder.policy_file import home_policy, load_policy, policy_path
from tests.homes import TestHome, in_dedicated_custody

BUILT_IN = (files("shredder") / "policy.toml").read_text()
STRICT = BUILT_IN.replace('"2026-11"', '"acme/2"').replace(
    "grace_days = 30  ", 'refused_purposes = ["training"]\ngrace_days = 14  '
)
YEAR, CONSUMER = f"business/acct-1/{datetime.now(UTC):%Y}", "consumer/acct-1/c-1"

pytestmark = in_dedicated_custody


def write(home: TestHome, text: str) -> Path:
    path = home.path / "policy.toml"
    path.write_text(text)
    return path


def changes(home: Home) -> list[dict[str, Any]]:
    events = (json.loads(body) for _, body in home.database.read(outbox.bodies))
    return [event for event in events if event["type"] == EventType.POLICY_CHANGED]


# --- which file ------------------------------------------------------------------------------------------------------


def test_without_a_file_the_built_in_policy_holds(home: TestHome) -> None:
    with home.opened() as opened:
        assert home_policy(opened) == load_policy(None)
        assert policy_path(opened.path) is None


def test_a_homes_file_holds_instead(home: TestHome) -> None:
    path = write(home, STRICT)
    with home.opened() as opened:
        policy = home_policy(opened)
    assert policy == load_policy(path)
    assert (policy.version, policy.categories[ScopeKind.CONSUMER].grace_days) == ("acme/2", 14)


# --- the record ------------------------------------------------------------------------------------------------------


def test_the_first_use_records_the_policy(home: TestHome) -> None:
    with home.opened() as opened:
        assert opened.database.read(system.policy) is None
        policy = home_policy(opened)
        stored = opened.database.read(system.policy)
        (event,) = changes(opened)
    assert stored is not None
    assert (stored.version, stored.digest) == (policy.version, policy.digest)
    assert stored.refused_purposes == REFUSED_PURPOSES
    assert (event["policy"], event["version"], event["digest"]) == ("2026-11", "2026-11", b64(policy.digest))
    assert event["previous"] is None


def test_a_change_says_what_was_and_all_that_due_dates_rest_on(home: TestHome) -> None:
    with home.opened() as opened:
        before = home_policy(opened)
        write(home, STRICT)
        policy = home_policy(opened)
        _, event = changes(opened)
    assert event["previous"] == {"version": "2026-11", "digest": b64(before.digest)}
    assert (event["policy"], event["version"], event["digest"]) == ("acme/2", "acme/2", b64(policy.digest))
    assert event["facts_days"] == 7
    assert set(event["categories"]) == set(ScopeKind)
    for kind, category in policy.categories.items():
        assert event["categories"][kind] == {
            "rule": category.rule,
            "months": category.months,
            "grace_days": category.grace_days,
            "classes": category.classes,
            "refused_purposes": sorted(category.refused_purposes),
        }


def test_the_same_policy_is_recorded_once(home: TestHome) -> None:
    with home.opened() as opened:
        home_policy(opened)
        home_policy(opened)
    with home.opened() as again:
        home_policy(again)
        assert len(changes(again)) == 1


def test_many_at_once_record_it_once(home: TestHome) -> None:
    with home.opened() as opened, ThreadPoolExecutor(4) as pool:
        policies = list(pool.map(lambda _: home_policy(opened), range(8)))
        assert len(changes(opened)) == 1
    assert len({policy.digest for policy in policies}) == 1


def test_taking_the_file_away_is_a_change_as_well(home: TestHome) -> None:
    path = write(home, STRICT)
    with home.opened() as opened:
        home_policy(opened)
        path.unlink()
        assert home_policy(opened) == load_policy(None)
        assert [event["version"] for event in changes(opened)] == ["acme/2", "2026-11"]


def test_record_and_event_come_together_or_not_at_all(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreError("no event can be written")

    with home.opened() as opened:
        with monkeypatch.context() as patch:
            patch.setattr(outbox, "append", fail)
            with pytest.raises(StoreError):
                home_policy(opened)
        assert opened.database.read(system.policy) is None
        home_policy(opened)
        assert len(changes(opened)) == 1


def test_a_broken_file_changes_nothing(home: TestHome) -> None:
    with home.opened() as opened:
        home_policy(opened)
        write(home, BUILT_IN.replace("months = 25", "months = 60"))
        with pytest.raises(
            ConfigurationError, match=r"policy\.toml, line 21: categories\.communications\.months must be"
        ):
            home_policy(opened)
        assert len(changes(opened)) == 1


# --- purposes --------------------------------------------------------------------------------------------------------


@contextmanager
def vaults(home: TestHome) -> Iterator[list[KeyVault]]:
    """Both ways of issuing keys, opened now."""
    with open_vault(home.path) as plain, open_vault(home.path, leased=True) as leased:
        yield [plain, leased]


def test_purposes_are_refused_by_the_policy_in_force_when_a_vault_is_opened(home: TestHome) -> None:
    with vaults(home) as opened:
        values_of(opened[0].ensure_scopes([YEAR, CONSUMER]))
        sealed = opened[0].seal(b"x", [CONSUMER], purpose="training")
        assert [vault.open(sealed, purpose="training") for vault in opened] == [b"x", b"x"]
    write(home, STRICT)
    with home.opened() as shredder:
        home_policy(shredder)
    with vaults(home) as opened:
        for vault in opened:
            with pytest.raises(PurposeNotAllowedError, match="the policy allows no key of a consumer scope"):
                vault.open(sealed, purpose="training")
            with pytest.raises(PurposeNotAllowedError, match="the policy allows no key of a consumer scope"):
                vault.seal(b"y", [CONSUMER], purpose="training")
            with pytest.raises(PurposeNotAllowedError, match="the policy allows no key of a business scope"):
                vault.seal(b"y", [YEAR], purpose="marketing")
            assert vault.open(sealed) == vault.open(sealed, purpose="support") == b"x"


def test_no_record_of_a_policy_lets_business_records_be_used_for_marketing(home: TestHome) -> None:
    def forge(connection: Connection) -> None:
        body = json.dumps({"version": "forged", "digest": "00" * 32, "refused_purposes": {}})
        connection.execute(sql("update system set policy = :body"), {"body": body})

    with home.opened() as opened:
        opened.database.write(forge)
    with vaults(home) as opened_vaults:
        values_of(opened_vaults[0].ensure_scopes([YEAR]))
        for vault in opened_vaults:
            with pytest.raises(PurposeNotAllowedError):
                vault.seal(b"x", [YEAR], purpose="marketing")
