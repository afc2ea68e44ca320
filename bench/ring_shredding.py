"""Shredding in ring custody, database and proof included, against the bare calls that delete transit keys."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from bench.custody import CONCURRENCY, PlainVault, plain
from bench.progress import consumers, create, say
from bench.rows import Row, compared
from keyvault.testing import ManualClock
from shredder.destroy import Destroyer
from tests.homes import TestHome
from tests.servers import PostgresServer, VaultServer

COMMAND = "make bench ARGS=ring"
SCOPES = 300_000
SHREDS = 100_000
MONTHS = 100_000
SINGLE = 40
RIVAL_KEYS = 2_000


def run(home: TestHome, server: VaultServer, _postgres: PostgresServer, scale: float) -> list[Row]:
    """Return the rows of this file."""
    names = consumers(int(SCOPES * scale))
    period = f"{datetime.now(UTC):%Y-%m}"
    months = [f"communications/bench-{index:06}/{period}" for index in range(int(MONTHS * scale))]
    with home.vault() as vault:
        create(vault, names, "scopes to shred some of")
        create(vault, months, "account-months")
    picked = random.Random(5).sample(names, int(SHREDS * scale) + SINGLE)
    with plain(home, server) as rival, home.destroyer() as destroyer:
        single, bare_single = single_latency(destroyer, rival, picked[:SINGLE])
        before = bare_rate(rival, "before")
        some = shred_rate(destroyer, picked[SINGLE:], "random scopes")
        with when_due(home) as later:
            due = shred_rate(later, months, "a due month")
        bare = ("concurrent config + delete", max(before, bare_rate(rival, "after")))
    return [
        compared(
            f"shredding {len(picked) - SINGLE:,} of {len(names):,} scopes",
            "/s",
            some,
            rival=bare,
            bar=20,
            command=COMMAND,
        ),
        compared(
            f"shredding a due month of {len(months):,} account-months", "/s", due, rival=bare, bar=50, command=COMMAND
        ),
        Row(
            name="shredding one scope",
            value=single * 1_000,
            unit="ms",
            rival="config + delete + read of one transit key",
            rival_value=bare_single * 1_000,
            ratio=single / bare_single,
            bar="≤ 8 ×",
            met=single <= 8 * bare_single,
            command=COMMAND,
        ),
    ]


class SimulatedFuture(ManualClock):
    """A clock beside which the database's does not count: else the earlier of both tells that no ring is due, and each is punctured."""

    simulated = True


@contextmanager
def when_due(home: TestHome) -> Iterator[Destroyer]:
    """Open the home with a clock that is 26 months ahead, when this month's account-months are due."""
    clock = SimulatedFuture(datetime.now(UTC) + timedelta(days=26 * 31))
    with patch("keyvault.home.make_clock", lambda _settings: clock), home.destroyer() as destroyer:
        yield destroyer


def shred_rate(destroyer: Destroyer, names: list[str], what: str) -> float:
    """Destroy in one call; return the rate."""
    started = time.perf_counter()
    outcomes = destroyer.destroy(names, ticket="bench", requested_by="bench")
    rate = len(names) / (time.perf_counter() - started)
    assert all(outcome.error is None for outcome in outcomes)
    say(f"shredded {what}: {len(names):,} at {rate:,.0f}/s")
    return rate


def single_latency(destroyer: Destroyer, rival: PlainVault, names: list[str]) -> tuple[float, float]:
    """Return the median seconds of shredding one scope, and of deleting one transit key, in turn."""
    ours, bare = [], []
    for index, name in enumerate(names):
        rival.call("POST", f"keys/single-{index}")
        started = time.perf_counter()
        delete_one(rival, f"single-{index}")
        assert rival.call("GET", f"keys/single-{index}").status == 404
        bare.append(time.perf_counter() - started)
        started = time.perf_counter()
        (outcome,) = destroyer.destroy([name], ticket="bench", requested_by="bench")
        ours.append(time.perf_counter() - started)
        assert outcome.error is None
    say(f"shredded one: {statistics.median(ours) * 1000:.1f} ms, rival {statistics.median(bare) * 1000:.1f} ms")
    return statistics.median(ours), statistics.median(bare)


def bare_rate(rival: PlainVault, mark: str) -> float:
    """Return the transit keys a second that Vault deletes for concurrent callers."""
    keys = [f"bare-{mark}-{index}" for index in range(RIVAL_KEYS)]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(lambda key: rival.call("POST", f"keys/{key}"), keys))
        started = time.perf_counter()
        list(pool.map(lambda key: delete_one(rival, key), keys))
        rate = RIVAL_KEYS / (time.perf_counter() - started)
    say(f"rival deletes {rate:,.0f} keys/s")
    return rate


def delete_one(rival: PlainVault, key: str) -> None:
    """Allow deletion and delete."""
    assert rival.call("POST", f"keys/{key}/config", {"deletion_allowed": True}).status == 200
    assert rival.call("DELETE", f"keys/{key}").status == 204
