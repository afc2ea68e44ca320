"""Which process has the service's end of a connection, as Linux tells it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def server_side(client: int, port: int) -> str | None:
    """Return the inode of the service's end of a connection, by the client's port."""
    wanted = (f":{port:04X}", f":{client:04X}")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted[0]) and fields[2].endswith(wanted[1]):
            return fields[9]
    return None


def holder_of(inode: str, processes: Sequence[int]) -> int | None:
    """Return which of some processes has a socket."""
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            try:
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    return process
            except OSError:
                continue
    return None


def descendants(process: int) -> list[int]:
    """Return the processes that a process, and those that it started, have started."""
    found = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [*found, *(other for child in found for other in descendants(child))]
