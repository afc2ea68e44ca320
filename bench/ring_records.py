"""Erasing single records of one account-month: how large its state becomes, and how long it takes."""

from __future__ import annotations

import time

from bench.progress import say
from bench.ring_issuing import month
from bench.rows import Row
from keyvault.custody.ring_sealing import folder
from keyvault.results import values_of
from keyvault.store.rings import all_ring_ids
from tests.homes import TestHome
from tests.servers import PostgresServer, VaultServer

COMMAND = "make bench ARGS=ring"
ERASED = (1, 100, 10_000, 50_000)


def run(home: TestHome, _server: VaultServer, _postgres: PostgresServer, scale: float) -> list[Row]:
    """Return the rows of this file: what each step from one number of erased records to the next costs."""
    with home.vault() as vault:
        values_of(vault.ensure_scopes([month(), month().replace("/bench/", "/neighbour/")]))
    rows = []
    done = 0
    with home.opened() as opened, home.destroyer() as destroyer:
        for total in (count for count in ERASED if count <= ERASED[-1] * scale or count == 1):
            records = [f"record-{index}" for index in range(done, total)]
            started = time.perf_counter()
            outcomes = destroyer.destroy_records(month(), records, ticket="bench", requested_by="bench")
            seconds = time.perf_counter() - started
            assert all(outcome.error is None for outcome in outcomes)
            (ring_id,) = opened.database.read(all_ring_ids)
            paths = [f"{folder(ring_id)}/{name}" for name in opened.engine.list_state(folder(ring_id))]
            size = sum(len(entry.value) for path in paths if (entry := opened.engine.get_state(path)))
            say(
                f"{total:,} records erased: {size:,} bytes in {len(paths)} entries, the last {total - done:,} in {seconds:.2f} s"
            )
            what = f"{total:,} records erased in one account-month"
            rows += [
                Row(name=f"{what}: state in Vault", value=size / 1_000, unit="kB", command=COMMAND),
                Row(name=f"{what}: the last {total - done:,} took", value=seconds, unit="s", command=COMMAND),
            ]
            done = total
    return rows
