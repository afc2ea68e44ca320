from __future__ import annotations

import threading

from keyvault.clock import SystemClock
from keyvault.expiry import ExpiryTimer
from keyvault.leased_keys import LeasedKeys
from tests.unit.test_leased_keys import is_wiped, key

PATIENCE = 20.0


def test_an_idle_process_looks_for_as_long_as_something_is_left() -> None:
    looked: list[float | None] = [0.01, 0.01, None]
    done = threading.Event()

    def sweep() -> float | None:
        left = looked.pop(0)
        if left is None:
            done.set()
        return left

    timer = ExpiryTimer(sweep)
    timer.arm(0.01)
    timer.arm(0.01)
    assert done.wait(PATIENCE)
    assert looked == []
    timer.close()


def test_it_looks_no_more_after_it_was_closed() -> None:
    looked: list[None] = []
    timer = ExpiryTimer(lambda: looked.append(None))
    timer.arm(1000)
    armed = timer._timer
    timer.close()
    timer.arm(0)
    assert armed is not None
    assert timer._timer is armed
    armed.join(PATIENCE)
    assert not armed.is_alive()
    assert looked == []


def test_a_lease_that_ends_in_an_idle_process_wipes_its_key() -> None:
    kept, made, wiped = LeasedKeys(SystemClock(), ttl=0.05), key(), threading.Event()
    wipe = made.wipe

    def told() -> None:
        wipe()
        wiped.set()

    watched = type("Watched", (), {"wipe": staticmethod(told)})()
    kept.keep("a", watched, anchor=SystemClock().monotonic())
    assert wiped.wait(PATIENCE)
    assert is_wiped(made)
    kept.close()
