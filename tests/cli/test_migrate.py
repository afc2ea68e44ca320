"""`scope migrate`: what moves, what does not, and what it says of both."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvault import KeyRequest, UnwrapRequest
from keyvault.results import values_of
from keyvault.wrapped import CustodyCode, parse_wrapped
from tests.cli.conftest import Command, program
from tests.homes import TestHome, embedded_home

MONTH = "communications/acct-001/2026-10"
CONSUMER = "consumer/acct-001/+15550100001"
OTHER = "consumer/acct-001/+15550100002"


@pytest.fixture
def dedicated(tmp_path: Path) -> TestHome:
    home = embedded_home(tmp_path, custody="dedicated")
    with home.vault() as vault:
        values_of(vault.ensure_scopes([MONTH, CONSUMER, OTHER]))
    return home


@pytest.fixture
def moving(dedicated: TestHome, command: Callable[[Path], Command]) -> Command:
    return command(dedicated.path)


def wrapped_lines(home: TestHome, *groups: tuple[str, ...], context: bytes = b"") -> tuple[list[bytes], list[bytes]]:
    """Return data keys under each group of scopes, in plaintext, and wrapped as lines of a file."""
    requests = [KeyRequest(scopes=scopes, associated_data=context) for scopes in groups]
    with home.vault() as vault:
        keys = values_of(vault.generate_data_keys(requests))
    return [bytes(key.plaintext) for key in keys], [base64.b64encode(key.wrapped) for key in keys]


def test_scopes_move_and_moving_again_says_so(moving: Command) -> None:
    first = moving("scope", "migrate", MONTH, CONSUMER, "--to", "ring", "--json")
    assert first.code == 0
    assert [(item["name"], item["custody"], item["moved"]) for item in first.json["scopes"]] == [
        (MONTH, "ring", True),
        (CONSUMER, "ring", True),
    ]
    assert "envelopes and streams cannot be moved" in first.err
    again = moving("scope", "migrate", MONTH, OTHER, "--to", "ring")
    assert (again.code, again.out) == (0, f"{MONTH}: in ring custody already\n{OTHER}: moved to ring custody\n")
    third = moving("scope", "migrate", MONTH, "--to", "ring")
    assert (third.code, third.err) == (0, "")
    shown = moving("scope", "show", MONTH, "--json").json
    assert (shown["custody"], shown["former_custody"]) == ("ring", "dedicated")


def test_what_cannot_be_moved_does_not_keep_the_others(moving: Command) -> None:
    assert moving("shred", OTHER, "--ticket", "T-1", "--yes").code == 0
    result = moving("scope", "migrate", OTHER, CONSUMER, "user/nobody", "--to", "ring", "--json")
    assert result.code == 1
    assert [item.get("error", {}).get("type") for item in result.json["scopes"]] == [
        "ScopeDestroyedError",
        None,
        "UnknownScopeError",
    ]
    assert "2 of 3 scopes could not be moved" in result.err


@pytest.mark.parametrize(
    "args",
    [
        ["bogus", "--to", "ring"],
        [CONSUMER],
        [CONSUMER, "--to", "dedicated"],
        ["--to", "ring"],
        [CONSUMER, "--to", "ring", "--json", "--wrapped", "in", "-"],
    ],
)
def test_usage(moving: Command, args: list[str]) -> None:
    assert moving("scope", "migrate", *args).code == 2
    assert moving("scope", "show", CONSUMER, "--json").json["custody"] == "dedicated"


def test_wrapped_keys_are_moved_in_order(moving: Command, dedicated: TestHome, tmp_path: Path) -> None:
    keys, lines = wrapped_lines(dedicated, (MONTH, CONSUMER), (CONSUMER,), (MONTH,), context=b"backup 7")
    (tmp_path / "in").write_bytes(b"\n".join(lines) + b"\n")
    args = ["scope", "migrate", MONTH, CONSUMER, "--to", "ring", "--context", "backup 7", "--json", "--wrapped"]
    result = moving(*args, tmp_path / "in", tmp_path / "out")
    assert (result.code, result.json["wrapped"]) == (0, {"moved": 3, "already_there": 0, "failed": []})
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    moved = [base64.b64decode(line) for line in (tmp_path / "out").read_bytes().splitlines()]
    assert {ref.custody for item in moved for ref in parse_wrapped(item).header.scopes} == {CustodyCode.RING}
    with dedicated.vault() as vault:
        opened = vault.unwrap_data_keys([UnwrapRequest(wrapped=w, associated_data=b"backup 7") for w in moved])
    assert values_of(opened) == keys
    again = moving(*args, tmp_path / "out", tmp_path / "out-2")
    assert (again.code, again.json["wrapped"]) == (0, {"moved": 0, "already_there": 3, "failed": []})
    assert (tmp_path / "out-2").read_bytes() == (tmp_path / "out").read_bytes()


def test_lines_that_cannot_be_moved_stay_and_are_reported(moving: Command, dedicated: TestHome, tmp_path: Path) -> None:
    keys, (mine, others) = wrapped_lines(dedicated, (CONSUMER,), (CONSUMER, OTHER))
    altered = base64.b64encode(base64.b64decode(mine)[:-1] + b"\x00")
    stream = io.BytesIO()
    with dedicated.vault() as vault:
        envelope = base64.b64encode(vault.seal(b"x", [CONSUMER]))
        vault.seal_stream(io.BytesIO(b"x"), stream, [CONSUMER])
    lines = [b"*", envelope, mine, base64.b64encode(stream.getvalue()), others, b"", altered]
    (tmp_path / "in").write_bytes(b"\r\n".join(lines))
    result = moving("scope", "migrate", CONSUMER, "--to", "ring", "--wrapped", tmp_path / "in", tmp_path / "out")
    assert result.code == 1
    told = [line for line in result.err.splitlines() if line.startswith("line ")]
    for line, number, reason in zip(
        told,
        (1, 2, 4, 5, 6, 7),
        ("not base64", "envelopes cannot", "streams cannot", "not among those named", "", "altered"),
        strict=True,
    ):
        assert line.startswith(f"line {number}: ")
        assert reason in line
    assert "wrapped keys: 1 moved, 0 in ring custody already, 6 not moved" in result.out
    left = (tmp_path / "out").read_bytes().splitlines()
    assert [line for i, line in enumerate(left) if i != 2] == [line for i, line in enumerate(lines) if i != 2]
    with dedicated.vault() as vault:
        back = values_of(vault.unwrap_data_keys([UnwrapRequest(wrapped=base64.b64decode(left[2]))]))
        assert back == [keys[0]]


def test_pipes(dedicated: TestHome) -> None:
    _, lines = wrapped_lines(dedicated, (CONSUMER,))
    args = ("scope", "migrate", CONSUMER, "--to", "ring", "--wrapped", "-", "-")
    result = program(dedicated.path, *args, stdin=lines[0])
    assert result.code == 0
    assert len(result.out.splitlines()) == 1
    assert parse_wrapped(base64.b64decode(result.out)).header.scopes[0].custody is CustodyCode.RING


@pytest.mark.parametrize("missing", ["in", "out"])
def test_files_are_opened_before_anything_is_moved(moving: Command, tmp_path: Path, missing: str) -> None:
    (tmp_path / "in").touch()
    files = {"in": tmp_path / "in", "out": tmp_path / "out", missing: tmp_path / "nowhere" / "file"}
    result = moving("scope", "migrate", CONSUMER, "--to", "ring", "--wrapped", files["in"], files["out"])
    assert result.code == 1
    assert moving("scope", "show", CONSUMER, "--json").json["custody"] == "dedicated"


def test_records_of_a_month_that_was_moved(moving: Command, tmp_path: Path) -> None:
    """A home whose new scopes get keys of their own holds records all the same, once their month is in a ring."""
    (tmp_path / "in").write_bytes(b"x")
    seal: list[str | Path] = ["seal", "--scope", MONTH, "--record", "r-1", tmp_path / "in", tmp_path / "out"]
    refused = moving(*seal)
    assert (refused.code, "scope migrate" in refused.error) == (1, True)
    assert moving("scope", "migrate", MONTH, "--to", "ring").code == 0
    assert moving(*seal).code == 0
    shredded = moving("shred", MONTH, "--record", "r-1", "--ticket", "T-1", "--yes", "--json")
    assert (shredded.code, "was moved from dedicated custody" in shredded.err) == (0, True)
    assert moving("open", tmp_path / "out", tmp_path / "back").code == 1
