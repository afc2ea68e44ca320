"""Jobs that run ahead: results in order, a bounded number at a time, none begun after one that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from threading import Barrier

import pytest

from keyvault.concurrency import one_ahead


def test_results_come_in_order_whatever_runs_at_the_same_time() -> None:
    for threads in (1, 2, 5):
        assert list(one_ahead((partial(int, number) for number in range(20)), threads=threads)) == list(range(20))
    assert list(one_ahead([])) == []


def test_as_many_jobs_run_together_as_there_are_threads() -> None:
    together = Barrier(3)
    assert sorted(one_ahead([partial(together.wait, 10)] * 6, threads=3)) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_jobs_are_made_ahead_than_run(threads: int) -> None:
    made: list[int] = []

    def jobs() -> Iterator[Callable[[], int]]:
        for number in range(9):
            made.append(number)
            yield partial(int, number)

    for result in one_ahead(jobs(), threads=threads):
        assert len(made) <= result + 1 + threads


def test_nothing_is_begun_after_a_job_that_failed() -> None:
    begun: list[int] = []

    def job(number: int) -> int:
        begun.append(number)
        return 1 // (1 - number)

    with pytest.raises(ZeroDivisionError):
        list(one_ahead(partial(job, number) for number in range(9)))
    assert begun == [0, 1]
