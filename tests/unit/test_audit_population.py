"""Account-months: their file, billing's file, and what the two have in common."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyvault.errors import InvalidInputError, VerificationError
from keyvault.events import b64, canonical
from keyvault.identity import commit
from shredder.audit import population
from shredder.audit.columns import texts_of
from shredder.audit.population import AccountMonth, listed_in, parse_population, read_billing, reconcile

ACCOUNTS = ("acct-001", "acct-002", "acct-003")
MONTHS = ("2026-09", "2026-10")


def account_month(account: str, month: str, *, generation: int = 1) -> AccountMonth:
    salt = commit(bytes(32), f"{account}{month}{generation}".encode())
    scope = commit(salt, f"communications/{account}/{month}".encode())
    return AccountMonth(month, scope, salt, commit(b"pseudonyms", account.encode()))


ALL = sorted([account_month(account, month) for account in ACCOUNTS for month in MONTHS], key=AccountMonth.place)
FILE = b"".join(item.line for item in ALL)


def csv_of(*rows: tuple[str, str]) -> str:
    return "account,month\n" + "".join(f"{account},{month}\n" for account, month in rows)


EVERYTHING = [(account, month) for account in ACCOUNTS for month in MONTHS]


def test_a_line_is_canonical_json() -> None:
    for line in FILE.splitlines():
        assert canonical(json.loads(line)) == line
    assert list(parse_population([FILE])) == ALL
    assert list(parse_population(FILE.splitlines(keepends=True))) == ALL


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FILE[:-1], "line 6 is malformed"),
        (FILE + b"\n", "line 7 is malformed"),
        (b"\n" + FILE, "line 1 is malformed"),
        (FILE.replace(b'"period"', b'"Period"', 1), "line 1 is malformed"),
        (FILE * 2, "line 7 is not behind the one before it"),
        (ALL[0].line * 2, "line 2 is not behind the one before it"),
        (ALL[1].line + ALL[0].line, "line 2 is not behind the one before it"),
        (FILE.replace(b'"}\n', b'" }\n', 1), "line 1 is malformed"),
    ],
)
def test_any_other_file_is_refused_and_its_line_named(data: bytes, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        list(parse_population([data]))
    assert listed_in(data) is None


def is_read(data: bytes) -> bool:
    try:
        return bool(list(parse_population([data])))
    except VerificationError:
        return False


@given(place=st.integers(0, len(FILE) - 1), put=st.binary(max_size=2), cut=st.integers(0, 2))
@example(place=FILE.index(b'"period'), put=b"'", cut=1)
@example(place=FILE.index(b"2026-10") + 6, put=b"9", cut=1)
def test_at_once_is_refused_what_is_refused_line_by_line(place: int, put: bytes, cut: int) -> None:
    data = FILE[:place] + put + FILE[place + cut :]
    assert (listed_in(data) is not None) == is_read(data)


@given(lines=st.lists(st.sampled_from(ALL), min_size=1, max_size=4))
def test_at_once_is_refused_what_is_not_in_order(lines: list[AccountMonth]) -> None:
    data = b"".join(item.line for item in lines)
    assert (listed_in(data) is not None) == is_read(data)


def test_bits_behind_a_value_are_refused() -> None:
    line = ALL[0].line
    end = line.rindex(b'"}')
    odd = line[: end - 1] + bytes((line[end - 1] + 1,)) + line[end:]
    with pytest.raises(VerificationError):
        list(parse_population([odd]))
    assert listed_in(odd) is None


def test_many_lines_are_read_at_once() -> None:
    listed = listed_in(FILE)
    assert listed is not None
    periods, scopes, accounts = map(texts_of, listed)
    assert list(zip(periods, scopes, accounts, strict=True)) == [
        (item.period, b64(item.scope), b64(item.account)) for item in ALL
    ]


def test_all_is_matched() -> None:
    billed, findings = read_billing(csv_of(*EVERYTHING), "b.csv")
    found = reconcile(billed, ALL, name="b.csv")
    assert (findings, found.findings, found.missing, found.extra) == ([], [], [], [])
    assert sorted(scope for _, scope in found.matched) == sorted(item.scope for item in ALL)
    assert [row for row, _ in found.matched] == [2, 3, 4, 5, 6, 7]


def test_what_is_on_one_side_alone_is_named_without_a_name() -> None:
    billed, _ = read_billing(csv_of(*EVERYTHING[1:], ("acct-999", "2026-10"), ("acct-001", "2026-11")), "b.csv")
    found = reconcile(billed, ALL, name="b.csv")
    assert len(found.matched) == 5
    assert [item.row for item in found.missing] == [7, 8]
    assert found.extra == [account_month(*EVERYTHING[0])]
    assert [str(finding).partition(": billed")[0] for finding in found.findings[:2]] == [
        "b.csv row 7: population-missing",
        "b.csv row 8: population-missing",
    ]
    assert "acct-" not in "".join(map(str, found.findings))


def located_csv(*rows: tuple[str, str, str]) -> str:
    return "account,month,scope\n" + "".join(f"{account},{month},{scope}\n" for account, month, scope in rows)


def tried(monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[population.Reconciliation, int]:
    """Reconcile, and return how many salts were tried."""
    tries: list[bytes] = []

    def counted(salt: bytes, canonical_name: bytes) -> bytes:
        tries.append(salt)
        return commit(salt, canonical_name)

    monkeypatch.setattr(population, "commit", counted)
    billed, findings = read_billing(text, "b.csv")
    assert findings == []
    return reconcile(billed, ALL, name="b.csv"), len(tries)


def test_rows_that_say_their_scopes_are_found_at_the_first_try(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(account, month, b64(account_month(account, month).scope)) for account, month in EVERYTHING]
    found, tries = tried(monkeypatch, located_csv(*rows))
    assert (found.findings, found.missing, found.extra) == ([], [], [])
    assert [row for row, _ in found.matched] == [2, 3, 4, 5, 6, 7]
    assert tries == len(EVERYTHING)


def test_what_a_row_says_of_its_scope_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    scopes = [b64(account_month(*place).scope) for place in EVERYTHING]
    for wrong in (scopes[1:] + scopes[:1], ["nonsense"] * 6, [scopes[0]] * 6):
        rows = [(*place, scope) for place, scope in zip(EVERYTHING, wrong, strict=True)]
        found, _ = tried(monkeypatch, located_csv(*rows))
        assert (found.findings, [row for row, _ in found.matched]) == ([], [2, 3, 4, 5, 6, 7])
    row = ("acct-999", "2026-09", scopes[0])
    found, _ = tried(monkeypatch, located_csv(*[(*place, "") for place in EVERYTHING[1:]], row))
    assert ([item.row for item in found.missing], found.extra) == ([7], [account_month(*EVERYTHING[0])])


def test_a_scope_that_the_pack_lists_under_another_month_matches_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    real = account_month("acct-001", "2026-09")
    monkeypatch.setattr(f"{__name__}.ALL", [real._replace(period="2026-10")])
    found, _ = tried(monkeypatch, located_csv(("acct-001", "2026-09", b64(real.scope))))
    assert (len(found.matched), len(found.missing), len(found.extra)) == (0, 1, 1)


def test_both_lives_of_an_account_month_are_matched() -> None:
    billed, _ = read_billing(csv_of(EVERYTHING[0]), "b.csv")
    twice = sorted([account_month(*EVERYTHING[0]), account_month(*EVERYTHING[0], generation=2)])
    found = reconcile(billed, twice, name="b.csv")
    assert (len(found.matched), found.missing, found.extra) == (2, [], [])


def test_a_wrong_salt_matches_nothing() -> None:
    billed, _ = read_billing(csv_of(EVERYTHING[0]), "b.csv")
    right = account_month(*EVERYTHING[0])
    found = reconcile(billed, [right._replace(salt=bytes(32))], name="b.csv")
    assert (len(found.matched), len(found.missing), len(found.extra)) == (0, 1, 1)


def test_a_wrong_pseudonym_hides_nothing() -> None:
    """It says where to look first only."""
    billed, _ = read_billing(csv_of(*EVERYTHING), "b.csv")
    found = reconcile(billed, [item._replace(account=bytes(32)) for item in ALL], name="b.csv")
    assert (len(found.matched), found.missing, found.extra) == (6, [], [])


def test_an_account_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[bytes] = []

    def counted(salt: bytes, name: bytes) -> bytes:
        tries.append(name)
        return commit(salt, name)

    monkeypatch.setattr(population, "commit", counted)
    accounts = [f"acct-{number:03}" for number in range(30)]
    rows = [(account, f"2026-{month:02}") for account in accounts for month in range(1, 13)]
    billed, _ = read_billing(csv_of(*rows), "b.csv")
    assert reconcile(billed, sorted(account_month(*row) for row in rows), name="b.csv").missing == []
    assert len(tries) <= 30 * 30 + 30 * 11


def test_columns_are_found_by_their_names_and_others_left_alone() -> None:
    billed, findings = read_billing('month,x,account\n2026-09,"a\nb",acct-001\n2026-09,,acct-002\n', "b.csv")
    assert [(item.row, item.account, item.month) for item in billed] == [
        (3, "acct-001", "2026-09"),
        (4, "acct-002", "2026-09"),
    ]
    assert findings == []


@pytest.mark.parametrize("text", ["", "account\n", "account;month\n", "x,y\n1,2\n"])
def test_a_file_without_the_columns_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="has no column"):
        read_billing(text, "b.csv")


def test_what_is_no_csv_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"b\.csv is no CSV behind row 1"):
        read_billing('account,month\n"a"b,2026-09\n', "b.csv")


def test_a_malformed_row_is_named_and_the_others_are_read() -> None:
    text = (
        csv_of(("acct-001", "2026-13"), ("", "2026-09"), ("acct-001", "2026-09"), ("acct-001", "2026-09"))
        + "acct-002\n"
    )
    billed, findings = read_billing(text, "b.csv")
    assert [item.row for item in billed] == [4]
    assert [str(finding) for finding in findings] == [
        "b.csv row 2: malformed-row: no account and month can be read from it",
        "b.csv row 3: malformed-row: no account and month can be read from it",
        "b.csv row 5: duplicate-row: it says the same as row 4",
        "b.csv row 6: malformed-row: no account and month can be read from it",
    ]
