"""Setting Vault up from an administrator's token, as often as one likes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import stamina

from keyvault.errors import EngineMismatchError, TransitError
from keyvault.transit._calls import VaultCalls
from keyvault.transit.hashicorp import AppRoleCredentials, TokenCredentials, VaultSettings
from keyvault.vault_setup._items import Finding, Found, Item, all_items
from keyvault.vault_setup.roles import role_name

_UPGRADE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SetupStep:
    """What was done about one item."""

    item: str
    outcome: Literal["created", "updated", "already there"]


def set_up_vault(settings: VaultSettings, admin_token: str, audit_file: Path | None = None) -> list[SetupStep]:
    """Make or mend every item, and say what was done about each; a second run changes nothing.

    An audit device is enabled only where there is none and `audit_file` (a path on Vault's own machine) is given.
    `EngineMismatchError`, before anything is changed, when one of our mounts or keys exists and is of another kind;
    `PermissionDeniedError` when the token is not an administrator's; `Unavailable`.
    """
    with closing(VaultCalls(settings, TokenCredentials(token=admin_token))) as calls:
        items = all_items(calls, audit_file)
        _refuse_foreign(item for item in items if item.is_mount)
        wanted = items if audit_file else [item for item in items if item.name != "audit device" or _is_fine(item)]
        return [_set_up(item) for item in wanted]


def issue_credentials(settings: VaultSettings, admin_token: str, role: str) -> AppRoleCredentials:
    """Give the role's id with a new secret id, which does not expire. Earlier ones stay valid.

    `InvalidInputError` for an unknown role, `KeyMissingError` before `set_up_vault`.
    """
    name = role_name(settings, role)
    mount = settings.approle_mount
    with closing(VaultCalls(settings, TokenCredentials(token=admin_token))) as calls:
        approle = calls.client.auth.approle
        role_id = calls.call("read a role's id", lambda: approle.read_role_id(name, mount_point=mount))["role_id"]
        secret = calls.call("issue a secret id", lambda: approle.generate_secret_id(name, mount_point=mount))
    return AppRoleCredentials(role_id=role_id, secret_id=secret["secret_id"], role=name)


def _refuse_foreign(items: Iterable[Item]) -> None:
    for item in items:
        _refuse_if_foreign(item, item.look())


def _refuse_if_foreign(item: Item, found: Found) -> None:
    if found.finding is Finding.FOREIGN:
        raise EngineMismatchError(f"{item.name} in Vault is not this deployment's: {found.detail}; {item.remedy}")


def _is_fine(item: Item) -> bool:
    return item.look().finding is Finding.FINE


def _set_up(item: Item) -> SetupStep:
    # A KV store refuses everything for a moment after it was mounted, while it makes itself ready for versions.
    for attempt in stamina.retry_context(on=_is_upgrading, attempts=None, timeout=_UPGRADE_SECONDS, wait_max=1.0):
        with attempt:
            found = item.look()
            _refuse_if_foreign(item, found)
            if found.finding is Finding.FINE:
                return SetupStep(item=item.name, outcome="already there")
            item.mend()
    return SetupStep(item=item.name, outcome="created" if found.finding is Finding.MISSING else "updated")


def _is_upgrading(error: Exception) -> bool:
    return isinstance(error, TransitError) and "Upgrading from non-versioned" in str(error)
