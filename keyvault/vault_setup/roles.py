"""The roles, their policies' texts and their AppRoles' settings."""

from __future__ import annotations

from importlib.resources import files
from string import Template
from typing import Any

from keyvault.errors import InvalidInputError
from keyvault.transit.hashicorp import VaultSettings

ROLES = (
    "issuer",
    "shredder",
    "sequencer",
    "auditor",
    "restorer",
    "operator",
    "platform",
    "requester",
    "approver",
    "break-glass",
)

_TOKEN_TTL = 3_600
_TOKEN_MAX_TTL = 86_400


def role_name(settings: VaultSettings, role: str) -> str:
    """Return the name of a role's policy and AppRole. `InvalidInputError` for a role that is not in `ROLES`."""
    if role not in ROLES:
        raise InvalidInputError(f"no role {role}; there are {', '.join(ROLES)}")
    return f"{settings.prefix}-{role}"


def policy_text(settings: VaultSettings, role: str) -> str:
    """Return a role's policy (HCL) for the mounts in `settings`."""
    role_name(settings, role)
    template = files("keyvault.vault_setup.policies").joinpath(f"{role}.hcl").read_text()
    return Template(template).substitute(transit=settings.transit_mount, log=settings.log_mount, kv=settings.kv_mount)


def approle_settings(settings: VaultSettings, role: str) -> dict[str, Any]:
    """Return what a role's AppRole must say. Times are in seconds; 0 means unlimited.

    The default policy is left out: among other things it would allow response wrapping and a store of the token's own.
    """
    return {
        "bind_secret_id": True,
        "secret_id_num_uses": 0,
        "secret_id_ttl": 0,
        "token_explicit_max_ttl": 0,
        "token_max_ttl": _TOKEN_MAX_TTL,
        "token_no_default_policy": True,
        "token_num_uses": 0,
        "token_period": 0,
        "token_policies": [role_name(settings, role)],
        "token_ttl": _TOKEN_TTL,
        "token_type": "service",
    }
