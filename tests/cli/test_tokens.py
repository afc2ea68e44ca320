"""`token`: issue, revoke, list, as those who run the service type them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyvault.errors import Unavailable
from keyvault.log import HomeLog
from keyvault.tokens import parse_token
from shredder.log.directory import LogDirectory
from tests.cli.conftest import Command
from tests.homes import TestHome

ISSUE = ("token", "issue", "--role", "issuer")


def events(home: TestHome) -> list[dict[str, object]]:
    """Return the events of tokens that are in the log's files."""
    with home.opened("issuer") as opened:
        head = opened.log_directory
    log = LogDirectory(head)
    note = log.checkpoint()
    assert note is not None
    size = int(note.split(b"\n")[1])
    found = [json.loads(entry) for entry in log.entries(0, size)]
    return [event for event in found if str(event["type"]).startswith("token.")]


def test_a_token_is_shown_once_and_listed_without_its_secret(keyvault: Command) -> None:
    shown = keyvault(*ISSUE, "importer")
    assert shown.code == 0
    token = shown.out.strip()
    listed = keyvault("token", "list").out
    assert parse_token(token).id.hex() in listed
    assert "importer" in listed
    assert token.rpartition("_")[2] not in listed + keyvault("token", "list", "--json").out


def test_limits_are_listed_and_no_account_is_named_anywhere(keyvault: Command, small: TestHome) -> None:
    options = ["--account", "acct-secret-1", "--account", "acct-secret-2", "--kind", "consumer", "--purpose", "support"]
    made = keyvault(*ISSUE, *options, "--rate", "50", "desk", "--json").json
    assert (made["accounts"], made["kinds"], made["purposes"], made["rate"]) == (2, ["consumer"], ["support"], 50)
    (listed,) = keyvault("token", "list", "--json").json["tokens"]
    assert {**listed, "token": made["token"]} == made
    text = keyvault("token", "list").out
    assert text.split("\t")[2:7] == ["issuer", "consumer", "support", "2", "50"]
    for path in [*small.path.rglob("*"), *small.path.parent.joinpath("engine").rglob("*")]:
        if path.is_file():
            assert b"acct-secret" not in path.read_bytes(), path
    (event,) = events(small)
    assert (event["accounts"], event["kinds"], event["purposes"]) == (2, ["consumer"], 1)


def test_a_token_ends_when_it_is_told_to(keyvault: Command) -> None:
    def ends(*options: str) -> datetime:
        return datetime.fromisoformat(keyvault(*ISSUE, *options, "importer", "--json").json["expires_at"])

    now, minute = datetime.now(UTC), timedelta(minutes=5)
    assert abs(ends() - now - timedelta(days=90)) < minute
    assert abs(ends("--days", "7") - now - timedelta(days=7)) < minute
    assert ends("--expires", "2099-01-01T01:00:00+01:00") == datetime(2099, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("args", "code", "match"),
    [
        ([*ISSUE, "--expires", "2020-01-01T00:00:00Z", "a"], 2, "expired already"),
        ([*ISSUE, "--expires", "tomorrow", "a"], 2, "ISO 8601"),
        ([*ISSUE, "--expires", "2099-01-01T00:00:00", "a"], 2, "needs a zone"),
        ([*ISSUE, "--expires", "2099-01-01T00:00:00Z", "--days", "7", "a"], 2, "give one"),
        ([*ISSUE, "--kind", "person", "a"], 2, "person"),
        ([*ISSUE, "--account", "\u202e", "a"], 2, "segment"),
        ([*ISSUE, "--purpose", "", "a"], 2, "purpose"),
        ([*ISSUE, "Ada Lovelace"], 2, "not a person"),
        ([*ISSUE, ""], 2, "not a person"),
        (["token", "issue", "--role", "auditor", "--account", "acct-1", "a"], 2, "nothing would hold"),
        (["token", "issue", "--role", "emperor", "a"], 2, "emperor"),
        (["token", "issue", "a"], 2, "--role"),
        (["token", "revoke", "abc"], 1, "32 hexadecimal digits"),
        (["token", "revoke", "0" * 32], 1, "there is no token"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    keyvault: Command, args: list[str], code: int, match: str
) -> None:
    refused = keyvault(*args)
    assert (refused.code, refused.out) == (code, "")
    assert match in refused.error
    assert keyvault("token", "list", "--json").json == {"tokens": []}


def test_a_revocation_is_in_the_log_and_stays_the_first(keyvault: Command, small: TestHome) -> None:
    made = keyvault(*ISSUE, "importer", "--json").json
    first = keyvault("token", "revoke", made["id"], "--json")
    again = keyvault("token", "revoke", made["id"], "--json")
    assert first.json == again.json
    assert [event["type"] for event in events(small)] == ["token.issued", "token.revoked"]
    assert re.search("is revoked since", keyvault("token", "revoke", made["id"]).out)


def test_a_token_is_shown_only_when_the_log_has_it_and_a_revocation_holds_before(
    command: Callable[[Path], Command], small: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyvault = command(small.path)
    made = keyvault(*ISSUE, "importer", "--json").json

    def fails(_log: HomeLog) -> None:
        raise Unavailable("the log cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(HomeLog, "settle", fails)
        hidden = keyvault(*ISSUE, "hidden")
        assert (hidden.code, hidden.out) == (1, "")
        revoked = keyvault("token", "revoke", made["id"])
        assert (revoked.code, revoked.out) == (1, "")
    rows = {row["name"]: row for row in keyvault("token", "list", "--json").json["tokens"]}
    assert rows["importer"]["revoked_at"] is not None, "it is refused all the same"
    assert rows["hidden"]["revoked_at"] is None, "nobody has it"
    assert keyvault("token", "revoke", made["id"]).code == 0
    assert [event["type"] for event in events(small)] == ["token.issued", "token.issued", "token.revoked"]
