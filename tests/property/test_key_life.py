"""The guarantees hold in every life that the machine thinks of, and it notices when they do not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from keyvault import KeyState
from keyvault.custody.base import Proof
from keyvault.custody.dedicated import DedicatedCustody
from keyvault.errors import KeyVaultError
from keyvault.store.scopes import ScopeRow
from keyvault.system_keys import SYSTEM_KEY
from tests.homes import TestHome, embedded_home
from tests.property.key_life import KeyLife

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
EXAMPLES = {
    ("ci", "sqlite"): 60,
    ("ci", "postgresql"): 12,
    ("thorough", "sqlite"): 1_000,
    ("thorough", "postgresql"): 150,
}
STEPS = 25


def live(home: TestHome, how: settings) -> None:
    """Run the machine on a home."""
    run_state_machine_as_test(lambda: KeyLife(home), settings=how)  # type: ignore[arg-type]  # it takes factories, too


def test_the_life_of_keys(home: TestHome) -> None:
    engine = "sqlite" if home.store_url.startswith("sqlite") else "postgresql"
    live(
        home, settings(settings.get_profile(PROFILE), max_examples=EXAMPLES[PROFILE, engine], stateful_step_count=STEPS)
    )


def _forget_to_look(*_: object) -> None:
    """Stand for a check that is missing."""


def _believe(_self: object, rows: Sequence[ScopeRow]) -> list[Proof]:
    """Stand for a proof that looks at nothing."""
    return [Proof(key="absent", retained_ciphertext="refused") for _ in rows]


def _delete_nothing(_self: object, rows: Sequence[ScopeRow]) -> list[None]:
    """Stand for an engine that says yes and does nothing."""
    return [None for _ in rows]


def _delete_everything(self: DedicatedCustody, rows: Sequence[ScopeRow]) -> list[KeyVaultError | None]:
    """Stand for an erasure that hits the neighbours."""
    names = [name for name in self._engine.list_keys() if name != SYSTEM_KEY]
    self._engine.delete_keys(names)
    return [None for _ in rows]


def _always(_state: KeyState, _action: object) -> KeyState:
    """Stand for a state machine that lets everybody back."""
    return KeyState.ACTIVE


@pytest.mark.parametrize(
    "faults",
    [
        {"keyvault.admission.check_issuable": _forget_to_look},
        {"shredder.fence.system.is_paused": lambda *_, **__: False},
        {"keyvault.suspension.apply": _always},
        {
            "keyvault.custody.dedicated.DedicatedCustody.erase": _delete_nothing,
            "keyvault.custody.dedicated.DedicatedCustody.prove": _believe,
        },
        {"keyvault.custody.dedicated.DedicatedCustody.erase": _delete_everything},
    ],
    ids=["state not checked", "pause not checked", "not suspended", "not erased", "all erased"],
)
def test_the_machine_finds_what_is_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: dict[str, object]
) -> None:
    home = embedded_home(tmp_path)
    for target, replacement in faults.items():
        monkeypatch.setattr(target, replacement)
    once = settings(settings.get_profile("ci"), max_examples=50, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises((AssertionError, KeyVaultError)):
        live(home, once)
