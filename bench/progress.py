"""What long benchmarks have in common: batches of names, and a line on stderr that says how far they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from keyvault import KeyVault
from keyvault.results import values_of

BATCH = 10_000


def batches(names: Sequence[str], size: int = BATCH) -> Iterator[Sequence[str]]:
    """Cut names into batches."""
    for start in range(0, len(names), size):
        yield names[start : start + size]


def create(vault: KeyVault, names: Sequence[str], doing: str) -> float:
    """Create scopes in batches; return the seconds it took."""
    started = time.perf_counter()
    done = 0
    for batch in batches(names):
        values_of(vault.ensure_scopes(batch))
        done += len(batch)
        say(f"{doing}: {done:,} of {len(names):,}, {done / (time.perf_counter() - started):,.0f}/s")
    return time.perf_counter() - started


def say(text: str) -> None:
    """Tell where a long benchmark is."""
    print(f"  {text}", file=sys.stderr, flush=True)


def consumers(count: int, mark: str = "bench") -> list[str]:
    """Return names of consumers, a hundred an account."""
    return [f"consumer/{mark}-{index // 100:05}/+1555{index:07}" for index in range(count)]


def peak_memory(process: str = "self") -> float:
    """Return the peak of a process's resident memory, in MB: of this one, or by its id. Not from getrusage, which inherits its parent's."""
    with open(f"/proc/{process}/status") as status:  # noqa: PTH123
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
