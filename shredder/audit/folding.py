"""Reading a pack's entries for their meaning: into the completeness fold, and aside what has a proof file."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from keyvault.errors import VerificationError
from shredder.audit.entries import destructions
from shredder.audit.finding import Finding
from shredder.audit.fold import Fold, Ledger
from shredder.audit.manifest import MAX_PROOFS
from shredder.audit.tree import tile_at
from shredder.log.merkle import leaf_hash
from shredder.log.tiles import WIDTH, decode_bundle

_DATES = re.compile(rb'"(at|horizon)":"([0-9TZ:.-]+)"')


class Reading:
    """The entries of a pack, read in their order. `digests`: SHA-256 (hexadecimal) of the bundles, by path.

    `proven`: index and leaf hash (32 bytes) of the newest entries of destroyed keys; `latest`: the latest `at` and `horizon` in any of them.
    """

    def __init__(self, path: Path, size: int) -> None:
        """`size`: how many entries there are to be."""
        self._path = path
        self._size = size
        self._fold = Fold()
        self.read = 0
        self.digests: dict[str, str] = {}
        self.latest: dict[str, str] = {}
        self.proven: deque[tuple[int, bytes]] = deque(maxlen=MAX_PROOFS)

    def run(self, forms: Callable[[int], Sequence[Finding] | None], progress: Callable[[int], None]) -> None:
        """Read all entries, or as many as there are before a bundle that cannot be read, which is the tree's to say.

        `forms`: what another process found of the forms of the bundle that begins with an entry, or None.
        """
        for number in range(-(-self._size // WIDTH)):
            tile = tile_at(None, number, self._size)
            try:
                data = (self._path / tile.path).read_bytes()
                entries = decode_bundle(data)
            except (OSError, VerificationError):
                return
            if len(entries) != tile.width:
                return
            self.digests[tile.path] = sha256(data).hexdigest()
            self._fold.add_bundle(self.read, entries, forms(self.read))
            for index, entry in destructions(self.read, data, entries):
                self.proven.append((index, leaf_hash(entry)))
                self._note_dates(entry)
            self.read += len(entries)
            progress(len(entries))

    def _note_dates(self, entry: bytes) -> None:
        for match in _DATES.finditer(entry):
            name, instant = match[1].decode(), match[2].decode()
            self.latest[name] = max(instant, self.latest.get(name, ""))

    def finish(self, at: datetime) -> Ledger | None:
        """Return what the entries come to at a time; None unless all were read."""
        return self._fold.finish(at=at) if self.read == self._size else None
