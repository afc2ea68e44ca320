"""Calls that ask together."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from keyvault.errors import Unavailable
from keyvault.service import gathering
from keyvault.service.gathering import TOGETHER, UNDER_WAY, Gathered
from keyvault.service.wire import ErrorAnswer, GenerateKeys, KeyAnswer, KeyAnswers, KeyItem

SECONDS = 30


class Asking:
    """Answers each key by its scope's name, when it is let; the scope `none` has an error."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.error: Exception | None = None

    def __call__(self, body: GenerateKeys) -> KeyAnswers:
        names = [item.scopes[0] for item in body.keys]
        self.asked.append(names)
        self.begun.release()
        assert self.go.acquire(timeout=SECONDS)
        if self.error is not None:
            raise self.error
        return KeyAnswers(lease=float(len(self.asked)), keys=[answer_of(name) for name in names])


def answer_of(name: str) -> KeyAnswer:
    if name == "none":
        return KeyAnswer(error=ErrorAnswer(type="UnknownScopeError", message="no scope of that name"))
    return KeyAnswer(wrapped=name.encode())


def body(*names: str) -> GenerateKeys:
    return GenerateKeys(keys=[KeyItem(scopes=(name,)) for name in names])


def waiting(gathered: Gathered, count: int) -> None:
    for _ in range(SECONDS * 1000):
        if len(gathered._waiting) == count:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"not {count} wait")


@pytest.fixture
def asking() -> Asking:
    return Asking()


def begin(
    asking: Asking, pool: ThreadPoolExecutor
) -> tuple[Gathered, list[Future[KeyAnswers]], list[Future[KeyAnswers]]]:
    """Let as many ask as may at a time, and three others wait."""
    gathered = Gathered(GenerateKeys, asking)
    first = [pool.submit(gathered, body(f"first-{number}")) for number in range(UNDER_WAY)]
    for _ in first:
        assert asking.begun.acquire(timeout=SECONDS)
    others: list[Future[KeyAnswers]] = []
    for names in (["a"], ["b", "none"], ["c"]):
        others.append(pool.submit(gathered, body(*names)))
        waiting(gathered, len(others))
    return gathered, first, others


def go_on(asking: Asking) -> None:
    """Let one have its answer, upon which the next asks for all that wait; and then the others."""
    asking.go.release()
    assert asking.begun.acquire(timeout=SECONDS)
    for _ in range(UNDER_WAY):
        asking.go.release()


def test_who_comes_while_others_ask_is_asked_for_together_and_each_is_told_its_own(asking: Asking) -> None:
    with ThreadPoolExecutor(8) as pool:
        gathered, first, others = begin(asking, pool)
        go_on(asking)
        answers = [future.result(SECONDS).keys for future in others]
        assert [future.result(SECONDS).keys for future in first] == [[answer_of("first-0")], [answer_of("first-1")]]
    assert answers == [[answer_of("a")], [answer_of("b"), answer_of("none")], [answer_of("c")]]
    assert asking.asked[UNDER_WAY:] == [["a", "b", "none", "c"]]
    assert gathered._under_way == 0


def test_an_error_of_the_whole_is_everybodys_and_the_next_asks_anew(asking: Asking) -> None:
    asking.error = Unavailable("the database cannot be reached")
    with ThreadPoolExecutor(8) as pool:
        gathered, first, others = begin(asking, pool)
        go_on(asking)
        for future in [*first, *others]:
            with pytest.raises(Unavailable, match="cannot be reached"):
                future.result(SECONDS)
        asking.error = None
        asking.go.release()
        assert gathered(body("d")).keys == [answer_of("d")]
    assert gathered._under_way == 0


def test_large_calls_ask_by_themselves_and_questions_stay_small(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(100):
        asking.go.release()
    large = body(*[f"{number}" for number in range(TOGETHER + 1)])
    assert len(Gathered(GenerateKeys, asking)(large).keys) == TOGETHER + 1
    asking = Asking()
    monkeypatch.setattr(gathering, "TOGETHER", 2)
    with ThreadPoolExecutor(8) as pool:
        _, first, others = begin(asking, pool)
        for _ in range(20):
            asking.go.release()
        for future in [*first, *others]:
            future.result(SECONDS)
    assert max(map(len, asking.asked)) == 2
    assert sum(map(len, asking.asked)) == UNDER_WAY + 4
