"""Calls that must ask the database, asked together: for one key a question costs nearly what it does for a hundred.

A worker that starts under load keeps nothing yet, and each call for a single key asks. Whoever comes while questions are under way waits, and
goes with the others in the next. Items of a batch have their own errors, so that nobody is refused for what others ask.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from keyvault.service.wire import GenerateKeys, KeyAnswers, UnwrapKeys

UNDER_WAY = 2
"""Questions at a time."""
TOGETHER = 128
"""Keys of a question that others may still join; a call for more asks by itself."""


class _Asked:
    """What a call asks, and what it is told: its answer, or None, upon which it is its turn to ask, for itself and others."""

    def __init__(self, keys: Sequence[Any]) -> None:
        self.keys = keys
        self.told: Future[KeyAnswers | None] = Future()


class Gathered:
    """Answers calls of one kind, each in a thread of its own. Thread-safe."""

    def __init__(self, kind: type[GenerateKeys | UnwrapKeys], ask: Callable[[Any], KeyAnswers]) -> None:
        """`ask` answers a call of this kind, for as many keys as it has."""
        self._kind = kind
        self._ask = ask
        self._under_way = 0
        self._waiting: deque[_Asked] = deque()
        self._lock = threading.Lock()
        self.__doc__ = ask.__doc__

    def __call__(self, body: GenerateKeys | UnwrapKeys) -> KeyAnswers:
        """Answer a call. Raises what `ask` does."""
        if len(body.keys) > TOGETHER:
            return self._ask(body)
        mine = _Asked(body.keys)
        with self._lock:
            waits = self._under_way == UNDER_WAY
            if waits:
                self._waiting.append(mine)
            else:
                self._under_way += 1
        answer = mine.told.result() if waits else None
        return self._ask_for_all(mine) if answer is None else answer

    def _ask_for_all(self, mine: _Asked) -> KeyAnswers:
        """Ask for a call and for those that wait; return its answer, and tell them theirs."""
        together = [mine, *self._joining(len(mine.keys))]
        try:
            answers = self._ask(self._kind(keys=[key for asked in together for key in asked.keys]))
            parts = iter(answers.keys)
            mine_part, *others = [
                KeyAnswers(lease=answers.lease, keys=[next(parts) for _ in asked.keys]) for asked in together
            ]
        except BaseException as error:
            for asked in together[1:]:
                asked.told.set_exception(error)
            raise
        finally:
            self._pass_on()
        for asked, part in zip(together[1:], others, strict=True):
            asked.told.set_result(part)
        return mine_part

    def _joining(self, count: int) -> list[_Asked]:
        joining = []
        with self._lock:
            while self._waiting and count + len(self._waiting[0].keys) <= TOGETHER:
                joining.append(self._waiting.popleft())
                count += len(joining[-1].keys)
        return joining

    def _pass_on(self) -> None:
        """Let the next that waits ask."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().told.set_result(None)
            else:
                self._under_way -= 1
