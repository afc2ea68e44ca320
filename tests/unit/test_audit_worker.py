"""Work that two processes share."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread

from shredder.audit.worker import SMALL, helper

_MEGABYTE = 1_000_000
_PATIENCE_SECONDS = 60


def doubled(piece: bytes) -> bytes:
    """Return more than it was given."""
    return piece * 2


def test_pieces_and_results_larger_than_any_buffer_between_the_two_hold_up_neither() -> None:
    pieces = [bytes([number]) * _MEGABYTE for number in range(24)]

    def work() -> list[bytes]:
        with helper(SMALL + 1) as other:
            return [*other.shared(doubled, pieces)]

    came: SimpleQueue[list[bytes]] = SimpleQueue()
    Thread(
        target=lambda: came.put(work()), daemon=True
    ).start()  # which does not keep a run from ending, should it hang
    assert came.get(timeout=_PATIENCE_SECONDS) == [doubled(piece) for piece in pieces]


def test_who_takes_no_more_can_end_it_all_the_same() -> None:
    with helper(SMALL + 1) as other:
        results = other.shared(doubled, [b"a", b"b", b"c"])
        assert next(results) == b"aa"
