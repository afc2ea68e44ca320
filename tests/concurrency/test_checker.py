"""The checker sees what it is there to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.concurrency import checker, history
from tests.concurrency.history import Call, Sighting

A, B = "aa", "bb"


def call(op: str, start: float, end: float, *, issued: str = "", shut: str = "", seen: str = "") -> Call:
    sightings = (Sighting(name="n", id=seen, generation=1, state="active"),) if seen else ()
    return Call(
        who="w",
        op=op,
        start=start,
        end=end,
        issued=(issued,) if issued else (),
        shut=(shut,) if shut else (),
        seen=sightings,
    )


@pytest.mark.parametrize(
    ("calls", "wrong"),
    [
        ([call("shred", 1, 2, shut=A), call("seal", 2.1, 3, issued=A)], 1),
        ([call("seal", 2.1, 3, issued=A), call("shred", 1, 2, shut=A)], 1),
        ([call("shred", 1, 2, shut=A), call("shred", 4, 5, shut=A), call("open", 3, 6, issued=A)], 1),
        ([call("shred", 1, 2, shut=A), call("seal", 1.9, 3, issued=A)], 0),
        ([call("shred", 1, 2, shut=A), call("seal", 2.1, 3, issued=B)], 0),
        ([call("shred", 1, 2), call("seal", 2.1, 3, issued=A)], 0),
    ],
)
def test_a_key_after_the_end_is_found(calls: list[Call], wrong: int) -> None:
    assert len(checker.keys_after_the_end(calls)) == wrong


@pytest.mark.parametrize(
    ("calls", "wrong"),
    [
        ([call("suspend", 1, 2, seen=A), call("seal", 3, 4, issued=A)], 1),
        ([call("resume", 0, 0.5, seen=A), call("suspend", 1, 2, seen=A), call("seal", 3, 4, issued=A)], 1),
        ([call("resume", 5, 6, seen=A), call("suspend", 1, 2, seen=A), call("seal", 3, 4, issued=A)], 1),
        ([call("suspend", 1, 2, seen=A), call("resume", 2.5, 2.6, seen=A), call("seal", 3, 4, issued=A)], 0),
        ([call("suspend", 1, 2, seen=A), call("resume", 3.5, 5, seen=A), call("seal", 3, 4, issued=A)], 0),
        ([call("suspend", 1, 2, seen=A), call("resume", 0, 1.5, seen=A), call("seal", 3, 4, issued=A)], 0),
        ([call("suspend", 1, 2, seen=A), call("seal", 1.5, 4, issued=A)], 0),
        ([call("suspend", 1, 2, seen=A), call("seal", 3, 4, issued=B)], 0),
    ],
)
def test_a_key_of_a_suspended_scope_is_found(calls: list[Call], wrong: int) -> None:
    assert len(checker.keys_while_suspended(calls)) == wrong


def test_two_scopes_of_one_name_and_two_names_of_one_scope_are_found() -> None:
    assert len(checker.duplicates([call("ensure", 1, 2, seen=A), call("ensure", 1, 2, seen=B)])) == 1
    other = Call(who="w", op="ensure", start=1, end=2, seen=(Sighting(name="m", id=A, generation=1, state="active"),))
    assert len(checker.duplicates([call("ensure", 1, 2, seen=A), other])) == 1
    assert checker.duplicates([call("ensure", 1, 2, seen=A), call("suspend", 3, 4, seen=A)]) == []


def test_answers_that_nobody_documented_are_found() -> None:
    raw = Call(who="w", op="seal", start=1, end=2, told=("OperationalError",), messages=("deadlock detected",))
    fine = Call(who="w", op="seal", start=1, end=2, told=("ScopeFencedError",), messages=("it is being destroyed",))
    assert checker.unexpected_errors([raw, fine]) == ["w: seal answered OperationalError: deadlock detected"]


def test_events_that_are_missing_doubled_or_unknown_are_found() -> None:
    assert checker.wrong_counts("e", {"a": 1, "b": 1}, ["a", "b"]) == []
    assert len(checker.wrong_counts("e", {"b": 2, "c": 1}, ["a", "b"])) == 3


def test_a_history_is_read_back(tmp_path: Path) -> None:
    calls = [call("ensure", 1, 2, seen=A, shut=B), call("open", 3, 4, issued=A)]
    history.save(tmp_path / "history", calls)
    assert history.load(tmp_path / "history") == calls
    assert history.now() < history.now() + 1
