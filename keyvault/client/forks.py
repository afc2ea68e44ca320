"""Clients in forked children: what they kept belongs to the parent, and so do its connections."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """A client that must begin anew in a child."""

    def begin_anew(self) -> None:
        """Wipe what was kept, and connect anew; take no lock that somebody in the parent may have held."""


_clients: WeakSet[Forked] = WeakSet()


def follow(client: Forked) -> None:
    """Have `client.begin_anew` called in forked children."""
    _clients.add(client)


def _in_child() -> None:
    for client in list(_clients):
        client.begin_anew()


os.register_at_fork(after_in_child=_in_child)
