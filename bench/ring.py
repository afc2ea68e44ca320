"""Ring custody on a real Vault and a real PostgreSQL, each figure beside its rival's: one file a question.

`BENCH_SCALE=0.1` tries it out with a tenth of the scopes; bars are meant for the whole.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import ring_cost, ring_issuing, ring_records, ring_scale, ring_shredding
from bench.rows import Row
from tests.homes import TestHome, vault_home
from tests.servers import PostgresServer, VaultServer

Part = Callable[[TestHome, VaultServer, PostgresServer, float], list[Row]]

PARTS: dict[str, Part] = {
    "issuing": ring_issuing.run,
    "shredding": ring_shredding.run,
    "records": ring_records.run,
    "scale": ring_scale.run,
    "cost": ring_cost.run,
}


def run(vault: VaultServer, postgres: PostgresServer) -> list[Row]:
    """Return the rows of all parts, or of those that `BENCH_RING` names; each has a home of its own."""
    scale = float(os.environ.get("BENCH_SCALE", "1"))
    chosen = os.environ.get("BENCH_RING", ",".join(PARTS)).split(",")
    rows: list[Row] = []
    for name in chosen:
        print(f"ring: {name} ...", file=sys.stderr, flush=True)
        url = postgres.create_database()
        try:
            with tempfile.TemporaryDirectory() as folder:
                rows += PARTS[name](vault_home(Path(folder), vault, url), vault, postgres, scale)
        finally:
            postgres.drop_database(url)
    return rows
