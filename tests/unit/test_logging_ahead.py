"""The log beside a run: one settling at a time, waited for at the end, and no failure that looks like none."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from keyvault.errors import Unavailable
from shredder.logging_ahead import LoggingAhead


class Log:
    """Settles when it is let, and fails as it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.begun = self.ended = 0
        self.may_end = Event()

    def settle(self) -> None:
        self.begun += 1
        assert self.may_end.wait(30)
        self.ended += 1
        if self.error is not None:
            raise self.error


def ahead(log: Log) -> LoggingAhead:
    home: Any = SimpleNamespace(log=log)
    return LoggingAhead(home)


def test_one_is_under_way_at_a_time_and_the_end_waits_for_it() -> None:
    log = Log()
    with ahead(log) as logging:
        for _ in range(3):
            logging.begin()
        log.may_end.set()
    assert (log.begun, log.ended) == (1, 1)


def test_what_cannot_be_logged_is_left_to_who_waits_for_it() -> None:
    log = Log(Unavailable("down"))
    log.may_end.set()
    with ahead(log) as logging:
        logging.begin()
    assert log.ended == 1


def test_a_fault_of_the_program_is_raised() -> None:
    log = Log(ZeroDivisionError())
    log.may_end.set()
    with pytest.raises(ZeroDivisionError), ahead(log) as logging:
        logging.begin()


def test_an_error_of_the_run_is_the_one_that_is_raised() -> None:
    log = Log(ZeroDivisionError())
    log.may_end.set()

    def run() -> None:
        with ahead(log) as logging:
            logging.begin()
            raise KeyError

    with pytest.raises(KeyError):
        run()
