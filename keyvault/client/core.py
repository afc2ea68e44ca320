"""The whole of a client but its sending: calls, kept keys, and their renewal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keyvault.client.asking import Asker, Steps
from keyvault.client.calls import ServiceCalls
from keyvault.client.kept_keys import KeptKey, KeptKeys, RawKey
from keyvault.client.opening import Opening
from keyvault.client.options import ClientOptions
from keyvault.client.sealing import Sealing
from keyvault.clock import Clock
from keyvault.errors import KeyVaultError, Unavailable
from keyvault.formats import wipe
from keyvault.values import KeyRequest, UnwrapRequest

RENEWED_AT_ONCE = 256
"""Keys of one call: a renewal must not hold up the threads that seal and open beside it."""


class ClientCore:
    """What a transport needs. Thread-safe; made anew in a forked child."""

    def __init__(self, options: ClientOptions, clock: Clock) -> None:
        """Ask nothing yet."""
        self.kept = KeptKeys(clock, limit=options.keep)
        self.calls = ServiceCalls(Asker(options, clock))
        self.opening = Opening(self.calls, self.kept, clock)
        self.sealing = Sealing(self.calls, self.kept, clock, options.reuse)

    def unwrap(self, requests: Sequence[UnwrapRequest]) -> Steps[list[bytearray | KeyVaultError]]:
        """Give back data keys: copies of what is kept, the rest from the service."""
        names = [(bytes(one.wrapped), bytes(one.associated_data), one.purpose, RawKey) for one in requests]
        copies = self.kept.copies(names)
        missing = [index for index, key in enumerate(copies) if key is None]
        drops = self.kept.drops
        try:
            fetched = yield from self.calls.unwrap([requests[index] for index in missing])
        except BaseException:
            for key in copies:
                if key is not None:
                    wipe(key)
            raise
        results: list[bytearray | KeyVaultError] = [_ASKED if key is None else key for key in copies]
        for index, (item, lease) in zip(missing, fetched, strict=True):
            results[index] = item
            if isinstance(item, bytearray):
                asked = requests[index]
                self.kept.keep(names[index], asked, RawKey(item[:]), names[index][0], lease, drops=drops)
        return results

    def renew(self, batch: Sequence[KeptKey]) -> Steps[None]:
        """Ask for kept keys once more, ahead of the end of their leases: what is refused is dropped at once."""
        yield from self._renew([kept for kept in batch if isinstance(kept.asked, UnwrapRequest)], self._prolong)
        yield from self._renew([kept for kept in batch if isinstance(kept.asked, KeyRequest)], self._replace)

    def _renew(
        self, batch: Sequence[KeptKey], ask: Callable[[Sequence[KeptKey]], Steps[list[KeyVaultError | None]]]
    ) -> Steps[None]:
        errors: list[KeyVaultError | None]
        try:
            errors = yield from ask(batch)
        except KeyVaultError as failure:
            errors = [failure] * len(batch)
        for kept, error in zip(batch, errors, strict=True):
            if isinstance(error, Unavailable):
                self.kept.put_off(kept, error.retry_after)
            elif error is not None:
                self.kept.drop([kept])

    def _prolong(self, batch: Sequence[KeptKey]) -> Steps[list[KeyVaultError | None]]:
        drops = self.kept.drops
        fetched = yield from self.calls.unwrap([kept.asked for kept in batch if isinstance(kept.asked, UnwrapRequest)])
        errors: list[KeyVaultError | None] = []
        for kept, (item, lease) in zip(batch, fetched, strict=True):
            if isinstance(item, KeyVaultError):
                errors.append(item)
                continue
            wipe(item)  # the data key in a wrapped key is always the same
            self.kept.prolong(kept, lease, drops=drops)
            errors.append(None)
        return errors

    def _replace(self, batch: Sequence[KeptKey]) -> Steps[list[KeyVaultError | None]]:
        return self.sealing.renew([kept.asked for kept in batch if isinstance(kept.asked, KeyRequest)])


_ASKED = KeyVaultError("the service must be asked")
