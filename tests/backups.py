"""Copies of a home's database, and homes on what is restored from them, beside the same engine."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.homes import TestHome
from tests.ring_homes import Ledger
from tests.servers import PostgresServer


@dataclass(kw_only=True)
class Backups:
    """Copies of a home's database, taken as its operators take them, and the names that each knows."""

    home: TestHome
    folder: Path
    postgres: PostgresServer | None
    taken: list[tuple[Path, frozenset[str]]] = field(default_factory=list)
    cleanup: ExitStack = field(default_factory=ExitStack)

    def take(self, ledger: Ledger) -> None:
        file = self.folder / f"backup-{len(self.taken)}"
        if self.postgres is None:
            with (
                closing(sqlite3.connect(self.home.path / "store.db")) as source,
                closing(sqlite3.connect(file)) as target,
            ):
                source.backup(target)
        else:
            self.postgres.dump(self.home.store_url, file)
        self.taken.append((file, frozenset(ledger.scopes)))

    def restored(self) -> list[tuple[TestHome, frozenset[str]]]:
        return [(self._restore(file), known) for file, known in self.taken]

    def _restore(self, file: Path) -> TestHome:
        place = file.with_name(f"{file.name}-home")
        if self.postgres is None:
            return self.home.copy(place, f"sqlite:///{file}")
        url = self.postgres.restore(file)
        self.cleanup.callback(self.postgres.drop_database, url)
        return self.home.copy(place, url)
