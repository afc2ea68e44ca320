"""Tokens of the service: each issued once, and revoked at most once, after that. Pure."""

from __future__ import annotations

from shredder.audit.events import TokenIssued, TokenRevoked
from shredder.audit.finding import Findings
from shredder.audit.forms import moment


class Tokens:
    """Follows each token from its issue to its revocation."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._issued: set[str] = set()
        self._revoked: set[str] = set()

    def issue(self, event: TokenIssued) -> None:
        """Take in `token.issued`."""
        if event.token in self._issued:
            self._findings.add("id-used-twice", f"token {event.token} was issued before")
        self._issued.add(event.token)
        if moment(event.expires_at) <= moment(event.at):
            self._findings.add("wrong-dates", f"token {event.token} had expired when it was issued")
        if event.kinds is not None and event.kinds != sorted(set(event.kinds)):
            self._findings.add("listed-twice", f"token {event.token} is limited to a kind twice, or in another order")
        limited = any(limit is not None for limit in (event.accounts, event.kinds, event.purposes))
        if limited != (event.limits is not None):
            self._findings.add("malformed", f"token {event.token} has limits without their digest, or a digest of none")

    def revoke(self, event: TokenRevoked) -> None:
        """Take in `token.revoked`."""
        if event.token not in self._issued or event.token in self._revoked:
            self._findings.add("impossible-step", f"token {event.token} was not issued before, or is revoked already")
        self._revoked.add(event.token)
