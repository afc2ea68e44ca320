"""`policy show`: what it prints, of which file, and that a mistake is named with its line."""

from __future__ import annotations

import os
import pty
import subprocess
from importlib.resources import files

from keyvault.scopes import ScopeKind
from shredder.policy import Reason
from shredder.policy_file import home_policy, load_policy
from tests.cli.conftest import PROGRAM, ROOT, Command
from tests.homes import TestHome

BUILT_IN = (files("shredder") / "policy.toml").read_text()


def test_the_built_in_policy_as_text(keyvault: Command) -> None:
    result = keyvault("policy", "show")
    assert (result.code, result.err) == (0, "")
    head, categories, refusals, limits = result.out.split("\n\n")
    assert head.splitlines() == [
        "policy        2026-11",
        "file          built in",
        "recorded      no: the next facts, request or sweep does it",
        "contact       privacy@example.com",
    ]
    rows = [line.split("\t") for line in categories.splitlines()]
    assert rows == [
        [
            "communications",
            "Communication Records",
            "customer",
            "25 months after the month's end",
            "customer; single records, too",
            "-",
        ],
        [
            "consumer",
            "Customer Data: a consumer's PII",
            "customer",
            "when the account is closed, or 30 days after it lost its good standing",
            "customer",
            "-",
        ],
        [
            "customer",
            "Customer Data: configuration, credentials, greetings",
            "customer",
            "when the account is closed, or 30 days after it lost its good standing",
            "customer; while the account is active, of the types: credentials, greetings",
            "-",
        ],
        [
            "user",
            "User data",
            "company",
            "when no access is left and 13 months have passed since the last sign-in",
            "nobody",
            "-",
        ],
        ["marketing", "Marketing Data", "company", "when marked no longer valuable", "individual", "-"],
        [
            "business",
            "Business Records",
            "company",
            "months after the year's end by class: accounting 120, tax 84, operations 36",
            "nobody",
            "marketing",
        ],
    ]
    told = [line.split("\t") for line in refusals.splitlines()]
    assert [row[0] for row in told] == [str(reason) for reason in Reason]
    assert all("Questions: privacy@example.com." in row[2] for row in told)
    assert [line.split("\t")[0] for line in limits.splitlines()] == [
        "unconfirmed",
        "clock",
        "answer",
        "approval",
        "facts",
    ]
    assert "1000 scopes; 5 % of the live ones, from 1000 on" in limits


def test_everything_as_json(keyvault: Command) -> None:
    result = keyvault("policy", "show", "--json")
    answer, policy = result.json, load_policy(None)
    assert (result.code, answer["file"], answer["recorded"]) == (0, None, False)
    assert (answer["version"], answer["digest"]) == (policy.version, policy.digest.hex())
    assert (answer["answer_days"], answer["approval_days"], answer["facts_days"]) == (30, 30, 7)
    assert answer["limits"] == {"scopes": 1000, "percent": 5, "percent_from": 1000, "clock_jump_days": 2}
    assert list(answer["categories"]) == list(ScopeKind)
    assert answer["categories"]["customer"] == {
        "name": "Customer Data: configuration, credentials, greetings",
        "scopes": ["customer/ACCOUNT/TYPE", "customer/ACCOUNT/TYPE/ID"],
        "owner": "customer",
        "rule": "account",
        "months": None,
        "grace_days": 30,
        "classes": {},
        "early": ["customer"],
        "early_types": ["credentials", "greetings"],
        "records": False,
        "refused_purposes": [],
    }
    assert list(answer["refusals"]) == list(Reason)
    assert answer["refusals"]["legal-hold"]["reply"].endswith("Questions: privacy@example.com.")


def test_a_homes_own_policy_and_whether_it_is_recorded(keyvault: Command, small: TestHome) -> None:
    path = small.path / "policy.toml"
    path.write_text(BUILT_IN.replace('"2026-11"', '"acme/2"').replace("months = 25", "months = 12"))
    assert keyvault("policy", "show", "--json").json["recorded"] is False
    with small.opened() as opened:
        home_policy(opened)
    answer = keyvault("policy", "show", "--json").json
    assert (answer["file"], answer["recorded"], answer["version"]) == (str(path), True, "acme/2")
    assert answer["categories"]["communications"]["months"] == 12
    text = keyvault("policy", "show").out
    assert f"file          {path}\nrecorded      yes\n" in text
    assert "12 months after the month's end" in text


def test_showing_changes_nothing(keyvault: Command) -> None:
    keyvault("policy", "show")
    assert keyvault("policy", "show", "--json").json["recorded"] is False


def test_a_mistake_is_named_with_its_line(keyvault: Command, small: TestHome) -> None:
    path = small.path / "policy.toml"
    path.write_text(BUILT_IN.replace("months = 25", "months = 60"))
    result = keyvault("policy", "show")
    assert (result.code, result.out) == (1, "")
    assert result.error == (
        f"{path}, line 21: categories.communications.months must be a whole number from 1 to 25: no communications are kept longer"
    )
    broken = keyvault("policy", "show", "--json")
    assert (broken.code, broken.json["error"]["type"]) == (1, "ConfigurationError")


def test_without_a_home_there_is_no_policy_to_show(keyvault: Command, small: TestHome) -> None:
    (small.path / "keyvault.toml").unlink()
    assert (keyvault("policy", "show").code, "there is no home in" in keyvault("policy", "show").error) == (1, True)


def test_on_a_terminal_the_policy_is_a_table(small: TestHome) -> None:
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "--home", str(small.path), "policy", "show"]
    process = subprocess.Popen(command, stdout=theirs, cwd=ROOT, env={**os.environ, "COLUMNS": "200", "TERM": "xterm"})
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # how a terminal ends
        pass
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    for heading in ("scopes", "category", "owner", "due", "refused", "to send back", "limit"):
        assert heading in text
    assert "│ communications │" in text
