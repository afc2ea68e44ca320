"""The tree of a large log, and the forms of its entries, verified in a process of their own while this one folds what entries mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from keyvault.errors import LogError
from shredder.audit.finding import Finding
from shredder.audit.reading import malformed
from shredder.audit.tree import TreeReport, check_tree

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SMALL = 20_000
"""Entries for which a process would take longer to start than the work."""
AT_ONCE = 16
"""Bundles whose findings are told together."""


class Tree:
    """What is verified elsewhere."""

    def __init__(self, path: Path, size: int, receiver: Connection | None) -> None:
        """`receiver`: where the other process tells what it finds; None where there is none."""
        self._path = path
        self._size = size
        self._receiver = receiver
        self._told: dict[int, Sequence[Finding]] = {}
        self._report: TreeReport | None = None

    def forms(self, first: int) -> Sequence[Finding] | None:
        """Return what is wrong with the forms of the bundle whose first entry has this index, waiting for it; None if nobody looked.

        `LogError` when the process died.
        """
        while self._receiver is not None and self._report is None and first not in self._told:
            self._receive(self._receiver)
        return self._told.pop(first, None)

    def report(self) -> TreeReport:
        """Return what the tree comes to, waiting for it. `LogError` when the process died."""
        if self._receiver is None:
            return check_tree(self._path, self._size)
        while self._report is None:
            self._receive(self._receiver)
        return self._report

    def _receive(self, receiver: Connection) -> None:
        try:
            told = receiver.recv()
        except (EOFError, OSError) as error:
            raise LogError("the process that verifies the tree died, and nothing was verified: run it again") from error
        if isinstance(told, TreeReport):
            self._report = told
        else:
            self._told.update(told)


@contextmanager
def verified_tree(path: Path, size: int) -> Iterator[Tree]:
    """Begin to verify the tree of a log in a directory; the process ends with the block."""
    if size <= SMALL:
        yield Tree(path, size, None)
        return
    from multiprocessing import get_context

    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, path, size), daemon=True)
    process.start()
    sender.close()
    try:
        yield Tree(path, size, receiver)
    finally:
        process.terminate()
        process.join()
        receiver.close()


def _work(sender: Connection, path: Path, size: int) -> None:
    """Tell the findings of bundles, by the index of the first entry, as they come, and the report at last."""
    found: dict[int, Sequence[Finding]] = {}

    def look(first: int, entries: Sequence[bytes]) -> None:
        found[first] = malformed(first, entries)
        if len(found) == AT_ONCE:
            sender.send(found)
            found.clear()

    report = check_tree(path, size, look)
    sender.send(found)
    sender.send(report)
