"""What a client does while something is broken: the same round again and again, each answer right or a clear error."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from keyvault.client.remote import RemoteKeyVault
from keyvault.errors import KeyVaultError, ScopeDestroyedError, ScopeFencedError, Unavailable
from keyvault.results import values_of
from keyvault.values import DataKey, KeyRequest, UnwrapRequest

ALIVE = ("consumer/acct-1/ada", "communications/acct-1/2026-10")
DESTROYED = "consumer/acct-1/bob"
RECENT = 10
BEYOND = 5.0
"""Seconds that a call may go on after its deadline on a machine that is busy with other things."""


@dataclass
class Rounds:
    """Asks for keys of scopes that live and of some that are destroyed, and for keys back that were given before."""

    vault: RemoteKeyVault
    timeout: float
    destroyed: list[str] = field(default_factory=lambda: [DESTROYED])
    given: list[tuple[bytes, bytes]] = field(default_factory=list)
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    def __call__(self) -> bool:
        """Make a round; return whether everything was answered. What is answered must be right."""
        started = time.monotonic()
        try:
            complete = self._generate() & self._unwrap(self.given[-RECENT:])
        except Unavailable as error:
            self._note(error)
            complete = False
        assert time.monotonic() - started < 2 * self.timeout + BEYOND
        self.answered += complete
        return complete

    def going_on(self, seconds: float) -> None:
        """Make rounds for a while, and one at least."""
        until = time.monotonic() + seconds
        self()
        while time.monotonic() < until:
            self()

    def prove(self) -> None:
        """Get back every key that was ever given, each as it was."""
        requests = [UnwrapRequest(wrapped=wrapped) for wrapped, _ in self.given]
        assert values_of(self.vault.unwrap_data_keys(requests)) == [bytearray(key) for _, key in self.given]

    def recover(self, patience: float = 60.0) -> float:
        """Make rounds until one is answered; return after how many seconds it was."""
        started = time.monotonic()
        while not self():
            assert time.monotonic() - started < patience, self.failures[-1]
            time.sleep(0.05)
        return time.monotonic() - started

    def _generate(self) -> bool:
        requests = [KeyRequest(scopes=(name,)) for name in (*ALIVE, *self.destroyed)]
        results = self.vault.generate_data_keys(requests)
        complete = True
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, Unavailable):
                self._note(result)
                complete = False
            elif request.scopes[0] in self.destroyed:
                assert isinstance(result, ScopeDestroyedError | ScopeFencedError)
            else:
                assert isinstance(result, DataKey)
                self.given.append((result.wrapped, bytes(result.plaintext)))
        return complete

    def _unwrap(self, some: list[tuple[bytes, bytes]]) -> bool:
        results = self.vault.unwrap_data_keys([UnwrapRequest(wrapped=wrapped) for wrapped, _ in some])
        for (_, key), result in zip(some, results, strict=True):
            if isinstance(result, KeyVaultError):
                assert isinstance(result, Unavailable)
                self._note(result)
            else:
                assert result == key
        return not any(isinstance(result, KeyVaultError) for result in results)

    def _note(self, error: Unavailable) -> None:
        assert error.retry_after > 0
        self.failures.append(str(error))
