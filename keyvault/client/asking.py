"""One call of the service, with its retries: the steps, without the sending.

What a call does next is decided here, as a generator of steps; `RemoteKeyVault` takes them in a thread, `AsyncRemoteKeyVault` in a task.
Every call is safe to repeat: keys that were given and not received are no one's, and the scopes' calls change nothing the second time.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import msgspec

from keyvault.client.options import ClientOptions
from keyvault.clock import Clock
from keyvault.errors import KeyVaultError, RateLimitedError, ServiceError, TokenRefusedError, Unavailable
from keyvault.service import wire
from keyvault.service.failures import from_wire

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""An answer that is longer is cut off, and so understood by nobody: no key service sends one."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
_OK = 200
_PASSING = frozenset({429, 502, 503, 504})

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class Send:
    """Send a POST, and answer with `Reply` or `Lost` within `seconds`."""

    url: str
    token: str = field(repr=False)
    content: bytes = field(repr=False)
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the service answered. `retry_after`: the header, as it is."""

    status: int
    content: bytearray = field(repr=False)
    retry_after: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """Nothing came back, or not all of it."""

    reason: str


Steps: TypeAlias = Generator[Send | Pause, Reply | Lost | None, R]


class Asker:
    """Asks the nodes of a service: the one that answered last first, the next where it cannot be reached. Thread-safe."""

    def __init__(self, options: ClientOptions, clock: Clock) -> None:
        """Begin with the first node."""
        self._urls = options.urls
        self._bearer = options.bearer
        self._timeout = options.timeout
        self._clock = clock
        self._at = 0

    def ask(self, path: str, content: bytes, answered: type[T]) -> Steps[tuple[T, float]]:
        """Return the answer, and the moment before the call was sent that it answers: where its leases begin.

        Raises what the service answers; `Unavailable` when no node answers in time, and `ServiceError` when something else does.
        """
        give_up_at = self._clock.monotonic() + self._timeout
        failed, looked_again = 0, False
        while True:
            at, anchor = self._at, self._clock.monotonic()
            call = Send(
                url=self._urls[at] + path,
                token=self._bearer.current(),
                content=content,
                seconds=(give_up_at - anchor) / self._nodes_to_ask(failed),
            )
            reply = yield call
            if isinstance(reply, Reply) and reply.status == _OK:
                return _decoded(reply.content, answered), anchor
            error = _error_of(reply)
            if isinstance(error, TokenRefusedError) and not looked_again and self._bearer.renewed(call.token):
                looked_again = True
                continue
            if not isinstance(error, Unavailable):
                raise error
            failed += 1
            pause = self._pause(error, failed, said=isinstance(reply, Reply))
            if self._at == at and not isinstance(error, RateLimitedError):
                self._at = (at + 1) % len(self._urls)
            if self._clock.monotonic() + pause >= give_up_at:
                raise error
            if pause > 0:
                yield Pause(seconds=pause)

    def _nodes_to_ask(self, failed: int) -> int:
        """Return among how many nodes the time is to be shared: a silent one must leave some to those that were not asked yet."""
        return max(1, len(self._urls) - failed)

    def _pause(self, error: Unavailable, failed: int, *, said: bool) -> float:
        """Return how long to wait: not at all for a node that was not asked yet; else longer each time, jittered, and as long as was said."""
        rounds, within = divmod(failed, len(self._urls))
        if within and not isinstance(error, RateLimitedError):
            return 0.0
        longest = min(FIRST_PAUSE_SECONDS * 2.0 ** min(rounds, 10), LONGEST_PAUSE_SECONDS)
        least = error.retry_after if said else 0.0
        return least + random.uniform(longest / 2, longest)


def _error_of(reply: Reply | Lost | None) -> KeyVaultError:
    if not isinstance(reply, Reply):
        reason = "" if reply is None else f" ({reply.reason})"
        return Unavailable(f"the key service does not answer{reason}: try again")
    try:
        answer = msgspec.json.decode(reply.content, type=wire.Problem).error
    except msgspec.DecodeError:
        if reply.status in _PASSING:
            return Unavailable(
                f"what stands before the key service answers {reply.status}: try again",
                retry_after=_seconds(reply.retry_after),
            )
        return ServiceError(f"what answers {reply.status} is not a key service of this version: check the URL")
    return from_wire(answer)


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else 1.0


def _decoded(content: bytearray, answered: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=answered)
    except msgspec.DecodeError as error:
        raise ServiceError("what answers is not a key service of this version: check the URL") from error
    finally:
        content[:] = bytes(len(content))
