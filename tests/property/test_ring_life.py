"""Rings keep their promises in every life that the machine thinks of, and it notices when they do not."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from keyvault.custody import ring_shredding, ring_state
from keyvault.custody.ring_state import RingStates
from keyvault.errors import KeyVaultError
from keyvault.formats import Bytes
from keyvault.puncture_state import RingState, new_ring
from tests.property.ring_life import RingLife, Roots

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
EXAMPLES = {"ci": 15, "thorough": 500}
STEPS = 20


@pytest.fixture
def roots(monkeypatch: pytest.MonkeyPatch) -> Roots:
    """The seed that each ring grew from, noted where it is drawn: what was drawn last is what was written."""
    noted: Roots = {}
    drawing: list[bytes] = []
    write_first = RingStates._write_first

    def write(self: RingStates, ring_id: bytes, capacity: int, path: str) -> None:
        drawing[:] = [ring_id]
        write_first(self, ring_id, capacity, path)

    def new(seed: Bytes, *, capacity: int) -> RingState:
        noted[drawing[0]] = bytes(seed)
        return new_ring(seed, capacity=capacity)

    monkeypatch.setattr(RingStates, "_write_first", write)
    monkeypatch.setattr(ring_state, "new_ring", new)
    monkeypatch.setattr(
        ring_shredding, "LEASE_SECONDS", 0.0
    )  # those that die here are no processes that one can see gone
    return noted


def live(roots: Roots, how: settings) -> None:
    run_state_machine_as_test(lambda: RingLife(roots), settings=how)  # type: ignore[arg-type]  # it takes factories, too


@pytest.mark.usefixtures("months_are_due")
def test_the_life_of_rings(roots: Roots) -> None:
    how = settings(settings.get_profile(PROFILE), max_examples=EXAMPLES[PROFILE], stateful_step_count=STEPS)
    live(roots, how)


def _puncture_nothing(self: RingState, _slots: Iterable[int]) -> RingState:
    """Stand for a state that keeps what it should lose."""
    return self.move_records({})


def _puncture_the_next_too(self: RingState, slots: Iterable[int]) -> RingState:
    """Stand for a state that loses a neighbour."""
    gone = set(slots)
    return PUNCTURE(self, gone | {(slot + 1) % self.capacity for slot in gone})


PUNCTURE = RingState.puncture_slots


@pytest.mark.parametrize(
    "faults",
    [
        {"keyvault.puncture_state.RingState.puncture_slots": _puncture_nothing},
        {"keyvault.puncture_state.RingState.puncture_slots": _puncture_the_next_too},
        {"keyvault.admission.check_record": lambda _mark: None},
    ],
    ids=["not punctured", "too much punctured", "records not checked"],
)
def test_the_machine_finds_what_is_planted(
    roots: Roots, monkeypatch: pytest.MonkeyPatch, faults: dict[str, object]
) -> None:
    for target, replacement in faults.items():
        monkeypatch.setattr(target, replacement)
    once = settings(settings.get_profile("ci"), max_examples=20, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises((AssertionError, KeyVaultError)):
        live(roots, once)
