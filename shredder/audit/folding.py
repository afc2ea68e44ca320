"""A pack's bundles, one behind the other: into its tree, into the completeness fold, and aside what has a proof file."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path

from shredder.audit.bundles import Bundle, Destroyed, look_at_each
from shredder.audit.fold import Fold, Ledger
from shredder.audit.manifest import MAX_PROOFS
from shredder.audit.tree import Tree
from shredder.audit.worker import Helper
from shredder.log.tiles import WIDTH

TOGETHER = 8
"""Bundles in a piece of work."""
_DATES = re.compile(rb'"(at|horizon)":"([0-9TZ:.-]+)"')


class Reading:
    """The entries of a pack, read in their order. `tree`: theirs.

    `proven`: the newest entries of destroyed keys; `latest`: the latest `at` and `horizon` in any of them.
    """

    def __init__(self, path: Path, size: int) -> None:
        """`size`: how many entries there are to be."""
        self._path = path
        self._size = size
        self._fold = Fold()
        self._read = 0
        self.tree = Tree(path, size)
        self.latest: dict[str, str] = {}
        self.proven: deque[Destroyed] = deque(maxlen=MAX_PROOFS)

    def run(self, helper: Helper, progress: Callable[[int], None]) -> None:
        """Read all bundles; their meaning only as far as there are entries, which is the tree's to say."""
        look = partial(look_at_each, self._path, self._size)
        last = -(-self._size // WIDTH)
        pieces = (range(first, min(first + TOGETHER, last)) for first in range(0, last, TOGETHER))
        for bundle in chain.from_iterable(helper.shared(look, pieces)):
            if not self.tree.add(bundle):
                return
            if bundle.read is not None and bundle.first == self._read:
                self._take(bundle)
                progress(self._fold.entries - self._read)
                self._read = self._fold.entries

    def _take(self, bundle: Bundle) -> None:
        self._fold.add_read(bundle.first, bundle.read or ())
        for destroyed in bundle.destroyed:
            self.proven.append(destroyed)
            for match in _DATES.finditer(destroyed.entry):
                name, instant = match[1].decode(), match[2].decode()
                self.latest[name] = max(instant, self.latest.get(name, ""))

    def finish(self, at: datetime) -> Ledger | None:
        """Return what the entries come to at a time; None unless all were read."""
        return self._fold.finish(at=at) if self._read == self._size else None
