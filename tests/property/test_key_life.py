"""The guarantees hold in every life that the machine thinks of, and it notices when they do not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy.engine import Connection

from keyvault import KeyState
from keyvault.custody.base import Proof, Target
from keyvault.custody.dedicated import DedicatedCustody
from keyvault.errors import KeyVaultError
from keyvault.store import rings
from keyvault.store.rings import RingContent, RingRow
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


def _believe(_self: object, targets: Sequence[Target]) -> list[Proof]:
    """Stand for a custody that does nothing and says that it is done."""
    return [Proof(key="absent", retained_ciphertext="refused") for _ in targets]


_destroy = DedicatedCustody.destroy


def _destroy_everything(self: DedicatedCustody, targets: Sequence[Target]) -> list[Proof | KeyVaultError]:
    """Stand for an erasure that hits the neighbours."""
    self._engine.delete_keys([name for name in self._engine.list_keys() if name != SYSTEM_KEY])
    return _destroy(self, targets)


_content = rings.content


def _all_ended(connection: Connection, ring: RingRow) -> RingContent:
    """Stand for a look-up that takes the living for ended."""
    found = _content(connection, ring)
    return replace(found, ended=found.ended | set(range(3)))


def _always(_state: KeyState, _action: object) -> KeyState:
    """Stand for a state machine that lets everybody back."""
    return KeyState.ACTIVE


@pytest.mark.parametrize(
    ("custody", "target", "replacement"),
    [
        ("ring", "keyvault.admission.check_issuable", _forget_to_look),
        ("ring", "shredder.fence.system.is_paused", lambda *_, **__: False),
        ("ring", "keyvault.suspension.apply", _always),
        ("dedicated", "keyvault.custody.dedicated.DedicatedCustody.destroy", _believe),
        ("ring", "keyvault.custody.ring.RingCustody.destroy", _believe),
        ("dedicated", "keyvault.custody.dedicated.DedicatedCustody.destroy", _destroy_everything),
        ("ring", "keyvault.custody.ring_shredding.rings.content", _all_ended),
    ],
    ids=[
        "state not checked",
        "pause not checked",
        "not suspended",
        "not erased",
        "not punctured",
        "all erased",
        "neighbours punctured",
    ],
)
def test_the_machine_finds_what_is_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, custody: str, target: str, replacement: object
) -> None:
    home = embedded_home(tmp_path, custody=custody)
    monkeypatch.setattr(target, replacement)
    once = settings(settings.get_profile("ci"), max_examples=50, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises((AssertionError, KeyVaultError)):
        live(home, once)
