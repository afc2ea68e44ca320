"""A key service without a network: answers a client's steps from memory, at a clock that a test moves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from keyvault.client.asking import Asker, Lost, Pause, Reply, Send, Steps
from keyvault.client.bearer import TokenSource
from keyvault.client.core import ClientCore
from keyvault.client.options import client_options
from keyvault.errors import KeyVaultError
from keyvault.results import caught
from keyvault.service import wire
from keyvault.service.failures import status_of, to_wire
from keyvault.testing import ManualClock
from keyvault.values import Reuse
from keyvault.wrapped import CustodyCode, Header, ScopeShareRef, WrappingKey, derive_wrapping_key, parse_wrapped

R = TypeVar("R")
START = datetime(2026, 11, 30, tzinfo=UTC)
Answer = Callable[[Send], Reply | Lost | None]


def scope_id(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]


def record_tag(record: str) -> bytes:
    return hashlib.sha256(b"record" + record.encode()).digest()[:8]


class KeyService:
    """Keys of any scope. `refused` maps scope ids to errors; `failing` answers before the service does; `seconds` is what a call takes."""

    def __init__(self, clock: ManualClock, *, lease: float = 60.0) -> None:
        self.clock = clock
        self.lease = lease
        self.seconds = 0.0
        self.refused: dict[bytes, KeyVaultError] = {}
        self.failing: Answer = lambda _call: None
        self.calls: list[tuple[str, int]] = []
        self.sent: list[Send] = []
        self.paused: list[float] = []

    def take(self, steps: Steps[R]) -> R:
        """Take the steps of a client to their end."""
        said: Reply | Lost | None = None
        try:
            while True:
                step = steps.send(said)
                if isinstance(step, Pause):
                    self.paused.append(step.seconds)
                    self.clock.advance(timedelta(seconds=step.seconds))
                    said = None
                    continue
                self.sent.append(step)
                said = self.failing(step) or self.answer(step)
        except StopIteration as done:
            result: R = done.value
            return result

    def answer(self, call: Send) -> Reply:
        verb = call.url.rsplit("/", 1)[1]
        body = msgspec.json.decode(call.content, type={"generate": wire.GenerateKeys, "unwrap": wire.UnwrapKeys}[verb])
        self.calls.append((verb, len(body.keys)))
        one: Callable[[Any], wire.KeyAnswer] = self._generated if verb == "generate" else self._unwrapped
        keys = []
        for item in body.keys:
            answer = caught(one, item)
            keys.append(wire.KeyAnswer(error=to_wire(answer)) if isinstance(answer, KeyVaultError) else answer)
        self.clock.advance(timedelta(seconds=self.seconds))
        return Reply(status=200, content=bytearray(wire.encoder.encode(wire.KeyAnswers(lease=self.lease, keys=keys))))

    def _generated(self, item: wire.KeyItem) -> wire.KeyAnswer:
        ids = [scope_id(name) for name in item.scopes]
        self._admit(ids)
        tag = b"" if item.record is None else record_tag(item.record)
        refs = [ScopeShareRef(scope_id=one, custody=CustodyCode.RING, generation=1, record_tag=tag) for one in ids]
        header = Header(salt=os.urandom(32), scopes=tuple(refs))
        key = bytearray(os.urandom(32))
        return wire.KeyAnswer(plaintext=key, wrapped=_wrapping_key(header).wrap(key, item.associated_data))

    def _unwrapped(self, item: wire.UnwrapItem) -> wire.KeyAnswer:
        wrapped = parse_wrapped(item.wrapped)
        self._admit([ref.scope_id for ref in wrapped.header.scopes])
        return wire.KeyAnswer(plaintext=_wrapping_key(wrapped.header).unwrap(wrapped, item.associated_data))

    def _admit(self, ids: list[bytes]) -> None:
        for one in ids:
            if one in self.refused:
                raise self.refused[one]


def refusal(error: KeyVaultError) -> Reply:
    return Reply(status=status_of(error), content=bytearray(wire.encoder.encode(wire.Problem(error=to_wire(error)))))


class Client:
    """A client's core over a `KeyService`."""

    def __init__(
        self,
        *,
        lease: float = 60.0,
        url: str | list[str] = "https://keys.example.com",
        token: TokenSource = "t",  # noqa: S107 - no real one
        reuse: Reuse | bool = True,
        keep: int = 1_000,
        timeout: float = 10.0,
    ) -> None:
        self.clock = ManualClock(START)
        self.service = KeyService(self.clock, lease=lease)
        options = client_options(url, token=token, reuse=reuse, keep=keep, timeout=timeout)
        self.core = ClientCore(options, self.clock)
        self.asker = Asker(options, self.clock)
        self.woken = 0
        self.core.kept.wake = self._woken

    def _woken(self) -> None:
        self.woken += 1

    def advance(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    def take(self, steps: Steps[R]) -> R:
        return self.service.take(steps)

    def renew(self) -> int:
        """Renew what is due, as a transport does when it is woken; return how many keys were."""
        count = 0
        while batch := self.core.kept.take_due(256):
            count += len(batch)
            self.take(self.core.renew(batch))
        return count


def _wrapping_key(header: Header) -> WrappingKey:
    return derive_wrapping_key(header, [hashlib.sha256(b"share" + ref.scope_id).digest() for ref in header.scopes])
