"""Time, injected everywhere: the calendar (UTC) and a clock that only runs forward."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime

from keyvault.errors import ConfigurationError

NOW_VARIABLE = "KEYVAULT_NOW"


class Clock(ABC):
    """What tells the time. `simulated` is shown in every output of a home that uses such a clock."""

    simulated: bool = False

    @abstractmethod
    def now(self) -> datetime:
        """Return the calendar time, aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back and counts through suspend."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock(Clock):
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the machine's time, aware, in UTC."""
        return datetime.now(UTC)


class SimulatedClock(Clock):
    """Takes the calendar time from `KEYVAULT_NOW` (ISO 8601), for homes made with `--clock simulated`."""

    simulated = True

    def now(self) -> datetime:
        """Return the time in `KEYVAULT_NOW`, or the machine's when it is not set.

        Raises `ConfigurationError` when the variable does not parse or names no time zone.
        """
        text = os.environ.get(NOW_VARIABLE)
        if text is None:
            return datetime.now(UTC)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise ConfigurationError(f"{NOW_VARIABLE} is not an ISO 8601 time: {text!r}") from error
        if moment.tzinfo is None:
            raise ConfigurationError(f"{NOW_VARIABLE} needs a time zone, for example {text}Z")
        return moment.astimezone(UTC)
