"""What must be in Vault, item by item: how to look whether it is, and how to mend it.

Set-up and checks both go through this list, so that neither knows of an item that the other does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from keyvault.errors import KeyMissingError
from keyvault.transit._calls import VaultCalls
from keyvault.transit._http import EVENT_HEADER
from keyvault.transit.hashicorp import KEY_TYPE, LOG_KEY, LOG_KEY_TYPE
from keyvault.vault_setup.roles import ROLES, approle_settings, policy_text, role_name

SYSTEM_KEY = "system"

_KV_CONFIG = {"max_versions": 1, "cas_required": True}
_AUDIT_MOUNT = "file"


class Finding(Enum):
    """How an item was found. What is FOREIGN is not ours to mend."""

    FINE = "as it should be"
    MISSING = "missing"
    DIFFERENT = "different"
    FOREIGN = "foreign"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A finding and, unless it is FINE, what exactly was found."""

    finding: Finding
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing in Vault. `is_mount` items are all looked at before anything is changed."""

    name: str
    look: Callable[[], Found]
    mend: Callable[[], object]
    is_mount: bool = False
    remedy: str = "run `keyvault init` again with an administrator's token in VAULT_TOKEN"


def all_items(calls: VaultCalls, audit_file: Path | None) -> list[Item]:
    """Return every item, in the order in which they can be made. Looking and mending raise as `VaultCalls.call`."""
    settings = calls.settings
    return [
        _audit_device(calls, audit_file),
        _audited_header(calls),
        _secrets_mount(calls, settings.transit_mount, "transit"),
        _secrets_mount(calls, settings.log_mount, "transit"),
        _secrets_mount(calls, settings.kv_mount, "kv"),
        _approle_mount(calls),
        _no_upsert(calls, settings.transit_mount),
        _kv_config(calls),
        _key(calls, settings.transit_mount, SYSTEM_KEY, KEY_TYPE),
        _key(calls, settings.log_mount, LOG_KEY, LOG_KEY_TYPE),
        *(_policy(calls, role) for role in ROLES),
        *(_approle(calls, role) for role in ROLES),
    ]


def _audit_device(calls: VaultCalls, audit_file: Path | None) -> Item:
    def look() -> Found:
        devices = calls.call("list audit devices", calls.client.sys.list_enabled_audit_devices)
        return Found(finding=Finding.FINE) if devices else Found(finding=Finding.MISSING, detail="no audit device")

    def mend() -> None:
        calls.call(
            "enable an audit device",
            lambda: calls.client.sys.enable_audit_device(
                "file", options={"file_path": str(audit_file)}, path=_AUDIT_MOUNT
            ),
        )

    return Item(
        name="audit device",
        look=look,
        mend=mend,
        remedy="run `keyvault init` again, naming an audit file that Vault's own user may write",
    )


def _audited_header(calls: VaultCalls) -> Item:
    path = "sys/config/auditing/request-headers"

    def look() -> Found:
        headers = calls.call("read audited headers", lambda: calls.client.read(path))["headers"]
        # Vault keeps header names in lower case.
        return _compare({"hmac": False}, headers.get(EVENT_HEADER.lower()))

    def mend() -> None:
        calls.call("audit a header", lambda: calls.client.write_data(f"{path}/{EVENT_HEADER}", data={"hmac": False}))

    return Item(name=f"audited header {EVENT_HEADER}", look=look, mend=mend)


def _secrets_mount(calls: VaultCalls, mount: str, kind: str) -> Item:
    # Only the version that KV's mount names tells its two kinds apart.
    options = {"version": "2"} if kind == "kv" else {}

    def look() -> Found:
        mounts = calls.call("list mounts", calls.client.sys.list_mounted_secrets_engines)
        return _mount_found(mounts.get(f"{mount}/"), kind, options)

    def mend() -> None:
        enable = calls.client.sys.enable_secrets_engine
        calls.call("enable a secrets engine", lambda: enable(kind, path=mount, options=options or None))

    return Item(name=f"mount {mount}", look=look, mend=mend, is_mount=True, remedy=_mount_remedy())


def _approle_mount(calls: VaultCalls) -> Item:
    mount = calls.settings.approle_mount

    def look() -> Found:
        return _mount_found(
            calls.call("list auth methods", calls.client.sys.list_auth_methods).get(f"{mount}/"), "approle", {}
        )

    def mend() -> None:
        calls.call(
            "enable an auth method", lambda: calls.client.sys.enable_auth_method(method_type="approle", path=mount)
        )

    return Item(name=f"auth mount {mount}", look=look, mend=mend, is_mount=True, remedy=_mount_remedy())


def _mount_remedy() -> str:
    return "run `keyvault init` again; if the mount belongs to something else, give this deployment another mount name"


def _mount_found(mount: Mapping[str, Any] | None, kind: str, options: Mapping[str, str]) -> Found:
    if mount is None:
        return Found(finding=Finding.MISSING, detail="not mounted")
    if mount["type"] != kind:
        return Found(finding=Finding.FOREIGN, detail=f"it is of type {mount['type']}, not {kind}")
    has = mount.get("options") or {}
    if any(has.get(name) != value for name, value in options.items()):
        return Found(finding=Finding.FOREIGN, detail=f"it has version {has.get('version', '1')}, not 2")
    return Found(finding=Finding.FINE)


def _no_upsert(calls: VaultCalls, mount: str) -> Item:
    path = f"{mount}/config/keys"

    def look() -> Found:
        return _compare(
            {"disable_upsert": True}, calls.call("read the keys' configuration", lambda: calls.client.read(path) or {})
        )

    def mend() -> None:
        calls.call("configure keys", lambda: calls.client.write_data(path, data={"disable_upsert": True}))

    return Item(name=f"no key made by encrypting in {mount}", look=look, mend=mend)


def _kv_config(calls: VaultCalls) -> Item:
    mount = calls.settings.kv_mount
    kv = calls.client.secrets.kv.v2

    def look() -> Found:
        return _compare(
            _KV_CONFIG,
            calls.call("read the key-value configuration", lambda: kv.read_configuration(mount_point=mount)),
        )

    def mend() -> None:
        calls.call("configure the key-value store", lambda: kv.configure(mount_point=mount, **_KV_CONFIG))

    return Item(name=f"one version and check-and-set in {mount}", look=look, mend=mend)


def _key(calls: VaultCalls, mount: str, name: str, kind: str) -> Item:
    transit = calls.client.secrets.transit
    wanted = {"type": kind, "exportable": False, "allow_plaintext_backup": False, "derived": False}

    def look() -> Found:
        try:
            key = calls.call("read a key", lambda: transit.read_key(name=name, mount_point=mount))
        except KeyMissingError:
            return Found(finding=Finding.MISSING, detail="no such key")
        found = _compare(wanted, key)
        # These cannot be taken back: what could be exported may have been.
        return found if found.finding is Finding.FINE else Found(finding=Finding.FOREIGN, detail=found.detail)

    def mend() -> None:
        calls.call("create a key", lambda: transit.create_key(name=name, key_type=kind, mount_point=mount))

    return Item(
        name=f"key {name} in {mount}",
        look=look,
        mend=mend,
        remedy="if it is missing, restore Vault, or run `keyvault init` for a new deployment; a key of another kind, or "
        "one that can be exported, cannot be mended: set up another mount",
    )


def _policy(calls: VaultCalls, role: str) -> Item:
    name = role_name(calls.settings, role)
    wanted = policy_text(calls.settings, role)

    def look() -> Found:
        try:
            policy = calls.call("read a policy", lambda: calls.client.sys.read_acl_policy(name))["policy"]
        except KeyMissingError:
            return Found(finding=Finding.MISSING, detail="no such policy")
        if policy != wanted:
            return Found(finding=Finding.DIFFERENT, detail="its text is not this version's")
        return Found(finding=Finding.FINE)

    def mend() -> None:
        calls.call("write a policy", lambda: calls.client.sys.create_or_update_acl_policy(name, wanted))

    return Item(name=f"policy {name}", look=look, mend=mend)


def _approle(calls: VaultCalls, role: str) -> Item:
    name = role_name(calls.settings, role)
    mount = calls.settings.approle_mount
    wanted = approle_settings(calls.settings, role)
    approle = calls.client.auth.approle

    def look() -> Found:
        try:
            return _compare(wanted, calls.call("read a role", lambda: approle.read_role(name, mount_point=mount)))
        except KeyMissingError:
            return Found(finding=Finding.MISSING, detail="no such role")

    def mend() -> None:
        calls.call("write a role", lambda: approle.create_or_update_approle(name, mount_point=mount, **wanted))

    return Item(name=f"AppRole {name}", look=look, mend=mend)


def _compare(wanted: Mapping[str, object], has: Mapping[str, object] | None) -> Found:
    if has is None:
        return Found(finding=Finding.MISSING, detail="not there")
    wrong = [f"{name} is {has.get(name)}, not {value}" for name, value in wanted.items() if has.get(name) != value]
    return Found(finding=Finding.DIFFERENT, detail="; ".join(wrong)) if wrong else Found(finding=Finding.FINE)
