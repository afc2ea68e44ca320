"""Python's garbage collector, held off while a batch is at work.

A batch makes tens of thousands of values that live until it answers. The collector walks through them time and again and finds nothing,
which takes up to a third of the whole time: what is not needed any more goes with its last reference, as always.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_held_off = threading.Lock()


@contextmanager
def uncollected() -> Iterator[None]:
    """Let no automatic collection begin in this process until the block ends.

    One block at a time holds it off, and those within it or beside it, in other threads, change nothing: so collection comes to its turn
    at the end of each, however many batches overlap. It stays off where the program turned it off before.
    """
    mine = _held_off
    if not gc.isenabled() or not mine.acquire(blocking=False):
        yield
        return
    try:
        gc.disable()
        yield
    finally:
        gc.enable()
        mine.release()


def _restore_in_child() -> None:
    """Turn collection on again in a forked process: the thread that would have done it stayed behind."""
    global _held_off  # noqa: PLW0603 - a new lock, as the one who holds the old one may be in this process too, and releases it
    if _held_off.locked():
        _held_off = threading.Lock()
        gc.enable()


os.register_at_fork(after_in_child=_restore_in_child)
