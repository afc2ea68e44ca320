"""Samples: what a seed draws, worked out by the shell as the auditors' guide tells, and in full where all are drawn."""

from __future__ import annotations

import subprocess

import pytest

from shredder.audit.sample import choose

DRAWS = 'for i in $(seq 0 $(($3 - 1))); do digest=$(printf "%s%d" "$1" $i | sha256sum); echo $((0x${digest:0:15} % $2)); done'


def by_shell(seed: str, size: int, draws: int) -> list[int]:
    done = subprocess.run(
        ["bash", "-c", DRAWS, "draw", seed, str(size), str(draws)], capture_output=True, check=True, text=True
    )
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("size", [1, 26, 1_000_000])
@pytest.mark.parametrize("seed", ["", "2026-11-24", "ü %s\\n"])
def test_the_shell_draws_the_same(seed: str, size: int) -> None:
    drawn = list(dict.fromkeys(by_shell(seed, size, 30)))
    assert choose(seed, len(drawn), size) == drawn


@pytest.mark.parametrize("size", [0, 1, 2, 24, 25, 26, 1_000])
@pytest.mark.parametrize("count", [1, 25, 300])
def test_none_is_drawn_twice_and_all_where_there_are_no_more(count: int, size: int) -> None:
    drawn = choose("seed", count, size)
    assert len(drawn) == len(set(drawn)) == min(count, size)
    assert set(drawn) <= set(range(size))


def test_a_larger_sample_goes_on_where_a_smaller_one_ends() -> None:
    assert choose("seed", 300, 5_000)[:25] == choose("seed", 25, 5_000)


def test_another_seed_chooses_others() -> None:
    assert choose("a", 25, 5_000) != choose("b", 25, 5_000)
