"""Issuing and revoking tokens: the row and its event in one transaction, and an answer once the event is in the log."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from sqlalchemy.engine import Connection

from keyvault.errors import InvalidInputError, UnknownTokenError
from keyvault.home import Home
from keyvault.limits import NO_LIMITS, Limits, account_subject, encode_limits
from keyvault.persons import Person
from keyvault.scopes import ScopeKind
from keyvault.store import outbox
from keyvault.store import tokens as token_store
from keyvault.store.tokens import TokenRow
from keyvault.token_events import issued, revoked
from keyvault.tokens import LIMITABLE, NewToken, Role, new_token

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
MAX_RATE: Final = 1_000_000


class TokenDesk:
    """Issues and revokes tokens of a home. Both wait for the log.

    A revocation that was acknowledged must outlive the database, since an older one would let the token in again: it is rebuilt from the
    log. A token is shown only once the log says who gave it to whom, so that there is no access without evidence.
    """

    def __init__(self, home: Home) -> None:
        """Work on `home`, which the caller closes."""
        self._home = home

    def limits(self, *, accounts: tuple[str, ...], kinds: tuple[str, ...], purposes: tuple[str, ...]) -> Limits:
        """Return limits in terms of accounts' names; none where a sort is empty. `InvalidInputError`."""
        pseudonyms = frozenset(self._home.keys.pseudonym_of(*account_subject(account)) for account in accounts)
        return Limits(
            accounts=pseudonyms or None,
            kinds=frozenset(map(ScopeKind, kinds)) or None,
            purposes=frozenset(purposes) or None,
        )

    def issue(
        self,
        name: str,
        role: Role,
        person: Person,
        *,
        expires_at: datetime,
        limits: Limits = NO_LIMITS,
        rate: int | None = None,
    ) -> tuple[NewToken, TokenRow]:
        """Make a token that `person` answers for; `rate`: calls per second of each worker, None for the role's own.

        Raises `InvalidInputError`, and what `LogGate.settle` does: the token is then in the store, and nobody has it.
        """
        made = new_token()
        row = self._row(made, name, role, person, expires_at=expires_at, limits=limits, rate=rate)

        def work(connection: Connection) -> None:
            token_store.insert(connection, row)
            outbox.append(connection, [issued(self._home.keys, row)])

        self._home.database.write(work)
        self._home.log.settle()
        return made, row

    def revoke(self, token_id: bytes, person: Person) -> datetime:
        """Revoke a token, and return since when it is. Revoking once more changes nothing, and waits for the log again.

        Every worker refuses it within a second of the commit. Raises `UnknownTokenError`, and what `LogGate.settle` does: the token is then revoked, and
        the same call again waits for the log.
        """
        by = self._home.keys.pseudonym_of("person", person.identity)
        at = self._home.clock.now()

        def work(connection: Connection) -> datetime:
            if token_store.revoke(connection, token_id, at=at):
                outbox.append(connection, [revoked(token_id, by, at=at)])
            row = token_store.by_id(connection, token_id)
            if row is None or row.revoked_at is None:
                raise UnknownTokenError(f"there is no token {token_id.hex()}: `keyvault token list` shows them")
            return row.revoked_at

        since = self._home.database.write(work)
        self._home.log.settle()
        return since

    def _row(
        self,
        made: NewToken,
        name: str,
        role: Role,
        person: Person,
        *,
        expires_at: datetime,
        limits: Limits,
        rate: int | None,
    ) -> TokenRow:
        now = self._home.clock.now()
        if NAME.fullmatch(name) is None:
            raise InvalidInputError(
                "a token's name has 1 to 64 lower-case letters, digits, dots, hyphens and underscores: it names a system, not a person"
            )
        if expires_at <= now:
            raise InvalidInputError("the token would have expired already: give a later time")
        if not limits.unlimited and role not in LIMITABLE:
            raise InvalidInputError(f"nothing would hold a token of the role {role} to its limits: issue it without")
        if rate is not None and not 1 <= rate <= MAX_RATE:
            raise InvalidInputError(f"a token makes 1 to {MAX_RATE} calls per second")
        return TokenRow(
            id=made.id,
            name=name,
            role=str(role),
            secret_hash=made.secret_hash,
            owner=self._home.keys.pseudonym_of("person", person.identity),
            limits=encode_limits(limits),
            rate=rate,
            created_at=now,
            expires_at=expires_at,
        )
