"""Checking Vault without changing it: what is not as `set_up_vault` leaves it, and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from keyvault.errors import KeyVaultError
from keyvault.transit._calls import VaultCalls
from keyvault.transit.hashicorp import AppRoleCredentials, TokenCredentials, VaultSettings
from keyvault.vault_setup._items import Finding, Item, all_items
from keyvault.vault_setup.roles import role_name

_NOT_CHECKED = "not checked: needs an administrator's token in VAULT_TOKEN"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing looked at. `ok` is None where it could not be checked; `remedy` says how to mend what is not ok."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


def check_vault(
    settings: VaultSettings, admin_token: str | None, credentials: Mapping[str, AppRoleCredentials]
) -> list[Check]:
    """Look at every item, and log in with the credentials of each role in the mapping.

    Nothing in Vault is changed, except that each login makes a token, which is given back. Never raises for what it finds;
    `ConfigurationError` when `settings` name a CA file that cannot be used.
    """
    with closing(VaultCalls(settings, TokenCredentials(token=admin_token or ""))) as calls:
        reach = _check_reach(calls)
        if not all(check.ok for check in reach):
            return reach
        items = all_items(calls, audit_file=None)
        return [
            *reach,
            *(
                _check_item(item) if admin_token else Check(name=item.name, ok=None, detail=_NOT_CHECKED)
                for item in items
            ),
            *(_check_role(settings, role, given) for role, given in credentials.items()),
        ]


def _check_reach(calls: VaultCalls) -> list[Check]:
    name = "Vault answers, and its certificate is accepted"
    try:
        status = calls.call("read the seal's status", lambda: {"data": calls.client.sys.read_seal_status()})
    except KeyVaultError as error:
        remedy = "start Vault, or correct the address, the CA file or the namespace in the configuration"
        return [Check(name=name, ok=False, detail=str(error), remedy=remedy)]
    answers = Check(name=name, ok=True, detail=f"version {status['version']} at {calls.settings.addr}")
    if status["sealed"]:
        detail = "sealed" if status["initialized"] else "not initialized"
        remedy = "run `vault operator unseal`" if status["initialized"] else "run `vault operator init`"
        return [answers, Check(name="Vault is unsealed", ok=False, detail=detail, remedy=remedy)]
    return [answers, Check(name="Vault is unsealed", ok=True, detail="unsealed")]


def _check_item(item: Item) -> Check:
    try:
        found = item.look()
    except KeyVaultError as error:
        return Check(name=item.name, ok=False, detail=str(error), remedy=item.remedy)
    if found.finding is Finding.FINE:
        return Check(name=item.name, ok=True, detail=found.finding.value)
    return Check(name=item.name, ok=False, detail=found.detail, remedy=item.remedy)


def _check_role(settings: VaultSettings, role: str, credentials: AppRoleCredentials) -> Check:
    name = f"login of role {role}"
    wanted = [role_name(settings, role)]
    remedy = "remove the role's credentials file and run `keyvault init` with an administrator's token in VAULT_TOKEN; it issues new ones"
    with closing(VaultCalls(settings, credentials)) as calls:
        token = calls.client.auth.token
        try:
            policies = calls.call("look up its own token", token.lookup_self)["policies"]
            calls.call("revoke its own token", token.revoke_self)
        except KeyVaultError as error:
            return Check(name=name, ok=False, detail=str(error), remedy=remedy)
    if policies != wanted:
        has = ", ".join(policies)
        return Check(name=name, ok=False, detail=f"its token has {has}, not just {wanted[0]}", remedy=remedy)
    return Check(name=name, ok=True, detail=f"holds exactly {wanted[0]}")
