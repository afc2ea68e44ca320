"""Samples that nobody but the auditor can steer: draw after draw from the log, each told by SHA-256(seed ‖ its number). Pure."""

from __future__ import annotations

from hashlib import sha256
from itertools import count as counted

_DIGITS = 15
"""Hexadecimal digits of a digest that a draw uses, 60 bits: a shell can reckon with them, and no entry is favoured by more than size / 2^60."""


def choose(seed: str, count: int, size: int) -> list[int]:
    """Return `count` indices of a log of `size` entries (all, where there are fewer), in the order in which they are drawn.

    Draws are numbered from 0. What is hashed is the seed in UTF-8 and behind it the draw's number in decimal digits, as `printf %s%d` writes them;
    the digest's first 15 hexadecimal digits, modulo `size`, are the index. One that was drawn before is passed over.
    """
    draws = (sha256(b"%s%d" % (seed.encode(), number)).hexdigest()[:_DIGITS] for number in counted())
    drawn: dict[int, None] = {}
    while len(drawn) < min(count, size):
        drawn[int(next(draws), 16) % size] = None
    return list(drawn)
