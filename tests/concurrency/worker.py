"""One process of several threads that use the same scopes as everybody else, and write down what they saw."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Barrier
from typing import TypeVar

from keyvault import DataKey, KeyRequest, KeyVault, ScopeInfo, UnwrapRequest
from keyvault.envelope import split_envelope
from keyvault.errors import KeyVaultError
from keyvault.results import caught
from keyvault.states import KeyState
from keyvault.wrapped import parse_wrapped
from shredder.destroy import Destroyer
from tests.concurrency.history import Call, Sighting, now, save
from tests.homes import TestHome

T = TypeVar("T")

ENDED = {KeyState.DEACTIVATED, KeyState.DESTROYED}
ENDING_ERRORS = {"ScopeFencedError", "ScopeDestroyedError"}
SCOPE_ID = re.compile(r"scope ([0-9a-f]{32})")
WEIGHTS = {
    "ensure": 14,
    "renew": 8,
    "seal": 20,
    "generate": 10,
    "open": 16,
    "unwrap": 8,
    "suspend": 8,
    "resume": 10,
    "shred": 6,
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a process is to do: `calls` a thread, among `names`."""

    home: TestHome
    names: tuple[str, ...]
    process: int
    threads: int
    calls: int
    history: Path


def run(task: Task, start: Barrier) -> None:
    """Do it, beginning when all processes are ready."""
    with task.home.vault() as vault, task.home.destroyer() as destroyer:
        start.wait(timeout=60)
        actors = [
            Actor(vault=vault, destroyer=destroyer, names=task.names, who=f"{task.process}.{thread}")
            for thread in range(task.threads)
        ]
        with ThreadPoolExecutor(task.threads) as pool:
            list(pool.map(lambda actor: actor.act(task.calls), actors))
    save(task.history, [call for actor in actors for call in actor.calls])


@dataclass(kw_only=True)
class Actor:
    """One thread: chooses by its own name's seed, so that only the interleaving differs between runs."""

    vault: KeyVault
    destroyer: Destroyer
    names: tuple[str, ...]
    who: str
    calls: list[Call] = field(default_factory=list)
    sealed: list[bytes] = field(default_factory=list)
    wrapped: list[bytes] = field(default_factory=list)

    def act(self, count: int) -> None:
        """Make `count` calls."""
        dice = random.Random(self.who)
        for _ in range(count):
            op = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            names = dice.sample(self.names, dice.choice((1, 1, 2)))
            self._record(op, lambda op=op, names=names: self._call(op, names, dice))  # type: ignore[misc]

    def _record(self, op: str, call: Callable[[], Call]) -> None:
        start = now()
        try:
            made = call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the checker judges it
            made = self._told(op, [error])
        self.calls.append(replace(made, start=start, end=now()))

    def _call(self, op: str, names: list[str], dice: random.Random) -> Call:
        if op in {"ensure", "renew", "suspend", "resume"}:
            return self._sighted(op, names)
        if op == "shred":
            return self._shred(names[:1])
        if op == "generate":
            return self._generate(names)
        if op == "open" and self.sealed:
            return self._open(dice.choice(self.sealed))
        if op == "unwrap" and self.wrapped:
            return self._unwrap(dice.choice(self.wrapped))
        return self._seal(names)

    def _open(self, envelope: bytes) -> Call:
        self.vault.open(envelope)
        return self._made("open", issued=_ids(envelope))

    def _unwrap(self, wrapped: bytes) -> Call:
        results = self.vault.unwrap_data_keys([UnwrapRequest(wrapped=wrapped)])
        issued = () if isinstance(results[0], KeyVaultError) else _header_ids(wrapped)
        return self._told("unwrap", results, issued)

    def _seal(self, names: list[str]) -> Call:
        plaintext = f"{self.who}-{len(self.calls)}"
        envelope = caught(self.vault.seal, plaintext.encode(), names)
        if isinstance(envelope, KeyVaultError):
            return self._told("seal", [envelope])
        self.sealed.append(envelope)
        made = self._made("seal", issued=_ids(envelope))
        return replace(made, envelope=base64.b64encode(envelope).decode(), plaintext=plaintext)

    def _generate(self, names: list[str]) -> Call:
        results = self.vault.generate_data_keys([KeyRequest(scopes=(name,)) for name in names])
        keys = [result.wrapped for result in results if isinstance(result, DataKey)]
        self.wrapped += keys
        return self._told("generate", results, tuple(scope for key in keys for scope in _header_ids(key)))

    def _shred(self, names: list[str]) -> Call:
        outcomes = self.destroyer.destroy(names, ticket="T-1", requested_by=self.who)
        # Destroyed or pending, both are behind the fence.
        told = self._told("shred", [outcome.error for outcome in outcomes])
        return replace(told, shut=tuple(outcome.scope_id.hex() for outcome in outcomes))

    def _sighted(self, op: str, names: Sequence[str]) -> Call:
        if op in {"ensure", "renew"}:
            results = self.vault.ensure_scopes(names, renew=op == "renew")
        else:
            results = self.vault.suspend(names) if op == "suspend" else self.vault.resume(names)
        infos = [(name, info) for name, info in zip(names, results, strict=True) if isinstance(info, ScopeInfo)]
        told = self._told(op, results)
        return replace(
            told,
            seen=tuple(
                Sighting(name=name, id=info.id.hex(), generation=info.generation, state=str(info.state))
                for name, info in infos
            ),
            shut=told.shut + tuple(info.id.hex() for _, info in infos if info.state in ENDED),
        )

    def _told(self, op: str, results: Sequence[object], issued: tuple[str, ...] = ()) -> Call:
        errors = [result for result in results if isinstance(result, Exception)]
        ended = [SCOPE_ID.search(str(error)) for error in errors if type(error).__name__ in ENDING_ERRORS]
        return replace(
            self._made(op, issued=issued),
            told=tuple(type(error).__name__ for error in errors),
            messages=tuple(str(error) for error in errors),
            shut=tuple(found[1] for found in ended if found),
        )

    def _made(self, op: str, *, issued: tuple[str, ...]) -> Call:
        return Call(who=self.who, op=op, start=0, end=0, issued=issued)


def _ids(envelope: bytes) -> tuple[str, ...]:
    return _header_ids(split_envelope(envelope).wrapped.raw)


def _header_ids(wrapped: bytes) -> tuple[str, ...]:
    return tuple(reference.scope_id.hex() for reference in parse_wrapped(wrapped).header.scopes)
