"""Whether a database knows all that the log has: asked by whatever destroys what the database does *not* know of.

A restored copy forgets scopes. Each of them has, or had, a key only if its creation is in the log, and the log goes on only from a database
whose events are those that it has.
"""

from __future__ import annotations

from keyvault.errors import RestoreDetected
from keyvault.home import Home
from keyvault.log_head import read_head
from keyvault.store import log as log_store


def require_current(home: Home) -> None:
    """Return once all events of the database are in the log, and if the log has no others. Needs the shredder's rights.

    Raises `RestoreDetected`; `LogError` or `Unavailable` where the log cannot go on.
    """
    home.log.settle()
    head = read_head(home.engine, home.log.context.incarnation)
    known = home.database.read(log_store.following)  # read last: indices are committed before the head moves
    if known < head.size:
        raise RestoreDetected(
            f"the log has {head.size} entries, and the database knows of {known}: it was restored from a backup, and nothing is deleted "
            "because it does not know of it"
        )
