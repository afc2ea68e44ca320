"""Samples that nobody but the auditor can steer: the entries whose SHA-256(seed ‖ index) are the smallest. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

_DIGEST_BITS = 256
_SPARE = 8
"""How many more than are wanted are looked for at first, so that one pass nearly always finds enough."""


def choose(seed: str, count: int, size: int) -> list[int]:
    """Return `count` indices of a log of `size` entries (all, where there are fewer), in the order of their digests.

    What is hashed is the seed in UTF-8 and behind it the index in decimal digits, as `printf %s%d` writes them.
    """
    wanted = 2 * count + _SPARE
    while True:
        found = sorted(_below(seed.encode(), size, wanted))
        if len(found) >= min(count, size):
            return [index for _, index in found[:count]]
        wanted *= 2


def _below(seed: bytes, size: int, wanted: int) -> Iterator[tuple[bytes, int]]:
    """Give those with the smallest digests, about `wanted` of them: sorting all of a million would take seconds."""
    if wanted >= size:
        return ((sha256(seed + b"%d" % index).digest(), index) for index in range(size))
    bound = ((wanted << _DIGEST_BITS) // size).to_bytes(_DIGEST_BITS // 8, "big")
    return ((digest, index) for index in range(size) if (digest := sha256(seed + b"%d" % index).digest()) < bound)
