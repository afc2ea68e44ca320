"""A process of the storage layer: seals its messages, opens what it sealed, and writes down what every call came to.

`python -m tests.service.storage_client FILE`: the file is a `Work` as JSON. It goes on opening until the file `stop` is there.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from keyvault import connect
from keyvault.client.remote import RemoteKeyVault
from keyvault.errors import KeyVaultError, Unavailable
from keyvault.scopes import Scope, ScopeKind
from keyvault.values import DataKey, KeyRequest, OpenRequest, RewrapRequest, SealRequest
from tests.service.history import Call, Outcome, line

MESSAGES = 40
"""Sealed in one call, each in two envelopes."""
UNKNOWN = "consumer/acct-001/nobody"


@dataclass(frozen=True, kw_only=True)
class Work:
    """`watched`: scopes of which what was sealed is opened all the time, so that it is kept in memory."""

    who: str
    urls: list[str]
    ca_file: str
    token: str
    messages: list[dict[str, Any]]
    watched: list[str]
    history: str
    sealed: str
    stop: str

    def save(self, path: Path) -> None:
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self)))


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something to seal, and where it belongs: the identity of a message, or its content."""

    of: str
    scopes: tuple[str, ...]
    record: str
    plaintext: bytes

    def request(self) -> SealRequest:
        return SealRequest(
            scopes=self.scopes, record=self.record, associated_data=self.of.encode(), plaintext=self.plaintext
        )


Asked: TypeAlias = Thing | KeyRequest


def things_of(message: dict[str, Any]) -> tuple[Thing, Thing]:
    """Return a message's parts, as the README says what goes under which key."""
    month = Scope.of(ScopeKind.COMMUNICATIONS, message["account"], message["recorded_at"][:7]).name
    consumer = Scope.of(ScopeKind.CONSUMER, message["account"], message["consumer"]).name
    record = message["record"]
    content = {name: value for name, value in message.items() if name != "consumer"}
    return (
        Thing(
            of=f"{record}/identity",
            scopes=(month, consumer),
            record=record,
            plaintext=json.dumps(message["consumer"]).encode(),
        ),
        Thing(of=f"{record}/content", scopes=(month,), record=record, plaintext=json.dumps(content).encode()),
    )


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Client:
    """Does the work."""

    def __init__(self, work: Work, vault: RemoteKeyVault, history: TextIO, envelopes: TextIO) -> None:
        self._work = work
        self._vault = vault
        self._random = random.Random(work.who)
        self._things = [thing for message in work.messages for thing in things_of(message)]
        self._sealed: list[tuple[Thing, bytes]] = []
        self._watched: list[tuple[Thing, bytes]] = []
        self._keys: list[tuple[KeyRequest, bytes]] = []
        self._history = history
        self._envelopes = envelopes

    def run(self) -> None:
        self._make_keys()
        while self._things or not Path(self._work.stop).exists():
            self._seal()
            self._open_watched()
            self._open_some()
            self._move_keys()

    def _make_keys(self) -> None:
        requests = [KeyRequest(scopes=(name,)) for name in (*self._work.watched, UNKNOWN)]
        start = now()
        made = self._vault.generate_data_keys(requests)
        for request, result in zip(requests, made, strict=True):
            self._note("generate", start, request, result)
            if isinstance(result, DataKey):
                self._keys.append((request, result.wrapped))

    def _seal(self) -> None:
        batch, self._things = self._things[: 2 * MESSAGES], self._things[2 * MESSAGES :]
        if not batch:
            return
        start = now()
        results = self._answers(self._vault.seal_many, [thing.request() for thing in batch])
        for thing, result in zip(batch, results, strict=True):
            self._note("seal", start, thing, result)
            if isinstance(result, Unavailable):
                self._things.append(thing)
            elif isinstance(result, bytes):
                self._sealed.append((thing, result))
                if set(thing.scopes) & set(self._work.watched):
                    self._watched.append((thing, result))
                self._envelopes.write(json.dumps([thing.of, result.hex()]) + "\n")
        self._envelopes.flush()
        self._history.flush()

    def _open_watched(self) -> None:
        for thing, envelope in self._random.sample(self._watched, min(8, len(self._watched))):
            start = now()
            try:
                result: bytes | KeyVaultError = self._vault.open(envelope, associated_data=thing.of.encode())
            except KeyVaultError as error:
                result = error
            self._opened(start, thing, result)

    def _open_some(self) -> None:
        some = self._random.sample(self._sealed, min(5, len(self._sealed)))
        requests = [OpenRequest(envelope=envelope, associated_data=thing.of.encode()) for thing, envelope in some]
        start = now()
        for (thing, _), result in zip(some, self._answers(self._vault.open_many, requests), strict=True):
            self._opened(start, thing, result)

    def _opened(self, start: float, thing: Thing, result: object) -> None:
        if isinstance(result, bytes) and result != thing.plaintext:
            raise SystemExit(f"{thing.of} opened to something else")
        self._note("open", start, thing, result)

    def _move_keys(self) -> None:
        requests = [RewrapRequest(scopes=request.scopes, wrapped=wrapped) for request, wrapped in self._keys]
        start = now()
        for request, result in zip(requests, self._answers(self._vault.rewrap_data_keys, requests), strict=True):
            self._note("rewrap", start, request, result)

    def _answers(self, call: Any, requests: Sequence[object]) -> list[Any]:
        """Return the answers to a batch, one error for all of them where it failed as a whole."""
        try:
            answers: list[Any] = call(requests)
        except KeyVaultError as error:
            return [error] * len(requests)
        return answers

    def _note(self, op: str, start: float, asked: Asked, result: object) -> None:
        outcome: Outcome = "ok"
        if isinstance(result, KeyVaultError):
            outcome = "unavailable" if isinstance(result, Unavailable) else "refused"
        call = Call(
            who=self._work.who,
            op=op,
            start=start,
            end=now(),
            scopes=asked.scopes,
            record=asked.record,
            outcome=outcome,
            error=None if outcome == "ok" else type(result).__name__,
            of=asked.of if isinstance(asked, Thing) else f"a key of {self._work.who}",
        )
        self._history.write(line(call))


def main() -> None:
    work = Work(**json.loads(Path(sys.argv[1]).read_text()))
    with (
        Path(work.history).open("w") as history,
        Path(work.sealed).open("w") as envelopes,
        connect(work.urls, token=work.token, ca_file=work.ca_file, timeout=30) as vault,
    ):
        Client(work, vault, history, envelopes).run()


if __name__ == "__main__":
    main()
