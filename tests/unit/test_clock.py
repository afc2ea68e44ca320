from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyvault.clock import NOW_VARIABLE, SimulatedClock, SystemClock
from keyvault.errors import ConfigurationError
from keyvault.results import values_of
from tests.homes import embedded_home


def test_the_machines_clock_is_aware_and_in_utc() -> None:
    before = datetime.now(UTC)
    moment = SystemClock().now()
    assert before <= moment <= datetime.now(UTC)
    assert moment.tzinfo is UTC
    assert SystemClock().simulated is False


@pytest.mark.parametrize("clock", [SystemClock(), SimulatedClock()])
def test_the_forward_clock_counts_through_suspend(clock: SystemClock | SimulatedClock) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= clock.monotonic() <= time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2028-11-01T00:00:00Z", datetime(2028, 11, 1, tzinfo=UTC)),
        ("2028-11-01T02:30:00+02:30", datetime(2028, 11, 1, tzinfo=UTC)),
    ],
)
def test_a_simulated_clock_takes_its_time_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, moment: datetime
) -> None:
    monkeypatch.setenv(NOW_VARIABLE, text)
    now = SimulatedClock().now()
    assert now == moment
    assert now.tzinfo is UTC
    assert SimulatedClock().simulated is True


def test_a_simulated_clock_that_is_not_set_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NOW_VARIABLE, raising=False)
    assert abs(SimulatedClock().now() - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "KEYVAULT_NOW is not an ISO 8601 time: ''"),
        ("yesterday", "KEYVAULT_NOW is not an ISO 8601 time: 'yesterday'"),
        ("2028-11-01T00:00:00", "KEYVAULT_NOW needs a time zone, for example 2028-11-01T00:00:00Z"),
    ],
)
def test_a_time_that_does_not_parse_is_refused(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setenv(NOW_VARIABLE, text)
    with pytest.raises(ConfigurationError) as raised:
        SimulatedClock().now()
    assert str(raised.value) == message


def test_a_home_with_a_simulated_clock_lives_in_that_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NOW_VARIABLE, "2031-05-05T00:00:00Z")
    home = embedded_home(tmp_path, clock="simulated")
    with home.vault() as vault:
        created = values_of(vault.ensure_scopes(["communications/acct-1/2031-05"]))[0]
    assert created.created_at == datetime(2031, 5, 5, tzinfo=UTC)
