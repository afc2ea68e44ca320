"""`keyvault request`: answers, exit codes, tables of requests, and what is malformed."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from keyvault import persons
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.settings import load_settings
from tests.cli.conftest import Command
from tests.homes import TestHome

ANN, BOB, SETTINGS = "consumer/acct-001/ann", "consumer/acct-001/bob", "customer/acct-001/settings"
COLUMNS = ("ticket", "from", "kind", "scope", "record", "account", "reason")


@pytest.fixture(autouse=True)
def _scopes(small: TestHome) -> None:
    with small.vault() as vault:
        values_of(vault.ensure_scopes([ANN, BOB, SETTINGS]))


def ask(ticket: str, *more: str, by: str = "customer", kind: str = "anonymize") -> list[str]:
    return ["request", "submit", "--ticket", ticket, "--from", by, "--kind", kind, *more, "--json"]


def states(keyvault: Command) -> dict[str, int]:
    found: dict[str, int] = keyvault("status", "--json").json["scopes"]
    return found


def test_from_the_ticket_to_the_end(keyvault: Command) -> None:
    taken = keyvault(*ask("T-1", "--scope", ANN, "--scope", BOB))
    assert (taken.code, taken.json["state"], taken.json["scopes"], taken.json["accounts"]) == (
        0,
        "awaiting-approval",
        2,
        1,
    )
    assert taken.json["irreversible"] is True
    assert keyvault(*ask("T-1", "--scope", BOB, "--scope", ANN)).json["id"] == taken.json["id"]
    request = taken.json["id"]
    shown = keyvault("request", "show", request)
    assert "cannot be undone" in shown.out
    assert "2 scopes (2 consumer)" in shown.out
    assert keyvault("request", "approve", request, "--plan").code == 0
    assert keyvault("request", "approve", request).code == 1, "nobody to type the count"
    assert states(keyvault)["active"] == 3
    assert request in keyvault("request", "list").out
    done = keyvault("request", "approve", request, "--yes", "--json")
    assert (done.code, done.json["state"], done.json["pending"]) == (0, "done", [])
    assert states(keyvault) == {"active": 1, "suspended": 0, "deactivated": 0, "destroyed": 2}
    assert keyvault("request", "list").out == ""
    assert [entry["state"] for entry in keyvault("request", "list", "--all", "--json").json["requests"]] == ["done"]
    assert keyvault("request", "cancel", request).code == 1
    late = keyvault(*ask("T-2", "--scope", ANN))
    assert (late.code, late.json["reason"], len(late.json["destroy_id"])) == (1, "already-destroyed", 32)


def test_a_refusal_says_why_and_what_to_answer(keyvault: Command) -> None:
    refused = keyvault("request", "submit", "--ticket", "T", "--from", "consumer", "--kind", "delete", "--scope", ANN)
    assert refused.code == 1
    assert "refused (consumer-direct)" in refused.out
    assert "Please ask the company that you talked to" in refused.out
    assert "privacy@example.com" in refused.out
    hold = keyvault(*ask("T-2", "--account", "acct-001", kind="hold"))
    assert (hold.code, hold.json["reason"], "account data export" in hold.json["reply"]) == (1, "legal-hold", True)


def test_ending_and_undeleting(keyvault: Command) -> None:
    first, second = (keyvault(*ask(ticket, "--scope", ANN)).json["id"] for ticket in ("T-1", "T-2"))
    assert keyvault("request", "reject", first, "--json").json["state"] == "rejected"
    assert keyvault("request", "cancel", second, "--json").json["state"] == "cancelled"
    assert keyvault("scope", "suspend", ANN).code == 0
    assert keyvault(*ask("T-3", "--scope", ANN, kind="undelete")).json["state"] == "done"
    assert states(keyvault)["suspended"] == 0


def test_shred_obeys_the_policy_and_leaves_a_request(keyvault: Command) -> None:
    refused = keyvault("shred", SETTINGS, "--ticket", "T", "--yes")
    assert (refused.code, "active-account" in refused.err) == (1, True)
    done = keyvault("shred", ANN, "--ticket", "T", "--yes", "--json")
    (entry,) = [
        found
        for found in keyvault("request", "list", "--all", "--json").json["requests"]
        if found["id"] == done.json["request"]
    ]
    assert (entry["state"], entry["kind"], entry["from"]) == ("done", "anonymize", "customer")


@pytest.mark.parametrize("approvals", [1, 2])
def test_shred_says_how_what_no_customer_decides_over_goes(
    tmp_path: Path, command: Callable[[Path], Command], approvals: int
) -> None:
    home, keyvault = home_with(tmp_path, command, approvals)
    with home.vault() as vault:
        values_of(vault.ensure_scopes(["marketing/contact-1", "user/u-1", ANN]))
    refused = keyvault("shred", "marketing/contact-1", "--ticket", "T-1", "--yes").err.splitlines()[-1]
    assert "not-entitled" in refused
    assert "keyvault request submit --ticket T --kind anonymize --scope NAME` with `--from individual`" in refused
    late = keyvault("shred", "user/u-1", "--ticket", "T-2", "--yes").err.splitlines()[-1]
    assert ("retention-required" in late, "`keyvault sweep` destroys them then" in late) == (True, True)
    both = keyvault("shred", ANN, "user/u-1", "--ticket", "T-3", "--yes").err.splitlines()[-1]
    assert ("for user scopes" in both, "for consumer scopes" in both, ANN in both) == (True, False, False)
    assert states(keyvault)["active"] == 3
    way = ["request", "submit", "--ticket", "T-4", "--kind", "anonymize", "--scope", "marketing/contact-1"]
    assert keyvault(*way, "--from", "individual", "--json").json["state"] == "awaiting-approval"


def home_with(folder: Path, command: Callable[[Path], Command], approvals: int) -> tuple[TestHome, Command]:
    """Make a home by `init` that requires so many approvals."""
    path = folder / f"home-{approvals}"
    keyvault = command(path)
    made = keyvault("init", "--approvals", str(approvals), "--engine-dir", folder / f"engine-{approvals}")
    assert made.code == 0, made.err
    return TestHome(path=path, store_url=load_settings(path).store), keyvault


# --- how many people --------------------------------------------------------------------------------------------------


def test_a_home_of_one_approval_lets_one_person_do_it_all(tmp_path: Path, command: Callable[[Path], Command]) -> None:
    home, keyvault = home_with(tmp_path, command, 1)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([ANN]))
    done = keyvault("shred", ANN, "--ticket", "T", "--yes", "--json")
    assert (done.code, done.json["approvals"], done.json["scopes"][0]["outcome"]) == (0, 1, "destroyed")


def test_a_home_of_two_approvals_takes_a_second_person(tmp_path: Path, command: Callable[[Path], Command]) -> None:
    home, keyvault = home_with(tmp_path, command, 2)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([ANN]))
    waits = keyvault("shred", ANN, "--ticket", "T", "--yes", "--json")
    assert (waits.code, waits.json["approvals"], waits.json["state"]) == (1, 2, "awaiting-approval")
    alone = keyvault("request", "approve", waits.json["request"], "--yes", "--json")
    assert (alone.code, alone.json["error"]["type"]) == (1, "SamePersonError")
    assert states(keyvault)["active"] == 1
    again = keyvault("init", "--approvals", "1")
    assert (again.code, load_settings(home.path).approvals) == (1, 2), "a settled home is not loosened by `init`"
    assert "approvals" in again.err


def test_break_glass_destroys_at_once_and_owes_a_second_persons_signature(
    tmp_path: Path, command: Callable[[Path], Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, keyvault = home_with(tmp_path, command, 2)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([ANN, BOB]))
    done = keyvault("shred", ANN, "--ticket", "T", "--yes", "--break-glass", "--json")
    assert (done.code, done.json["scopes"][0]["outcome"]) == (0, "destroyed")
    request = done.json["request"]
    assert request in keyvault("destroy", "status").out
    assert "OWED" in keyvault("request", "show", request).out
    own = keyvault("request", "approve", request, "--yes", "--json")
    assert (own.code, own.json["error"]["type"]) == (1, "SamePersonError")
    monkeypatch.setattr(persons, "system_user", lambda _uid: Person(identity="grace", display="Grace"))
    signed = keyvault("request", "approve", request, "--yes", "--json")
    assert (signed.code, signed.json["state"], signed.json["owes_approval"]) == (0, "done", False)
    assert keyvault("destroy", "status", "--json").json["approvals_owed"] == []
    assert states(keyvault) == {"active": 1, "suspended": 0, "deactivated": 0, "destroyed": 1}


def test_break_glass_obeys_the_policy_all_the_same(keyvault: Command) -> None:
    refused = keyvault("shred", SETTINGS, "--ticket", "T", "--yes", "--break-glass")
    assert (refused.code, "active-account" in refused.err) == (1, True)
    assert keyvault("destroy", "status", "--json").json["approvals_owed"] == []
    assert states(keyvault)["active"] == 3


@pytest.mark.parametrize("count", ["0", "3", "-1", "two"])
def test_approvals_are_one_or_two(tmp_path: Path, command: Callable[[Path], Command], count: str) -> None:
    assert command(tmp_path / "other")("init", "--approvals", count).code == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("engine", "expected"), [("embedded", 1), ("vault", 2)])
def test_settings_from_before_there_were_approvals_mean_the_engines_number(
    small: TestHome, engine: str, expected: int
) -> None:
    path = small.path / "keyvault.toml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("approvals")]
    assert len(lines) < len(path.read_text().splitlines()), "new homes write it down"
    vault = '\n[vault]\naddr = "https://vault.example.com:8200"\n' if engine == "vault" else ""
    text = "\n".join(lines).replace('engine = "embedded"', f'engine = "{engine}"') + "\n" + vault
    path.write_text(text)
    assert load_settings(small.path).approvals == expected


def test_a_table_has_an_outcome_for_each_row(keyvault: Command, tmp_path: Path) -> None:
    rows = [
        ("T-1", "customer", "anonymize", f"{ANN};{BOB}", "", "", ""),
        ("T-1", "customer", "hold", "", "", "acct-001", ""),
        ("T-2", "nobody", "anonymize", ANN, "", "", ""),
    ]
    path = table(tmp_path, rows)
    result = keyvault("request", "submit", "--file", path, "--json")
    assert (result.code, result.json["refused"], result.json["malformed"]) == (2, 1, 1)
    assert [entry["state"] for entry in result.json["requests"]] == ["awaiting-approval", "refused", "malformed"]
    again = keyvault("request", "submit", "--file", path, "--json")
    assert again.json == result.json
    assert "row 3: malformed" in keyvault("request", "submit", "--file", path).out
    assert keyvault("request", "submit", "--file", table(tmp_path, rows[:2])).code == 1
    assert keyvault("request", "submit", "--file", table(tmp_path, rows[:1])).code == 0


def table(folder: Path, rows: Sequence[tuple[str, ...]]) -> Path:
    path = folder / "tickets.csv"
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *rows])
    path.write_text(text.getvalue())
    return path


# --- malformed --------------------------------------------------------------------------------------------------------

NASTY = (
    "'; DROP TABLE requests; --",
    "<script>alert(1)</script>",
    "$(rm -rf ~)",
    "`reboot`",
    "../../etc/passwd",
    "a\x00b",
    "\u202ereversed",
    "x" * 600,
    "9" * 5000,
    "\ufeff",
    " ",
    "%00",
    "consumer",
    "consumer/",
    "consumer//x",
    "communications/acct-001/2026-13",
    "communications/acct-001/0000-01",
    "communications/acct-001/99999999999999999999-01",
    "business/acct-001/26",
    "no-such-kind/acct-001/x",
)
GOOD = {"ticket": "T", "from": "customer", "kind": "anonymize", "scope": ANN}
WRONG: list[dict[str, str]] = [
    *({**GOOD, "scope": text} for text in NASTY),
    *({**GOOD, "scope": f"{ANN};{text}"} for text in NASTY if text.strip()),
    *({**GOOD, "from": text} for text in NASTY if text != "consumer"),
    *({**GOOD, "kind": text} for text in NASTY),
    *({**GOOD, "reason": text} for text in NASTY if text != "consumer"),
    *({**GOOD, "ticket": text} for text in ("a\x00b", " ", "x" * 257, "\u202ereversed", "9" * 5000, "line\nbreak")),
    *({**GOOD, "scope": "", "account": text} for text in (" ", "x" * 600, "..", "\u202ereversed")),
    {**GOOD, "account": "acct-001"},
    {**GOOD, "scope": ""},
    {**GOOD, "ticket": ""},
    {**GOOD, "from": ""},
    {**GOOD, "kind": ""},
    {**GOOD, "record": "r-1"},
    {**GOOD, "scope": "communications/acct-001/2026-10;communications/acct-001/2026-11", "record": "r-1"},
    {**GOOD, "scope": "communications/acct-001/2026-10", "record": "r" * 513},
]


def test_a_hundred_malformed_rows_are_each_answered_and_change_nothing(keyvault: Command, tmp_path: Path) -> None:
    assert len(WRONG) >= 100
    before = states(keyvault)
    path = table(tmp_path, [tuple(fields.get(name, "") for name in COLUMNS) for fields in WRONG])
    result = keyvault("request", "submit", "--file", path, "--json")
    answers = result.json["requests"]
    assert (result.code, len(answers), result.json["malformed"]) == (2, len(WRONG), len(WRONG)), [
        (fields, answer) for fields, answer in zip(WRONG, answers, strict=True) if answer["state"] != "malformed"
    ]
    assert all(answer["error"]["message"] for answer in answers)
    assert not any("Traceback" in answer["error"]["message"] for answer in answers)
    assert states(keyvault) == before
    assert keyvault("request", "list", "--all", "--json").json["requests"] == []


def test_names_that_look_like_code_are_only_names(keyvault: Command) -> None:
    for number, text in enumerate(NASTY[:4]):
        for more in (["--account", text], ["--scope", f"consumer/acct-001/{text.replace('/', '%2F')}"]):
            answer = keyvault(*ask(f"{text}-{number}-{more[0]}", *more))
            assert (answer.code, answer.json["reason"]) == (1, "unknown-scope"), answer.err
            assert text not in answer.out
    assert states(keyvault)["active"] == 3


def test_another_request_under_the_same_ticket_is_malformed(keyvault: Command) -> None:
    assert keyvault(*ask("T", "--scope", ANN)).code == 0
    other = keyvault(*ask("T", "--scope", BOB))
    assert (other.code, "a ticket of its own" in other.json["error"]["message"]) == (2, True)
    assert ANN not in other.out + other.err


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"ticket,from\n",
        b"ticket,from,kind,colour\n",
        b"ticket,from,kind,kind\n",
        b"\xff\xfe\n",
        b"nonsense",
    ],
)
def test_a_table_without_its_columns_is_malformed(keyvault: Command, tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "tickets.csv"
    path.write_bytes(text)
    assert keyvault("request", "submit", "--file", path).code == 2


def test_rows_of_another_length_and_broken_quotes_are_malformed(keyvault: Command, tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text(f'ticket,from,kind,scope\nT-1,customer\nT-2,customer,anonymize,{ANN}\nT-3,customer,"anon"x,{ANN}\n')
    result = keyvault("request", "submit", "--file", path, "--json")
    assert [entry["state"] for entry in result.json["requests"]] == ["malformed", "awaiting-approval", "malformed"]


@pytest.mark.parametrize(
    "args",
    [
        ["show", "x"],
        ["show", "00"],
        ["approve", "zz" * 16, "--yes"],
        ["cancel", "' OR 1=1"],
        ["approve", "00" * 16, "--yes", "--confirm", "-1"],
        ["submit", "--ticket", "T"],
        ["submit", "--file", "missing.csv"],
        ["submit", "--file", os.devnull, "--ticket", "T"],
    ],
)
def test_malformed_arguments(keyvault: Command, args: list[str]) -> None:
    assert keyvault("request", *args).code == 2


def test_an_unknown_request(keyvault: Command) -> None:
    for args in (["show"], ["approve", "--yes"], ["reject"], ["cancel"]):
        result = keyvault("request", *args, "00" * 16)
        assert (result.code, "request list" in result.err) == (1, True)
