"""Files of policies that are there and cannot be read, and records of them."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import pytest
from sqlalchemy import text as sql
from sqlalchemy.engine import Connection

from keyvault.errors import ConfigurationError, StoreError
from keyvault.home import open_home
from shredder.policy_file import load_policy, policy_path
from tests.homes import embedded_home

BUILT_IN = (files("shredder") / "policy.toml").read_text()
OTHER = BUILT_IN.replace('"2026-11"', '"acme/2"')


def spoil(connection: Connection, body: str) -> None:
    connection.execute(sql("update system set policy = :body"), {"body": body})


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(BUILT_IN)
    assert load_policy(path).version == "2026-11"
    path.write_text(OTHER)
    assert load_policy(path).version == "acme/2"


def test_a_file_that_cannot_be_read_never_leaves_the_built_in_policy_in_force(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.symlink_to(tmp_path / "gone")
    assert policy_path(tmp_path) == path
    with pytest.raises(ConfigurationError, match=r"policy\.toml cannot be read: No such file"):
        load_policy(policy_path(tmp_path))
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigurationError, match=r"policy\.toml cannot be read: Is a directory"):
        load_policy(policy_path(tmp_path))
    with pytest.raises(ConfigurationError, match=r"policy\.toml cannot be read: Not a directory"):
        policy_path(Path(os.devnull))
    with pytest.raises(ConfigurationError, match=r"policy\.toml cannot be read: File name too long"):
        policy_path(tmp_path / ("x" * 300))


def test_a_file_in_another_encoding_is_refused_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(BUILT_IN.encode().replace(b"Marketing Data", "Märketing Data".encode("latin-1")))
    line = next(number for number, text in enumerate(BUILT_IN.splitlines(), 1) if "Marketing Data" in text)
    with pytest.raises(ConfigurationError, match=rf"policy\.toml, line {line}: this is not UTF-8"):
        load_policy(path)


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"version": "1", "digest": "zz", "refused_purposes": {}}', "null"])
def test_a_home_whose_record_cannot_be_read_does_not_open(tmp_path: Path, body: str) -> None:
    home = embedded_home(tmp_path)
    with home.opened() as opened:
        opened.database.write(lambda connection: spoil(connection, body))
    with pytest.raises(StoreError, match="the policy in the table `system` is not what this program writes"):
        open_home(home.path)
