"""The tree of a large log, verified in a process of its own while this one reads what the entries mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from keyvault.errors import LogError
from shredder.audit.tree import TreeReport, check_tree

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SMALL = 20_000
"""Entries for which a process would take longer to start than the work."""


@contextmanager
def checked_tree(path: Path, size: int) -> Iterator[Callable[[], TreeReport]]:
    """Lend what returns the report, waiting for it. `LogError` when the process died."""
    if size <= SMALL:
        yield lambda: check_tree(path, size)
        return
    from multiprocessing import get_context

    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, path, size), daemon=True)
    process.start()
    sender.close()
    try:
        yield lambda: _received(receiver)
    finally:
        process.terminate()
        process.join()


def _send(sender: Connection, path: Path, size: int) -> None:
    sender.send(check_tree(path, size))


def _received(receiver: Connection) -> TreeReport:
    try:
        report: TreeReport = receiver.recv()
    except EOFError as error:
        raise LogError("the process that verifies the tree died, and nothing was verified: run it again") from error
    return report
