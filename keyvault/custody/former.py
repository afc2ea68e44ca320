"""Scopes that came over from dedicated custody. Until they are destroyed they have two keys, and a destruction takes both.

Everything new goes under the ring. What was put under the scope's own key before stays there, and so does its sealed name: nothing is
encrypted again, so that a move is one change of a row. The row keeps `key_ref`, which a scope created in a ring never has.
"""

from __future__ import annotations

from typing import overload

from keyvault.store.issuable import IssuableScope
from keyvault.store.scopes import ScopeRow
from keyvault.wrapped import CustodyCode


@overload
def former(row: ScopeRow) -> ScopeRow | None: ...
@overload
def former(row: IssuableScope) -> IssuableScope | None: ...
@overload
def former(row: ScopeRow | IssuableScope) -> ScopeRow | IssuableScope | None: ...
def former(row: ScopeRow | IssuableScope) -> ScopeRow | IssuableScope | None:
    """Return the row of a scope that was moved as dedicated custody knows it; None for any other scope."""
    if row.key_ref is None or row.custody == CustodyCode.DEDICATED:
        return None
    return row._replace(custody=CustodyCode.DEDICATED.value, ring_id=None, slot=None, ring_epoch=0)


def named_in(row: ScopeRow) -> ScopeRow:
    """Return the row as the custody knows it whose key the scope's name is sealed under."""
    return former(row) or row
