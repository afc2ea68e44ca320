"""The policy that is in force: the home's `policy.toml` if there is one, else the built-in; and the record of its changes."""

from __future__ import annotations

from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path

from sqlalchemy.engine import Connection

from keyvault.errors import ConfigurationError
from keyvault.events import EventType, Value, b64, make_event
from keyvault.home import Home
from keyvault.scopes import REFUSED_PURPOSES
from keyvault.store import outbox, system
from keyvault.store.system import PolicyRow
from shredder.policy import Category, Policy
from shredder.policy_parsing import parse_policy
from shredder.reporting import rejudge

__all__ = ["POLICY_FILE", "home_policy", "load_policy", "parse_policy", "policy_path"]

POLICY_FILE = "policy.toml"

_parsed = lru_cache(maxsize=8)(parse_policy)  # by the text, never by the path: a file that was changed is read anew


def load_policy(path: Path | None) -> Policy:
    """Return the policy in a file, or the built-in one. `ConfigurationError` when it cannot be read, or something in it is wrong."""
    if path is None:
        return _parsed((files("shredder") / POLICY_FILE).read_bytes().decode(), "the built-in policy")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _parsed(raw.decode(), str(path))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}, line {line}: this is not UTF-8: save the file in it") from error


def policy_path(home: Path) -> Path | None:
    """Return the policy file of the home in this directory; None where the built-in policy applies.

    `ConfigurationError` when that cannot be told: a file that is there is never passed over.
    """
    path = home / POLICY_FILE
    try:
        path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    return path


def home_policy(home: Home) -> Policy:
    """Return the home's policy, recorded: whoever acts on a policy that the store does not know yet writes `policy.changed` first.

    Purposes that it refuses are refused by every vault that is opened afterwards. Raises as `load_policy`.
    """
    policy = load_policy(policy_path(home.path))
    stored = home.database.read(system.policy)
    if stored is None or stored.digest != policy.digest:
        # Before the change is recorded, so that a run that dies between the two is made up for by the next.
        rejudge(home, policy)
        home.database.write(partial(_record, home=home, policy=policy))
    return policy


def _record(connection: Connection, *, home: Home, policy: Policy) -> None:
    before = system.policy(connection, lock=True)
    if before is not None and before.digest == policy.digest:
        return  # another process was faster
    refused = {kind: category.refused_purposes for kind, category in policy.categories.items()}
    system.set_policy(
        connection,
        PolicyRow(version=policy.version, digest=policy.digest, refused_purposes={**REFUSED_PURPOSES, **refused}),
    )
    event = make_event(EventType.POLICY_CHANGED, _changed(before, policy), at=home.clock.now(), policy=policy.version)
    outbox.append(connection, [event])


def _changed(before: PolicyRow | None, policy: Policy) -> dict[str, Value]:
    """Return what the event says: all from which due dates are worked out, so that an auditor needs no copy of the file."""
    return {
        "version": policy.version,
        "digest": b64(policy.digest),
        "previous": None if before is None else {"version": before.version, "digest": b64(before.digest)},
        "facts_days": policy.facts_days,
        "categories": {str(kind): _numbers(category) for kind, category in policy.categories.items()},
    }


def _numbers(category: Category) -> dict[str, Value]:
    return {
        "rule": str(category.rule),
        "months": category.months,
        "grace_days": category.grace_days,
        "classes": dict(category.classes),
        "refused_purposes": sorted(category.refused_purposes),
    }
