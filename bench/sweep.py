"""A plan over a million scopes in PostgreSQL, and a sweep that finds nothing due. Rows are filled in by SQL; nothing is destroyed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.progress import peak_memory, say
from bench.rows import Row, at_most, best
from keyvault.home import Home, open_home
from keyvault.scopes import add_months, month_due_at
from shredder.policy_file import load_policy
from shredder.sweep import plan_sweep, sweep
from tests.homes import TestHome, vault_home
from tests.servers import PostgresServer, VaultServer

COMMAND = "make bench ARGS=sweep"
SCOPES = 1_000_000
ACCOUNTS = 20_000
MONTHS = 30
"""Of account-months: 25 that are live, and some that were destroyed when they were due."""
RING = 4_096
IDLE_ROUNDS = 5

# 60 of 100 rows are account-months, 25 consumers, 10 customer data, 4 users, 1 contacts; of what is past its month all is destroyed.
FILL = """
INSERT INTO scopes (id, generation, custody, ring_id, slot, kind, period, due_at, account, lookup, commitment, salt, sealed_name, state,
  created_at, destroyed_at, horizon)
SELECT decode(md5('id' || n), 'hex'), 1, 2, decode(md5('ring' || n / :ring), 'hex'), n % :ring, kind,
  CASE kind WHEN 'communications' THEN to_char(month, 'YYYY-MM') END,
  CASE kind WHEN 'communications' THEN (month + interval '26 months') AT TIME ZONE 'UTC' END,
  sha256(convert_to(CASE kind WHEN 'user' THEN 'user' || n WHEN 'marketing' THEN 'contact' || n ELSE 'account' || n % :accounts END, 'UTF8')),
  sha256(convert_to('lookup' || n, 'UTF8')), sha256(convert_to('commitment' || n, 'UTF8')),
  CASE kind WHEN 'communications' THEN sha256(convert_to('salt' || n, 'UTF8')) END,
  CASE WHEN gone THEN NULL ELSE decode(repeat(md5('sealed' || n), 8), 'hex') END,
  CASE WHEN gone THEN 'destroyed' ELSE 'active' END, :now, CASE WHEN gone THEN CAST(:now AS timestamptz) END,
  CASE WHEN gone THEN CAST(:now AS timestamptz) + interval '90 days' END
FROM (
  SELECT n, kind, month, kind = 'communications' AND (month + interval '26 months') AT TIME ZONE 'UTC' <= :now AS gone
  FROM (
    SELECT n, CASE WHEN n % 100 < 60 THEN 'communications' WHEN n % 100 < 85 THEN 'consumer' WHEN n % 100 < 95 THEN 'customer'
      WHEN n % 100 < 99 THEN 'user' ELSE 'marketing' END AS kind,
      CAST(:first AS timestamp) + interval '1 month' * (n / 100 % :months) AS month
    FROM generate_series(0, :last) AS n
  ) AS numbered
) AS made
"""
RINGS = """
INSERT INTO rings (id, incarnation, epoch, highest_version, capacity, chunks)
SELECT decode(md5('ring' || n), 'hex'), 1, 0, 1, :ring, 1 FROM generate_series(0, :last / :ring) AS n
"""
# Nobody's is due now: one in ten accounts has lapsed and one in twenty was settled, users and contacts have years to go.
SUBJECTS = """
INSERT INTO subjects (id, kind, status, suspend_at, due_at, settled)
SELECT sha256(convert_to('account' || n, 'UTF8')), 'account', CASE WHEN n % 20 = 0 THEN 'closed' WHEN n % 10 = 0 THEN 'lapsed' ELSE 'active' END,
  CASE WHEN n % 10 = 0 THEN CAST(:now AS timestamptz) END,
  CASE WHEN n % 20 = 0 THEN CAST(:now AS timestamptz) - interval '1 year'
    WHEN n % 10 = 0 THEN CAST(:now AS timestamptz) + interval '1 day' * (1 + n % 29) END, n % 20 = 0
FROM generate_series(0, :accounts - 1) AS n
UNION ALL
SELECT sha256(convert_to(CASE WHEN n % 100 = 99 THEN 'contact' ELSE 'user' END || n, 'UTF8')),
  CASE WHEN n % 100 = 99 THEN 'contact' ELSE 'user' END, 'active', NULL, CAST(:now AS timestamptz) + interval '1 day' * (1 + n % 390), FALSE
FROM generate_series(0, :last) AS n WHERE n % 100 >= 95
"""


def run(vault: VaultServer, postgres: PostgresServer) -> list[Row]:
    """Return the rows of this file."""
    count = int(SCOPES * float(os.environ.get("BENCH_SCALE", "1")))
    url = postgres.create_database()
    try:
        with tempfile.TemporaryDirectory() as folder:
            home = vault_home(Path(folder), vault, url)
            fill(home, count)
            command = [sys.executable, "-m", "bench.sweep", str(home.path)]
            done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    finally:
        postgres.drop_database(url)
    say(str(done))
    what = f"{count:,} scopes in PostgreSQL"
    return [
        Row(name=f"{what}: due in the plan", value=done["due"], unit="scopes", command=COMMAND),
        at_most(f"{what}: a plan", "s", done["plan"], 5, command=COMMAND),
        at_most(f"{what}: resident memory of the planning process", "MB", done["memory"], 200, command=COMMAND),
        at_most(f"{what}: a sweep with nothing due", "ms", done["idle"] * 1000, 200, command=COMMAND),
    ]


def fill(home: TestHome, count: int) -> None:
    """Write rings, scopes and subjects."""
    now = datetime.now(UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    oldest = first.replace(year=first.year - 3)
    values: dict[str, Any] = {
        "now": now,
        "ring": RING,
        "accounts": ACCOUNTS,
        "months": MONTHS,
        "last": count - 1,
        "first": add_months(oldest, 12 * 3 - MONTHS + 1).replace(tzinfo=None),
    }
    started = time.perf_counter()
    with home.opened() as opened:
        for statement in (RINGS, FILL, SUBJECTS):
            query = sa.text(statement)
            needed = {name: values[name] for name in query.compile().params}
            opened.database.write(partial(_execute, query=query, values=needed))
        with opened.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE scopes, subjects"))
    say(f"filled in {time.perf_counter() - started:.0f} s")


def _execute(connection: sa.Connection, *, query: sa.TextClause, values: dict[str, Any]) -> None:
    connection.execute(query, values)


def plan_seconds(home: Home) -> tuple[float, int]:
    """Plan for the time when all that has a date is due; return the seconds, and how much that is."""
    policy = load_policy(None)
    at = month_due_at(f"{home.clock.now():%Y-%m}") + timedelta(days=1)
    started = time.perf_counter()
    due = plan_sweep(home, policy, at).count
    return time.perf_counter() - started, due


def main(path: str) -> None:
    """Measure in a process of its own, and print JSON."""
    home = open_home(Path(path), role="shredder")
    idle = best(lambda: _idle(home), IDLE_ROUNDS)
    seconds, due = plan_seconds(home)
    print(json.dumps({"plan": seconds, "due": due, "idle": idle, "memory": peak_memory()}))
    home.close()


def _idle(home: Home) -> None:
    report = sweep(home, load_policy(None))
    assert (report.plan.count, report.destroyed) == (0, 0)


if __name__ == "__main__":
    main(sys.argv[1])
