"""`python -m bench [formats] [custody] [service] [ring] [sweep] [log] [http] [audit]`, started by `make bench` beside the real servers."""

from __future__ import annotations

import sys

from bench import audit, custody, formats, http, log, ring, rows, service, sweep
from tests.servers import description

ALL = ("formats", "custody", "service", "ring", "sweep", "log", "http", "audit")

ALONE = {"formats": formats.run, "audit": audit.run}
SERVED = {
    "custody": custody.run,
    "service": service.run,
    "ring": ring.run,
    "sweep": sweep.run,
    "log": log.run,
    "http": http.run,
}


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks, or all; 1 when a bar is missed."""
    unknown = set(chosen) - set(ALL)
    if unknown:
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    servers = description.shared()
    results: list[rows.Row] = []
    for name in chosen or ALL:
        print(f"running {name} ...", file=sys.stderr, flush=True)
        if name in ALONE:
            results += ALONE[name]()
            continue
        if servers is None:
            print("this benchmark needs the servers: run it by `make bench`", file=sys.stderr)
            return 2
        results += SERVED[name](servers.vault, servers.postgres)
    rows.save(results)
    print(rows.table([vars(row) for row in results]))
    return 1 if any(row.met is False for row in results) else 0


sys.exit(main(sys.argv[1:]))
