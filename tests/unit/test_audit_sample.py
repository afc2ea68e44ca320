"""Samples: what a seed chooses, worked out in the plainest way."""

from __future__ import annotations

from hashlib import sha256

import pytest

from shredder.audit.sample import choose


def plainly(seed: str, count: int, size: int) -> list[int]:
    return sorted(range(size), key=lambda index: sha256(f"{seed}{index}".encode()).digest())[:count]


@pytest.mark.parametrize("size", [0, 1, 2, 24, 25, 26, 255, 1_000, 5_000])
@pytest.mark.parametrize("count", [1, 25, 300])
@pytest.mark.parametrize("seed", ["", "2026-11-24", "ü"])
def test_the_smallest_digests_in_their_order(seed: str, count: int, size: int) -> None:
    assert choose(seed, count, size) == plainly(seed, count, size)


def test_another_seed_chooses_others() -> None:
    assert choose("a", 25, 5_000) != choose("b", 25, 5_000)
