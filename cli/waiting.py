"""Waiting until no process can hold a destroyed key any more: the destruction is done before it begins."""

from __future__ import annotations

import math
import time

from cli.app import App
from cli.failures import Stopped


def wait_for_leases(app: App, seconds: float, until: str) -> int:
    """Return 0 after `seconds`, counted through suspend; when a signal ends the waiting, say what that means, and return its exit code."""
    if seconds <= 0:
        return 0
    app.note(f"Waiting {math.ceil(seconds)} s, until {until}: from then on no process can hold the keys.")
    end = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
    try:
        with app.progress("waiting for leases to end", math.ceil(seconds)) as advance:
            while (left := end - time.clock_gettime(time.CLOCK_BOOTTIME)) > 0:
                time.sleep(min(left, 1.0))
                advance(1)
    except Stopped as stopped:
        app.note(
            f"keyvault: {stopped.failure.message}. What was destroyed stays destroyed; only the waiting ended early."
        )
        return stopped.failure.code
    return 0
