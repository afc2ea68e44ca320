"""Work that is shared with a process of its own: what can be done of it in any order, while this one puts together what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from typing import TYPE_CHECKING, Any, TypeVar

from keyvault.errors import LogError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SMALL = 20_000
"""Entries for which a process would take longer to start than the work."""
AHEAD = 4
"""Pieces of work that wait in the other process: it is never without, and the two are done at about the same time."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Helper:
    """A process that does pieces of work beside this one; or none, and then this one does them all."""

    def __init__(self, connection: Connection | None) -> None:
        """`connection`: to the other process; None where there is none."""
        self._connection = connection

    def shared(self, work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
        """Give what `work` returns of each piece, in their order. All three can be pickled.

        A piece is done here while none of the other's has come. `LogError` when the other process died. Whoever does not take all leaves the
        other with work that nobody asks for: end it.
        """
        return map(work, pieces) if self._connection is None else self._shared(self._connection, work, pieces)

    def _shared(
        self, connection: Connection, work: Callable[[Piece], Result], pieces: Iterable[Piece]
    ) -> Iterator[Result]:
        left = enumerate(pieces)
        given: deque[int] = deque()
        done: dict[int, Result] = {}
        for wanted in count():
            while wanted not in done:
                for number, piece in islice(left, AHEAD - len(given)):
                    self._send(connection, (work, piece))
                    given.append(number)
                mine = None if given and connection.poll() else next(left, None)
                if mine is not None:
                    done[mine[0]] = work(mine[1])
                elif given:
                    done[given.popleft()] = self._receive(connection)
                else:
                    return
            yield done.pop(wanted)

    def _send(self, connection: Connection, piece: tuple[Callable[[Any], object], object]) -> None:
        try:
            connection.send(piece)
        except OSError as error:
            raise LogError(_DIED) from error

    def _receive(self, connection: Connection) -> Any:
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            raise LogError(_DIED) from error


_DIED = "a process of the verification died, and nothing was verified: run it again"


@contextmanager
def helper(size: int) -> Iterator[Helper]:
    """Start a process for a log of so many entries, or none for a small one; it ends with the block."""
    if size <= SMALL:
        yield Helper(None)
        return
    from multiprocessing import get_context

    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        yield Helper(here)
    finally:
        process.terminate()
        process.join()
        here.close()


def _work(connection: Connection) -> None:
    """Do the pieces that come, in their order.

    They are taken in beside the work: who sends one must never wait for this process, which may itself be waiting for its results to be read.
    """
    from queue import SimpleQueue
    from threading import Thread

    pieces: SimpleQueue[tuple[Callable[[Any], object], object] | None] = SimpleQueue()

    def take_in() -> None:
        try:
            while True:
                pieces.put(connection.recv())
        except (EOFError, OSError):
            pieces.put(None)

    Thread(target=take_in, daemon=True).start()
    while (given := pieces.get()) is not None:
        work, piece = given
        connection.send(work(piece))
