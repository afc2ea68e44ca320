"""Billing's rows with the scopes that a home has for them beside, so that who verifies a pack need not search for each."""

from __future__ import annotations

import csv
from io import StringIO
from typing import NamedTuple

from keyvault.events import b64
from keyvault.home import Home
from keyvault.store import scopes as scope_store
from shredder.audit.population import LOCATED, read_billing


class Located(NamedTuple):
    """Billing's file with the column more; how many rows say an account-month, and of how many there is a scope."""

    text: str
    rows: int
    found: int


def locate(home: Home, text: str, name: str) -> Located:
    """Write the commitment of each row's scope beside it, and nothing beside a row that has none, or says no account-month.

    `text` and `name`: billing's file. `InvalidInputError` as `read_billing`.
    """
    billed, _ = read_billing(text, name)
    lookups = {item.row: home.keys.lookup(item.canonical) for item in billed}
    rows = home.database.read(lambda connection: scope_store.newest_by_lookup(connection, lookups.values()))
    commitments = {line: b64(rows[lookup].commitment) for line, lookup in lookups.items() if lookup in rows}
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    header = next(reader)
    kept = [place for place, column in enumerate(header) if column != LOCATED]
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*(header[place] for place in kept), LOCATED])
    for row in reader:
        if row:
            filled = row + [""] * (len(header) - len(row))
            writer.writerow([*(filled[place] for place in kept), commitments.get(reader.line_num, "")])
    return Located(out.getvalue(), len(billed), len(commitments))
