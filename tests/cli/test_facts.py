"""`facts import`: what is well-formed is recorded, what is not is told by number, and nothing malformed changes anything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyvault.results import values_of
from keyvault.store import facts as fact_store
from keyvault.store import outbox, subjects
from keyvault.store.subjects import SubjectRow
from shredder.fact_lines import MAX_LINE_BYTES
from tests.cli.conftest import PROGRAM, ROOT, Command, Result, program
from tests.homes import TestHome

NOW = datetime.now(UTC)
SECRET = "ada-lovelace"
Facts = Callable[..., Path]


def ago(**delta: float) -> str:
    return (NOW - timedelta(**delta)).isoformat()


def fact(kind: str, at: str = "", **fields: Any) -> str:
    return json.dumps({"type": kind, "at": at or ago(days=1), **fields})


@pytest.fixture
def file(tmp_path: Path) -> Facts:
    def write(*lines: str | bytes, name: str = "facts.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
        return path

    return write


def stored(home: TestHome) -> dict[bytes, SubjectRow]:
    with home.opened() as opened:
        rows = opened.database.read(lambda c: subjects.page(c, after=b"", limit=1_000))
    return {row.id: row for row in rows}


def events(home: TestHome, kind: str) -> list[dict[str, Any]]:
    with home.opened() as opened:
        bodies = [json.loads(body) for _, body in opened.database.read(lambda c: outbox.bodies(c, limit=10_000))]
    return [event for event in bodies if event["type"] == kind]


def account(home: TestHome, name: str) -> SubjectRow:
    with home.opened() as opened:
        pseudonym = opened.keys.pseudonym_of("account", name)
    return stored(home)[pseudonym]


def test_facts_are_recorded_and_followed(keyvault: Command, small: TestHome, file: Facts) -> None:
    with small.vault() as vault:
        values_of(vault.ensure_scopes(["consumer/a/1", "consumer/b/1"]))
    path = file(
        fact("account.closed", account="a"),
        "",
        fact("business.classified", account="a", year=2025, **{"class": "tax"}),
        "not json",
        fact("account.opened", account="b"),
    )
    result = keyvault("facts", "import", path, "--json")
    assert result.code == 1
    assert result.json == {
        "new": 3,
        "known": 0,
        "malformed": 1,
        "subjects_changed": 2,
        "scopes_suspended": 1,
        "scopes_resumed": 0,
        "lines": [{"line": 4, "reason": "it is not JSON"}],
    }
    assert "line 4: it is not JSON\n" in result.err
    again = keyvault("facts", "import", path)
    assert again.out.splitlines()[:2] == ["new               0", "known             3"]
    assert account(small, "a").status == "closed"
    listed = keyvault("scope", "list", "--state", "suspended", "--json").json["scopes"]
    assert [item["name"] for item in listed] == ["consumer/a/1"]


@pytest.mark.parametrize(("options", "days"), [([], 7), (["--after", "0d"], 0), (["--after", "36h"], 1.5)])
def test_the_wait_is_the_policys_or_the_one_that_is_given(
    keyvault: Command, small: TestHome, file: Facts, options: list[str], days: float
) -> None:
    assert keyvault("facts", "import", *options, file(fact("account.closed", account="a"))).code == 0
    due = account(small, "a").due_at
    assert due is not None
    assert abs(due - (datetime.now(UTC) + timedelta(days=days))) < timedelta(minutes=1)


@pytest.mark.parametrize("wait", ["7", "d", "-1d", "1.5d", "999999d", "7 d", "99999d"])
def test_a_wait_that_is_none_is_usage(keyvault: Command, small: TestHome, file: Facts, wait: str) -> None:
    result = keyvault("facts", "import", "--after", wait, file(fact("account.closed", account="a")))
    assert result.code == 2
    assert stored(small) == {}


def test_csv_has_the_same_fields(keyvault: Command, small: TestHome, file: Facts) -> None:
    path = file(
        "type,at,account,user,through",
        f"account.opened,{ago(days=9)},a,,",
        f'access.granted,{ago(days=8)},"a",u,',
        f"usage.billed,{ago(days=2)},a,,{(NOW - timedelta(days=3)):%Y-%m-%d}",
        name="facts.CSV",
    )
    result = keyvault("facts", "import", "--json", path)
    assert (result.code, result.json["new"]) == (0, 3)
    billed = account(small, "a").billed_through
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    assert billed == midnight - timedelta(days=2)
    assert keyvault("facts", "import", "--format", "jsonl", path).code == 1


def test_a_mark_and_line_ends_of_other_systems_are_read(keyvault: Command, file: Facts) -> None:
    line = fact("account.opened", account="a").encode()
    assert keyvault("facts", "import", "--json", file(b"\xef\xbb\xbf" + line + b"\r")).json["new"] == 1
    rows = [b"\xef\xbb\xbftype,at,account\r", f"account.opened,{ago(days=2)},a\r".encode()]
    assert keyvault("facts", "import", "--json", file(*rows, name="facts.csv")).json["new"] == 1


@pytest.mark.parametrize(
    "header",
    [
        "",
        "at,account",
        "type,at,type",
        "type,at,name",
        'type,at,"account',
        b"type,at,\xff",
        "type;at;account",
        '{"type": 1}',
        "type,at," + "x" * 20_000,
    ],
)
def test_a_csv_file_must_name_its_columns(keyvault: Command, small: TestHome, file: Facts, header: str | bytes) -> None:
    result = keyvault("facts", "import", file(header, f"account.closed,{ago(days=1)},a", name="facts.csv"))
    assert result.code == 2
    assert result.error.startswith("line 1")
    assert stored(small) == {}


def test_strict_refuses_all_when_one_is_bad(keyvault: Command, small: TestHome, file: Facts) -> None:
    good = [fact("account.closed", account=f"a{number}") for number in range(3)]
    result = keyvault("facts", "import", "--strict", "--json", file(*good, "bad"))
    assert result.code == 1
    assert result.json["error"]["message"].startswith("1 lines are malformed, so nothing was recorded")
    assert "line 4: it is not JSON" in result.err
    assert (stored(small), events(small, "facts.recorded")) == ({}, [])
    assert keyvault("facts", "import", "--strict", "--json", file(*good)).json["new"] == 3


def test_facts_come_from_standard_input_too(small: TestHome) -> None:
    line = fact("account.opened", account="a").encode()
    result = program(small.path, "facts", "import", "-", stdin=line)
    assert (result.code, result.out.splitlines()[0]) == (0, "new               1")
    refused = program(small.path, "facts", "import", "--strict", "-", stdin=line)
    assert refused.code == 2
    assert "give a file" in refused.error


def test_a_file_that_is_not_there(keyvault: Command, tmp_path: Path) -> None:
    assert keyvault("facts", "import", tmp_path / "none").code == 1


def test_names_with_characters_of_sql_html_and_shells_are_only_names(
    keyvault: Command, small: TestHome, file: Facts
) -> None:
    names = [
        "a'; DROP TABLE subjects; --",
        '" OR 1=1',
        "<script>alert(1)<",
        "$(reboot)",
        "`id`",
        "%s%n%(x)s{0}",
        "a/b",
        "Ünïcödé",
        "../../etc",
        "\\x00",
    ]
    result = keyvault("facts", "import", "--json", file(*(fact("account.closed", account=name) for name in names)))
    assert (result.code, result.json["new"], result.err) == (0, len(names), "")
    for name in names:
        assert account(small, name).status == "closed"
    with small.opened() as opened:
        assert len(opened.database.read(lambda c: fact_store.of_subjects(c, stored(small)))) == len(names)


# --- malformed lines --------------------------------------------------------------------------------------------------

DATES = [
    "",
    "yesterday",
    "2026-11-24",
    "2026-11-24T10:00:00",
    "2026-11-24T10:00:00+0000",
    "2026-11-24T25:00:00Z",
    "2026-02-29T10:00:00Z",
    "2026-13-01T10:00:00Z",
    "2026-00-10T10:00:00Z",
    "2026-11-24T10:00:00+99:00",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "99999-01-01T00:00:00Z",
    "-2026-11-24T10:00:00Z",
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:30:00+01:00",
    "2999-01-01T00:00:00Z",
    "2026-W48-2T10:00:00Z",
    "20261124T100000Z",
    "1764000000",
    "٢٠٢٦-11-24T10:00:00Z",
    "2026-11-24T10:00:00Z\0",
    "2026-11-24T10:00:00Z'; DROP TABLE facts; --",
]
IDS: list[Any] = [
    "",
    " ",
    "a\0b",
    "a\nb",
    "\x85a",
    " ada",
    ".",
    "..",
    "A\u0300",
    "a\u200bb",
    "a\u202eb",
    "p\u0430ypal",
    "a" * 600,
    "\ud800",
    1,
    10**400,
    1.5,
    None,
    True,
    [SECRET],
    {"id": SECRET},
]
TYPES: list[Any] = [
    "",
    "closed",
    "account.close",
    "ACCOUNT.CLOSED",
    "account.closed ",
    "account.closed\0",
    "<b>account.closed</b>",
    "'; DELETE FROM facts; --",
    "$(rm -rf /)",
    7,
    None,
    {},
]
OTHERS = [
    fact("account.closed"),
    fact("account.closed", user=SECRET),
    fact("account.closed", account="a", user=SECRET),
    fact("account.closed", account="a", reason="<script>"),
    fact("account.closed", account="a", through="2026-01-01"),
    fact("access.granted", user=SECRET),
    fact("access.granted", account="a"),
    fact("access.removed", user=SECRET, account=""),
    fact("access.removed", user=SECRET, account="a\0b"),
    fact("user.created", account="a"),
    fact("contact.valuable", user="a"),
    fact("usage.billed", account="a"),
    fact("usage.billed", account="a", through=""),
    fact("usage.billed", account="a", through="2026-02-30"),
    fact("usage.billed", account="a", through="2026-02"),
    fact("usage.billed", account="a", through="2999-01-01"),
    fact("usage.billed", account="a", through=ago(hours=-20)),
    fact("usage.billed", account="a", through="1969-12-31"),
    fact("usage.billed", account="a", through="2026-01-01T00:00:00"),
    fact("usage.billed", ago(days=9), account="a", through=ago(days=8)),
    fact("usage.billed", account="a", through=20260101),
    fact("business.classified", account="a", year="2025"),
    fact("business.classified", account="a", year="2025", **{"class": SECRET}),
    fact("business.classified", account="a", year="2025", **{"class": "'; --"}),
    fact("business.classified", account="a", year="25", **{"class": "tax"}),
    fact("business.classified", account="a", year="0000", **{"class": "tax"}),
    fact("business.classified", account="a", year=True, **{"class": "tax"}),
    fact("business.classified", account="a", year=10**300, **{"class": "tax"}),
    fact("business.classified", account="a", year=-2025, **{"class": "tax"}),
    fact("business.classified", account="a/b", year="2025-01", **{"class": "tax"}),
]
AT = ago(days=1)
RAW: list[bytes] = [
    b"not json",
    b"[]",
    b"null",
    b"1",
    b'"text"',
    b"{}",
    b"{",
    b"}{",
    b"NaN",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf" + fact("account.closed", account="a").encode(),
    fact("account.closed", account="a").encode() + b" trailing",
    fact("account.closed", account="a").encode() + b"\r" + fact("account.closed", account="b").encode(),
    fact("account.closed", account="a").encode("utf-16"),
    fact("account.closed", account="a").encode().replace(b'"a"', b'"\xe9"'),
    fact("account.closed", account="a").encode().replace(b'"a"', b'"a\0b"'),
    fact("account.closed", account="a").encode().replace(b'"', b"'"),
    f'{{"type": "account.closed", "at": "{AT}", "account": "a", "account": "b"}}'.encode(),
    f'{{"type": "account.opened", "type": "account.closed", "at": "{AT}", "account": "a"}}'.encode(),
    f'{{"type": "account.closed", "at": "{AT}", "account": NaN}}'.encode(),
    f'{{"type": "account.closed", "at": "{AT}", "account": -Infinity}}'.encode(),
    f'{{"type": "account.closed", "at": 1e999, "account": "{SECRET}"}}'.encode(),
    f'{{"type": "account.closed", "at": {"9" * 5_000}, "account": "{SECRET}"}}'.encode(),
    f'{{"type": "account.closed", "at": "{AT}", "account": "a",}}'.encode(),
    f'{{"fact": {fact("account.closed", account="a")}}}'.encode(),
    f"[{fact('account.closed', account='a')}]".encode(),
    b"[" * 16_000,
    b'{"a":' * 3_000,
    fact("account.closed", account="a").encode() + b" " * MAX_LINE_BYTES,
    fact("account.closed", account="x" * 10_000_000).encode(),
]
MALFORMED: list[bytes] = [
    *(fact("account.closed", account=SECRET, at=date or "?").encode().replace(b'"?"', b'""') for date in DATES),
    *(fact("account.closed", account=name).encode() for name in IDS),
    *(fact(kind, account=SECRET).encode() for kind in TYPES),
    *(line.encode() for line in OTHERS),
    *RAW,
]


def test_a_hundred_malformed_lines_change_nothing(keyvault: Command, small: TestHome, file: Facts) -> None:
    assert len(MALFORMED) >= 100
    good = fact("account.opened", account="good")
    # A good line before, so that a mark of byte order stands where none may.
    result = keyvault("facts", "import", "--json", file(good, *MALFORMED))
    assert result.code == 1
    assert (result.json["new"], result.json["known"], result.json["malformed"]) == (1, 0, len(MALFORMED))
    assert [item["line"] for item in result.json["lines"]] == list(range(2, len(MALFORMED) + 2))
    told = result.out + result.err
    assert SECRET not in told
    assert "Traceback" not in told
    assert all(item["reason"] for item in result.json["lines"])
    assert result.err.count("\n") == len(MALFORMED) + 1, "a reason has line breaks"
    assert len(stored(small)) == 1
    (event,) = events(small, "facts.recorded")
    assert len(event["facts"]) == 1


CSV_ROWS: list[bytes] = [
    b"account.closed",
    f"account.closed,{AT}".encode(),
    f"account.closed,{AT},a,b,c".encode(),
    f"account.closed,{AT},,".encode(),
    f"account.closed,{AT},a,u".encode(),
    f'account.closed,{AT},"a,'.encode(),
    f'account.closed,{AT},"a"x,'.encode(),
    f"account.closed,{AT},a\0b,".encode(),
    f"account.closed,{AT},\xe9,".encode("latin-1"),
    f"account.closed,{AT},a\rb,".encode(),
    b"account.closed,24.11.2026 10:00,a,",
    b"account.closed,45985.4,a,",
    f"=cmd|' /C calc'!A0,{AT},a,".encode(),
    f"account.closed;{AT};a;".encode(),
    b",,,",
    b'"',
    b"x" * 1_000_000,
]


def test_malformed_rows_change_nothing(keyvault: Command, small: TestHome, file: Facts) -> None:
    result = keyvault("facts", "import", "--json", file("type,at,account,user", *CSV_ROWS, name="facts.csv"))
    assert result.code == 1
    assert (result.json["new"], result.json["malformed"]) == (0, len(CSV_ROWS))
    assert [item["line"] for item in result.json["lines"]] == list(range(2, len(CSV_ROWS) + 2))
    assert stored(small) == {}


def test_of_very_many_malformed_lines_the_first_are_told(keyvault: Command, file: Facts) -> None:
    result: Result = keyvault("facts", "import", "--json", file(*["x"] * 1_500))
    assert (result.json["malformed"], len(result.json["lines"])) == (1_500, 1_000)
    assert result.err.count("\n") == 1_002


def test_memory_does_not_grow_with_the_file(small: TestHome, file: Facts) -> None:
    """The lines of one account are known from the second on, so that little is written."""
    line = fact("account.opened", account="a")
    code = (
        "import resource, sys; from cli.main import run; code = run(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )

    def peak(count: int) -> int:
        path = file(*[line] * count, name=f"{count}.jsonl")
        command = [PROGRAM[0], "-c", code, "--home", str(small.path), "facts", "import", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        return int(done.stderr)

    assert PROGRAM[0] == sys.executable
    assert peak(30_000) < peak(600) + 10_000
