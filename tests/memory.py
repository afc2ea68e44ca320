"""Reading another process's memory, as root: what a key's bytes are found in."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path


def forms(keys: Iterable[bytes]) -> list[bytes]:
    """Return each key as it is, and as it travels in JSON."""
    return [form for key in keys for form in (bytes(key), base64.b64encode(key))]


def occurrences(pid: int, needles: Mapping[str, Iterable[bytes]]) -> dict[str, int]:
    """Return how many of each group's needles are found anywhere in the writable memory of a process."""
    found: dict[str, set[bytes]] = {group: set() for group in needles}
    for region in _regions(pid):
        for group, some in needles.items():
            found[group].update(needle for needle in some if needle not in found[group] and needle in region)
    return {group: len(some) for group, some in found.items()}


def _regions(pid: int) -> Iterable[bytes]:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in place.split("-"))
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except OSError:  # unmapped since, or never backed by memory
                continue
