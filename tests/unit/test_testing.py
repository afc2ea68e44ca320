from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from keyvault.errors import Unavailable
from keyvault.store.database import Database
from keyvault.testing import FaultyDatabase, ManualClock, faulty_engine
from keyvault.transit.base import TransitEngine
from keyvault.transit.embedded import EmbeddedEngine

START = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_manual_clock_stands_still_until_both_of_its_times_are_moved_together() -> None:
    clock = ManualClock(START)
    assert (clock.now(), clock.monotonic()) == (START, 0.0)
    clock.advance(timedelta(minutes=1, milliseconds=500))
    assert (clock.now(), clock.monotonic()) == (START + timedelta(seconds=60.5), 60.5)
    assert clock.simulated is False


def test_a_wrong_time_server_moves_the_calendar_alone() -> None:
    clock = ManualClock(START)
    clock.advance(timedelta(seconds=2))
    clock.jump(START - timedelta(days=400))
    assert (clock.now(), clock.monotonic()) == (START - timedelta(days=400), 2.0)


def test_a_faulty_engine_passes_every_call_on_between_its_hooks(tmp_path: Path) -> None:
    inner = EmbeddedEngine(tmp_path / "engine.db", create=True)
    steps: list[str] = []
    engine = faulty_engine(inner, steps.append)
    assert isinstance(engine, TransitEngine)
    assert engine.kind == "embedded"
    assert engine.create_keys(["k-1"]) == [None]
    engine.set_min_versions("k-1", decryption=1, encryption=1)
    assert engine.list_keys() == ["k-1"] == inner.list_keys()
    names = ("create_keys", "set_min_versions", "list_keys")
    assert steps == [f"{when} {name}" for name in names for when in ("before", "after")]
    engine.close()


@pytest.mark.parametrize(("at", "done"), [("before create_keys", False), ("after create_keys", True)])
def test_a_fault_before_a_call_keeps_it_from_happening_and_one_after_does_not(
    tmp_path: Path, at: str, *, done: bool
) -> None:
    def hook(step: str) -> None:
        if step == at:
            raise Unavailable("the engine is down")

    inner = EmbeddedEngine(tmp_path / "engine.db", create=True)
    with pytest.raises(Unavailable):
        faulty_engine(inner, hook).create_keys(["k-1"])
    assert inner.list_keys() == (["k-1"] if done else [])
    inner.close()


@pytest.mark.parametrize(("at", "rows"), [("before commit", []), ("after commit", [1])])
def test_a_fault_before_a_commit_undoes_it_and_one_after_does_not(tmp_path: Path, at: str, rows: list[int]) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    plain = Database(url, create=True)
    plain.write(lambda connection: connection.execute(sa.text("CREATE TABLE t (n INTEGER)")))

    def hook(step: str) -> None:
        if step == at:
            raise Unavailable("the power went")

    faulty = FaultyDatabase(url, hook)
    with pytest.raises(Unavailable, match="the power went"):
        faulty.write(lambda connection: connection.execute(sa.text("INSERT INTO t VALUES (1)")))
    found = plain.read(lambda connection: list(connection.execute(sa.text("SELECT n FROM t")).scalars()))
    assert found == rows
    faulty.close()
    plain.close()
