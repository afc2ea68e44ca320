"""Two things at a time: work that waits for the database or the engine beside work that does not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def one_ahead(jobs: Iterable[Callable[[], R]], *, threads: int = 1) -> Iterator[R]:
    """Run jobs in order, as many at a time as there are threads, and give their results in order.

    While they run, the next is made by the iterable; and it runs already while the caller is at the result before. Once a job's
    error is raised, none is begun.
    """
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for job in jobs:
            before = [running.popleft().result()] if len(running) == threads else []
            running.append(pool.submit(copy_context().run, job))
            yield from before
        while running:
            yield running.popleft().result()


def side_by_side(work: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Give `work` of each item, in order, some of them at the same time, each in the caller's context."""
    if len(items) < 2:  # noqa: PLR2004 - there is nothing to be beside
        yield from map(work, items)
        return
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        running = [pool.submit(copy_context().run, work, item) for item in items]
        for done in running:
            yield done.result()
