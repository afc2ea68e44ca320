"""Envelope keys for scopes of data, made to be destroyed.

    from keyvault import open_vault

    with open_vault("home") as vault:
        vault.ensure_scopes(["consumer/acct-001/+15551000862"])
        envelope = vault.seal(b"Ada", ["consumer/acct-001/+15551000862"])
        assert vault.open(envelope) == b"Ada"

Names are imported when they are first used, so that reading the errors does not load a database driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from keyvault.client.remote import RemoteKeyVault as RemoteKeyVault
    from keyvault.client.remote_async import AsyncRemoteKeyVault as AsyncRemoteKeyVault
    from keyvault.process_hardening import harden_process as harden_process
    from keyvault.scopes import Scope as Scope
    from keyvault.scopes import ScopeKind as ScopeKind
    from keyvault.states import KeyState as KeyState
    from keyvault.values import DataKey as DataKey
    from keyvault.values import KeyRequest as KeyRequest
    from keyvault.values import OpenRequest as OpenRequest
    from keyvault.values import Reuse as Reuse
    from keyvault.values import RewrapRequest as RewrapRequest
    from keyvault.values import ScopeInfo as ScopeInfo
    from keyvault.values import SealRequest as SealRequest
    from keyvault.values import UnwrapRequest as UnwrapRequest
    from keyvault.values import WrapRequest as WrapRequest
    from keyvault.vault import KeyVault as KeyVault

_HOMES = {
    "AsyncRemoteKeyVault": "keyvault.client.remote_async",
    "KeyVault": "keyvault.vault",
    "RemoteKeyVault": "keyvault.client.remote",
    "Scope": "keyvault.scopes",
    "ScopeKind": "keyvault.scopes",
    "harden_process": "keyvault.process_hardening",
    "KeyState": "keyvault.states",
    **dict.fromkeys(
        (
            "DataKey",
            "KeyRequest",
            "OpenRequest",
            "Reuse",
            "RewrapRequest",
            "ScopeInfo",
            "SealRequest",
            "UnwrapRequest",
            "WrapRequest",
        ),
        "keyvault.values",
    ),
}

__all__ = [
    "AsyncRemoteKeyVault",
    "DataKey",
    "KeyRequest",
    "KeyState",
    "KeyVault",
    "OpenRequest",
    "RemoteKeyVault",
    "Reuse",
    "RewrapRequest",
    "Scope",
    "ScopeInfo",
    "ScopeKind",
    "SealRequest",
    "UnwrapRequest",
    "WrapRequest",
    "connect",
    "connect_async",
    "harden_process",
    "open_vault",
]


def open_vault(home: Path | str, *, role: str = "issuer", leased: bool = False) -> KeyVault:
    """Open the home in a directory, as `role`, and return its `KeyVault`; for `leased` see there.

    Raises `HomeNotFoundError`, `ConfigurationError`, `StoreVersionError`, `EngineMismatchError` or `Unavailable`.
    """
    from keyvault.home import open_home
    from keyvault.vault import KeyVault

    return KeyVault(open_home(home, role=role), leased=leased)


def connect(
    url: str | Sequence[str],
    *,
    token: str | Path | Callable[[], str],
    ca_file: Path | str | None = None,
    client_certificate: tuple[Path | str, Path | str] | None = None,
    timeout: float = 10.0,
    reuse: Reuse | bool = True,
    keep: int = 50_000,
) -> RemoteKeyVault:
    """Return the client of the service at `url`, or at several nodes of it, with the methods of `KeyVault`.

    `token` is a token, a path of a file that holds one, or what returns one; the last two are asked again when the service refuses the
    token. `ca_file` (PEM) says whose certificates are believed, in the place of the system's; `client_certificate` names the files (PEM) of
    a certificate and its key. `timeout`: seconds for a whole call, with all its retries. `reuse` limits what is sealed under one data key;
    False gives every message its own. `keep`: how many data keys are kept in memory, each for its lease; 0 keeps none.

    Nothing is asked of the service yet. Raises `ConfigurationError` for what cannot be used.
    """
    from keyvault.client.options import client_options
    from keyvault.client.remote import RemoteKeyVault

    return RemoteKeyVault(
        client_options(
            url,
            token=token,
            ca_file=ca_file,
            client_certificate=client_certificate,
            timeout=timeout,
            reuse=reuse,
            keep=keep,
        )
    )


def connect_async(
    url: str | Sequence[str],
    *,
    token: str | Path | Callable[[], str],
    ca_file: Path | str | None = None,
    client_certificate: tuple[Path | str, Path | str] | None = None,
    timeout: float = 10.0,
    reuse: Reuse | bool = True,
    keep: int = 50_000,
) -> AsyncRemoteKeyVault:
    """As `connect`, for programs on asyncio: the methods are coroutines."""
    from keyvault.client.options import client_options
    from keyvault.client.remote_async import AsyncRemoteKeyVault

    return AsyncRemoteKeyVault(
        client_options(
            url,
            token=token,
            ca_file=ca_file,
            client_certificate=client_certificate,
            timeout=timeout,
            reuse=reuse,
            keep=keep,
        )
    )


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
