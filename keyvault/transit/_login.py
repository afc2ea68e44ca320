"""Logging in to Vault and staying so.

A token is renewed at two thirds of its lifetime, by whichever request comes first; others go on with it meanwhile. When a
renewal gives less than was asked for, the maximum is near, and the next time there is a new login instead. After a
403 one thread at a time asks `lookup-self`: if the token stands, the role may not do it; if not, that thread logs in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import hvac
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultError

from keyvault.errors import PermissionDeniedError, TransitError, Unavailable
from keyvault.transit.vault_settings import VaultSettings

_RENEW_AT = 2 / 3


@dataclass(frozen=True, kw_only=True, slots=True)
class AppRoleCredentials:
    """An AppRole's role id and secret id; `role` is its name, for messages."""

    role_id: str
    secret_id: str = field(repr=False)
    role: str = "unnamed"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCredentials:
    """A token somebody else looks after: neither renewed nor replaced."""

    token: str = field(repr=False)
    role: str = "administrator"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lease:
    refresh_at: float
    ends_at: float
    full_ttl: int
    renewable: bool


class Session:
    """Keeps `client.token` valid. Times are those of `clock`, in seconds; `generation` counts the tokens had.

    `login_client` shares the pool and carries no token.
    """

    def __init__(
        self,
        *,
        settings: VaultSettings,
        client: hvac.Client,
        login_client: hvac.Client,
        credentials: AppRoleCredentials | TokenCredentials,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._client = client
        self._login_client = login_client
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()
        self._lease: _Lease | None = None
        self.generation = 0
        if isinstance(credentials, TokenCredentials):
            client.token = credentials.token

    @property
    def role(self) -> str:
        """The role's name, for messages."""
        return self._credentials.role

    def ensure(self) -> None:
        """Log in, renew or do nothing. `PermissionDeniedError` when the credentials are refused; `Unavailable`."""
        if isinstance(self._credentials, TokenCredentials):
            return
        lease = self._lease
        now = self._clock()
        if lease is not None and now < lease.refresh_at:
            return
        # While the token still holds, one thread refreshes it and the others need not wait.
        if self._lock.acquire(blocking=lease is None or now >= lease.ends_at):
            try:
                if self._lease is lease:
                    self._refresh(self._credentials, lease)
            finally:
                self._lock.release()

    def recover(self, generation: int, *, doing: str) -> None:
        """After a 403 under the token of `generation`: return if trying again makes sense, else `PermissionDeniedError`.

        `doing` names the kind of call, never the key it was about.
        """
        with self._lock:
            if self.generation != generation:
                return
            if self._token_stands():
                raise PermissionDeniedError(
                    f"the Vault role {self.role} may not {doing}; write its policy again with `keyvault init`"
                )
            if isinstance(self._credentials, TokenCredentials):
                raise PermissionDeniedError(
                    f"Vault at {self._settings.addr} does not accept the {self.role}'s token: wrong, expired or revoked"
                )
            self._login(self._credentials)

    def _token_stands(self) -> bool:
        try:
            self._client.auth.token.lookup_self()
        except Forbidden:
            return False
        return True

    def _refresh(self, credentials: AppRoleCredentials, lease: _Lease | None) -> None:
        if lease is None or not lease.renewable or self._clock() >= lease.ends_at:
            self._login(credentials)
            return
        asked_at = self._clock()
        try:
            auth = self._client.auth.token.renew_self()["auth"]
        except (Forbidden, InvalidRequest, Unavailable):
            # Revoked, over, or past the maximum, which Vault answers with 500. If Vault is not there, the login says so too.
            self._login(credentials)
            return
        self._lease = _lease(auth["lease_duration"], asked_at, full_ttl=lease.full_ttl, renewable=auth["renewable"])

    def _login(self, credentials: AppRoleCredentials) -> None:
        asked_at = self._clock()
        try:
            auth = self._login_client.auth.approle.login(
                role_id=credentials.role_id,
                secret_id=credentials.secret_id,
                use_token=False,
                mount_point=self._settings.approle_mount,
            )["auth"]
        except (InvalidRequest, Forbidden, InvalidPath):
            # Not chained: the frames below hold the secret id, and some tracebacks print locals.
            raise PermissionDeniedError(
                f"Vault at {self._settings.addr} refuses the login of role {self.role}: its role id or secret id is wrong, "
                f"expired or revoked, or there is no AppRole mount {self._settings.approle_mount}; "
                "remove the file and run `keyvault init` with an administrator's token, which issues new ones"
            ) from None
        except VaultError as error:
            raise TransitError(f"the login of role {self.role} failed: {error}") from error
        self._client.token = auth["client_token"]
        ttl = auth["lease_duration"]
        self._lease = _lease(ttl, asked_at, full_ttl=ttl, renewable=auth["renewable"])
        self.generation += 1


def _lease(ttl: int, start: float, *, full_ttl: int, renewable: bool) -> _Lease:
    return _Lease(
        refresh_at=start + ttl * _RENEW_AT,
        ends_at=start + ttl,
        full_ttl=full_ttl,
        renewable=renewable and ttl >= full_ttl,
    )
