"""Who sits at the keyboard. What a person claims does not count: the operating system says it, or Vault does of the token in use.

With the embedded engine the identity is the account of the process's real user id. With Vault it is the entity (an identity that all of
a person's logins and tokens share), so that another token of the same person is the same person.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from keyvault.errors import PermissionDeniedError
from keyvault.settings import Settings
from keyvault.transit.vault_settings import VaultSettings

TOKEN_VARIABLES = ("KEYVAULT_PERSON_TOKEN", "VAULT_TOKEN")
TOKEN_FILE = ".vault-token"  # noqa: S105 - the file's name


class Duty(StrEnum):
    """What a person does with a request; each is a role of Vault's of its own."""

    REQUEST = "requester"
    APPROVE = "approver"
    BREAK_GLASS = "break-glass"


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A person. `identity` never changes and is what pseudonyms are made of; `display` is for people to read.

    `policies`: what Vault lets the person do; None where there is no Vault, and the operating system's rights are all there is.
    """

    identity: str
    display: str
    policies: frozenset[str] | None = None


def identify(
    settings: Settings, duty: Duty, environment: Mapping[str, str] = os.environ, *, others: Collection[Duty] = ()
) -> Person:
    """Return who this is, and make sure that the person may do `duty`, or one of `others` that do as well.

    Raises `PermissionDeniedError` for a person that Vault does not know, or that lacks the policy PREFIX-ROLE; `Unavailable`.
    """
    if settings.vault is None:
        return system_user(os.getuid())
    person = _vault_person(settings.vault, _token(environment))
    policies = [f"{settings.vault.prefix}-{enough}" for enough in (duty, *others)]
    if not person.policies or person.policies.isdisjoint(policies):
        raise PermissionDeniedError(
            f"the token's owner lacks the Vault policy {' or '.join(policies)}: have an administrator give it to the person, or log in as somebody who has it"
        )
    return person


def system_user(uid: int) -> Person:
    """Return the operating system's user of a user id; its number stands for one without an account."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid-{uid}"
    return Person(identity=name, display=name)


def _token(environment: Mapping[str, str]) -> str:
    """Find the person's own token where Vault's program keeps it; never on the command line, where every user sees it."""
    for variable in TOKEN_VARIABLES:
        if environment.get(variable):
            return environment[variable]
    path = Path(environment.get("HOME") or Path.home()) / TOKEN_FILE
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        token = ""
    except (OSError, UnicodeDecodeError) as error:
        raise PermissionDeniedError(f"{path} cannot be read: log in with `vault login` again") from error
    if not token:
        raise PermissionDeniedError(
            f"Vault must say who this is: log in with `vault login`, or put your own token into {TOKEN_VARIABLES[0]}"
        )
    return token


def _vault_person(settings: VaultSettings, token: str) -> Person:
    from keyvault.transit._calls import VaultCalls
    from keyvault.transit._login import TokenCredentials

    with closing(VaultCalls(settings, TokenCredentials(token=token, role="person"))) as calls:
        found = calls.call("look up the person's own token", calls.client.auth.token.lookup_self)
    if not found.get("entity_id"):
        raise PermissionDeniedError(
            "Vault knows no person behind this token, as with root tokens and tokens of no login: log in with a login of your own"
        )
    policies = frozenset([*(found.get("policies") or ()), *(found.get("identity_policies") or ())])
    return Person(
        identity=found["entity_id"], display=found.get("display_name") or found["entity_id"], policies=policies
    )
