"""What each command does, says and answers as JSON."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvault.log_head import head_path
from shredder.destroy import Destroyer
from shredder.fence import Cause, fence
from tests.cli.conftest import PROGRAM, ROOT, Command, program
from tests.homes import TestHome, embedded_home

CONSUMER = "consumer/acct-001/+15550100001"
OTHER = "consumer/acct-001/+15550100002"
FACTS = {
    "id",
    "generation",
    "kind",
    "period",
    "custody",
    "former_custody",
    "state",
    "created_at",
    "due_at",
    "fenced_at",
    "destroyed_at",
    "destroy_id",
}


def ensure(home: TestHome, *names: str) -> None:
    with home.vault() as vault:
        vault.ensure_scopes(names)


# --- init, status, doctor ----------------------------------------------------------------------------------------------


def test_init_makes_a_home_and_changes_nothing_again(command: Callable[[Path], Command], tmp_path: Path) -> None:
    keyvault = command(tmp_path / "new")
    first = keyvault("init", "--json")
    settings = (tmp_path / "new" / "keyvault.toml").read_bytes()
    again = keyvault("init", "--json")
    assert first.code == again.code == 0
    assert {step["outcome"] for step in first.json["steps"]} == {"created"}
    assert {step["outcome"] for step in again.json["steps"]} == {"already there"}
    assert (tmp_path / "new" / "keyvault.toml").read_bytes() == settings
    assert keyvault("doctor").code == 0


@pytest.mark.parametrize(("options", "custody"), [([], "ring"), (["--custody", "dedicated"], "dedicated")])
def test_init_takes_ring_custody_unless_told_otherwise(
    command: Callable[[Path], Command], tmp_path: Path, options: list[str], custody: str
) -> None:
    keyvault = command(tmp_path / "new")
    assert keyvault("init", *options).code == 0
    assert keyvault("status", "--json").json["custody"] == custody
    (tmp_path / "in").write_text("hello")
    assert keyvault("seal", "--scope", CONSUMER, tmp_path / "in", tmp_path / "out").code == 0
    assert keyvault("scope", "show", CONSUMER, "--json").json["custody"] == custody


def test_init_takes_the_engine_directory_from_an_option_or_the_environment(
    command: Callable[[Path], Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(tmp_path / "a")("init", "--engine-dir", tmp_path / "keys-a").code == 0
    monkeypatch.setenv("KEYVAULT_ENGINE_DIR", str(tmp_path / "keys-b"))
    assert command(tmp_path / "b")("init").code == 0
    assert sorted(path.parent.name for path in tmp_path.glob("keys-*/engine.db")) == ["keys-a", "keys-b"]


def test_init_keeps_the_password_of_the_store_out_of_the_settings(
    command: Callable[[Path], Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setenv("KEYVAULT_STORE", postgres_url)
    monkeypatch.setenv("PGPASSWORD", "")  # so that what the command sets is taken back after the test
    keyvault = command(tmp_path / "new")
    assert keyvault("init").code == 0
    password = postgres_url.split(":")[2].split("@", maxsplit=1)[0]
    assert password not in (tmp_path / "new" / "keyvault.toml").read_text()
    status = keyvault("status", "--json")
    assert status.json["store"] == "postgresql"
    assert password not in status.out


@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@db/keys", "postgresql://db/keys?password=secret", "postgresql://:secret@db/keys"]
)
def test_init_refuses_a_password_on_the_command_line(
    command: Callable[[Path], Command], tmp_path: Path, url: str
) -> None:
    result = command(tmp_path / "new")("init", "--store", url)
    assert result.code == 2
    assert "~/.pgpass" in result.error
    assert "PGPASSWORD" in result.error
    assert "KEYVAULT_STORE" in result.error
    assert "secret" not in result.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--custody", "cloud"], 2, "cloud"),
        (["--engine", "vault", "--vault-addr", "https://127.0.0.1:1"], 1, "VAULT_TOKEN"),
        (["--engine", "vault"], 2, "--vault-addr"),
        (["--engine", "floppy"], 2, "floppy"),
        (["--store", "mysql://db/keys"], 1, "mysql"),
        (["--store", "postgresql://me@127.0.0.1:1/keys"], 1, "cannot be reached"),
    ],
)
def test_init_refuses_before_anything_is_made(
    command: Callable[[Path], Command], tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    result = command(tmp_path / "new")("init", *options)
    assert result.code == code
    assert words in result.error
    assert not (tmp_path / "new").exists()


def test_a_failed_init_does_not_stand_in_the_way_of_the_next(
    command: Callable[[Path], Command], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no directory")
    keyvault = command(tmp_path / "new")
    assert keyvault("init", "--engine-dir", tmp_path / "file" / "keys").code == 1
    assert keyvault("init", "--engine-dir", tmp_path / "keys").code == 0


def test_status_counts_and_needs_no_engine(keyvault: Command, small: TestHome, tmp_path: Path) -> None:
    ensure(small, CONSUMER, OTHER)
    keyvault("scope", "suspend", OTHER)
    (tmp_path / "engine" / "engine.db").rename(tmp_path / "elsewhere")
    result = keyvault("status", "--json")
    assert result.code == 0
    assert result.json["scopes"] == {"active": 1, "suspended": 1, "deactivated": 0, "destroyed": 0}
    assert result.json["engine_checked"] is False
    assert (result.json["engine"], result.json["custody"], result.json["store"]) == ("embedded", "ring", "sqlite")
    assert (result.json["pending_destructions"], result.json["destructions_paused"]) == (0, False)
    assert "not asked" in keyvault("status").out


def test_doctor_says_what_is_wrong_and_how_to_mend_it(keyvault: Command, small: TestHome, tmp_path: Path) -> None:
    assert keyvault("doctor").code == 0
    small.path.chmod(0o755)
    (tmp_path / "engine" / "engine.db").chmod(0o640)
    result = keyvault("doctor")
    assert result.code == 1
    assert f"run `chmod 700 {small.path}`" in result.out
    assert "chmod 600" in result.out
    answer = keyvault("doctor", "--json").json
    assert answer["failed"] == len([check for check in answer["checks"] if check["ok"] is False])
    assert answer["failed"] >= 2
    assert all(check["remedy"] for check in answer["checks"] if check["ok"] is False)


def test_doctor_does_not_count_what_it_could_not_check(keyvault: Command, small: TestHome) -> None:
    (small.path / "store.db").unlink()
    answer = keyvault("doctor", "--json").json
    unchecked = [check for check in answer["checks"] if check["ok"] is None]
    assert answer["not_checked"] == len(unchecked) > 0
    assert all("not checked" in check["detail"] for check in unchecked)


def test_doctor_finds_missing_and_stray_keys(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER)
    with small.opened() as home:
        names = [name for name in home.engine.list_keys() if name != "system"]
        home.engine.delete_keys(names)
        home.engine.create_keys(["k-stray"])
    checks = {check["name"]: check for check in keyvault("doctor", "--json").json["checks"]}
    assert checks["every live scope has its key"]["detail"] == "ALARM: 1 of 1 keys are missing"
    assert checks["every key in the engine belongs to something"]["ok"] is False
    listed = keyvault("scope", "list")
    assert "ALARM" in listed.out
    assert "keyvault: alarm: the keys of 1 scopes are missing" in listed.err


def test_doctor_compares_the_three_places_of_the_log(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER)
    head, directory = (
        f"log: {what} checkpoint" for what in ("database and engine are at the same", "its directory has that")
    )

    def log_checks() -> dict[str, dict[str, object]]:
        return {check["name"]: check for check in keyvault("doctor", "--json").json["checks"]}

    waiting = log_checks()
    assert waiting[head]["ok"] is waiting[directory]["ok"] is True
    assert "events wait to be logged" in str(waiting[head]["detail"])
    with small.opened() as home:
        home.log.settle()
        older = (home.log_directory / "checkpoint").read_bytes()
        newest = home.engine.get_state(head_path(1))
        ensure(small, OTHER)
        home.log.settle()
        (home.log_directory / "checkpoint").write_bytes(older)
        moved = home.engine.get_state(head_path(1))
        assert newest is not None
        assert moved is not None
        home.engine.put_state(head_path(1), newest.value, expected_version=moved.version)
    damaged = log_checks()
    assert damaged[head]["ok"] is damaged[directory]["ok"] is False
    assert "in the engine; nothing waits" in str(damaged[head]["detail"])


def test_doctor_tells_of_paused_and_pending_destructions(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER)
    leave_fenced(small, CONSUMER)
    keyvault("destroy", "pause")
    checks = {check["name"]: check for check in keyvault("doctor", "--json").json["checks"]}
    assert checks["destructions run"]["ok"] is False
    assert checks["no destruction is pending"]["ok"] is False
    assert checks["every live scope has its key"]["ok"] is True


def test_doctor_refuses_an_engine_inside_the_home(command: Callable[[Path], Command], tmp_path: Path) -> None:
    keyvault = command(tmp_path / "new")
    assert keyvault("init", "--engine-dir", tmp_path / "new" / "keys").code == 0
    checks = {check["name"]: check for check in keyvault("doctor", "--json").json["checks"]}
    assert checks["engine file outside the home"]["ok"] is False


# --- seal and open -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_files_come_back_as_they_were(keyvault: Command, tmp_path: Path, size: int) -> None:
    (tmp_path / "in").write_bytes(os.urandom(size))
    assert keyvault("seal", "--scope", CONSUMER, tmp_path / "in", tmp_path / "sealed").code == 0
    assert keyvault("open", tmp_path / "sealed", tmp_path / "out").code == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("sealed", "out")} == {0o600}


def test_pipes(small: TestHome) -> None:
    first = subprocess.run(
        [*PROGRAM, "--home", str(small.path), "seal", "--scope", CONSUMER, "-", "-"],
        input=b"hello",
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    assert program(small.path, "open", "-", "-", stdin=first.stdout).out == "hello"


def test_open_recognises_an_envelope(keyvault: Command, small: TestHome, tmp_path: Path) -> None:
    ensure(small, CONSUMER)
    with small.vault() as vault:
        (tmp_path / "envelope").write_bytes(vault.seal(b"hello", [CONSUMER]))
    assert keyvault("open", tmp_path / "envelope", tmp_path / "out").code == 0
    assert (tmp_path / "out").read_bytes() == b"hello"


def test_context_and_purpose(keyvault: Command, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    business = "business/acct-001/2026"
    seal = ("seal", "--scope", business, "--context", "invoice 7", tmp_path / "in", tmp_path / "sealed")
    assert keyvault(*seal).code == 0
    wrong = keyvault("open", tmp_path / "sealed", tmp_path / "out")
    assert (wrong.code, "--context" in wrong.error) == (3, True)
    refused = keyvault(
        "open", "--context", "invoice 7", "--purpose", "marketing", tmp_path / "sealed", tmp_path / "out"
    )
    assert refused.code == 1
    assert not (tmp_path / "out").exists()
    assert keyvault("open", "--context", "invoice 7", tmp_path / "sealed", tmp_path / "out").code == 0


def test_an_output_is_only_replaced_by_force(keyvault: Command, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    (tmp_path / "out").write_text("precious")
    refused = keyvault("seal", "--scope", CONSUMER, tmp_path / "in", tmp_path / "out")
    assert (refused.code, "--force" in refused.error) == (1, True)
    assert (tmp_path / "out").read_text() == "precious"
    assert keyvault("scope", "list").out == ""
    assert keyvault("seal", "--force", "--scope", CONSUMER, tmp_path / "in", tmp_path / "out").code == 0
    assert (tmp_path / "out").read_bytes().startswith(b"KVS\x01")


def test_in_and_out_may_not_be_one_file(keyvault: Command, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    result = keyvault("seal", "--force", "--scope", CONSUMER, tmp_path / "in", tmp_path / "link")
    assert (result.code, (tmp_path / "in").read_text()) == (2, "hello")


def test_a_device_is_never_replaced(keyvault: Command, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    os.mkfifo(tmp_path / "fifo")
    assert keyvault("seal", "--force", "--scope", CONSUMER, tmp_path / "in", tmp_path / "fifo").code == 1
    assert (tmp_path / "fifo").is_fifo()


def test_json_and_standard_output_exclude_each_other(keyvault: Command, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    result = keyvault("seal", "--json", "--scope", CONSUMER, tmp_path / "in", "-")
    assert (result.code, result.json["error"]["type"]) == (2, "UsageError")
    assert keyvault("seal", "--json", "--scope", CONSUMER, tmp_path / "in", tmp_path / "out").json["sealed"]


# --- scope ---------------------------------------------------------------------------------------------------------------


def test_scope_list_filters_and_opens_names(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER, OTHER, "user/ada")
    keyvault("scope", "suspend", OTHER)
    assert keyvault("scope", "list").out.splitlines() == [
        f"active\t-\t{CONSUMER}",
        f"suspended\t-\t{OTHER}",
        "active\t-\tuser/ada",
    ]
    assert keyvault("scope", "list", "--kind", "user").out == "active\t-\tuser/ada\n"
    answer = keyvault("scope", "list", "--state", "suspended", "--json").json
    assert [scope["name"] for scope in answer["scopes"]] == [OTHER]
    assert set(answer["scopes"][0]) == {"name", *FACTS}


def test_the_name_of_a_destroyed_scope_is_gone(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER)
    assert keyvault("shred", CONSUMER, "--ticket", "T-1", "--yes").code == 0
    listed = keyvault("scope", "list", "--json").json["scopes"]
    assert [(scope["name"], scope["state"]) for scope in listed] == [(None, "destroyed")]
    assert listed[0]["error"]["type"] == "ScopeDestroyedError"


def test_scope_show(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER)
    answer = keyvault("scope", "show", CONSUMER, "--json").json
    assert set(answer) == {"name", *FACTS}
    assert (answer["state"], answer["kind"], answer["generation"]) == ("active", "consumer", 1)
    unknown = keyvault("scope", "show", OTHER)
    assert (unknown.code, "scope list" in unknown.error) == (1, True)


def test_suspending_stops_opening_and_resuming_allows_it(keyvault: Command, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    keyvault("seal", "--scope", CONSUMER, tmp_path / "in", tmp_path / "sealed")
    assert keyvault("scope", "suspend", CONSUMER).out == f"{CONSUMER}: suspended\n"
    refused = keyvault("open", tmp_path / "sealed", tmp_path / "out")
    assert (refused.code, "resume" in refused.error) == (1, True)
    assert not (tmp_path / "out").exists()
    assert keyvault("scope", "resume", CONSUMER, "--json").json["scopes"][0]["state"] == "active"
    assert keyvault("open", tmp_path / "sealed", tmp_path / "out").code == 0


def test_one_scope_that_cannot_be_moved_does_not_keep_the_others(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER)
    result = keyvault("scope", "suspend", CONSUMER, OTHER, "--json")
    assert result.code == 1
    assert [scope.get("state") for scope in result.json["scopes"]] == ["suspended", None]
    assert result.json["scopes"][1]["error"]["type"] == "UnknownScopeError"
    assert OTHER not in result.err


# --- shred and destroy -------------------------------------------------------------------------------------------------


def leave_fenced(home: TestHome, name: str) -> None:
    """Leave a destruction as a crash right after its fence does."""
    with home.opened() as opened:
        plan = Destroyer(opened).plan([name])
        fence(opened, [plan[0].row], Cause(reason="test", ticket="T-0", requested_by="tester"))  # type: ignore[union-attr]


def test_a_plan_changes_nothing(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER)
    result = keyvault("shred", CONSUMER, OTHER, "--ticket", "T-1", "--plan", "--json")
    assert result.code == 1
    assert result.json["plan"] is True
    assert result.json["approvals"] == 1
    assert [scope["action"] for scope in result.json["scopes"]] == ["destroy", None]
    assert keyvault("scope", "show", CONSUMER, "--json").json["state"] == "active"
    assert "nothing was changed" in keyvault("shred", CONSUMER, "--ticket", "T-1", "--plan").out


def test_shredding_destroys_and_says_when(keyvault: Command, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    keyvault("seal", "--scope", CONSUMER, tmp_path / "in", tmp_path / "sealed")
    result = keyvault("shred", CONSUMER, "--ticket", "T-1", "--reason", "gdpr", "--yes")
    assert result.code == 0
    assert f"{CONSUMER}: destroyed at " in result.out
    assert "approvals: 1 (this home requires one)" in result.out
    assert "cannot be undone" in result.err
    gone = keyvault("open", tmp_path / "sealed", tmp_path / "out")
    assert (gone.code, "destroyed" in gone.error) == (1, True)
    again = keyvault("shred", CONSUMER, "--ticket", "T-1", "--yes", "--json")
    assert (again.code, again.json["scopes"][0]["outcome"]) == (0, "already destroyed")


def test_one_bad_name_refuses_all(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER)
    result = keyvault("shred", CONSUMER, OTHER, "--ticket", "T-1", "--yes")
    assert (result.code, result.error.startswith("name 2 of 2: ")) == (1, True)
    assert keyvault("scope", "show", CONSUMER, "--json").json["state"] == "active"


def test_without_a_terminal_it_takes_yes(small: TestHome) -> None:
    ensure(small, CONSUMER)
    result = program(small.path, "shred", CONSUMER, "--ticket", "T-1", stdin=b"1\n")
    assert result.code == 1
    assert "no terminal" in result.err
    assert program(small.path, "status", "--json").json["scopes"]["active"] == 1


@pytest.mark.parametrize(("typed", "code", "active"), [("1", 1, 2), ("yes", 1, 2), ("2", 0, 0)])
def test_on_a_terminal_the_count_is_typed(small: TestHome, typed: str, code: int, active: int) -> None:
    ensure(small, CONSUMER, OTHER)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as terminal:
        terminal.write(f"{typed}\n".encode())
        done = subprocess.run(
            [*PROGRAM, "--home", str(small.path), "shred", CONSUMER, OTHER, "--ticket", "T-1"],
            stdin=theirs,
            capture_output=True,
            cwd=ROOT,
            check=False,
        )
        os.close(theirs)
    assert done.returncode == code
    assert b"Destroy 2 scopes for good? Type 2 to go on: " in done.stderr
    assert program(small.path, "status", "--json").json["scopes"]["active"] == active


@pytest.mark.parametrize(
    "options", [["--ticket", " "], ["--ticket", "x" * 257], ["--ticket", "T", "--reason", "Why?"], []]
)
def test_a_malformed_cause_is_refused_first(keyvault: Command, small: TestHome, options: list[str]) -> None:
    ensure(small, CONSUMER, OTHER)
    leave_fenced(small, OTHER)
    assert keyvault("shred", CONSUMER, "--yes", *options).code == 2
    assert keyvault("status", "--json").json["scopes"] == {
        "active": 1,
        "suspended": 0,
        "deactivated": 1,
        "destroyed": 0,
    }


def test_what_a_crash_left_is_finished_first(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER, OTHER)
    leave_fenced(small, OTHER)
    result = keyvault("shred", CONSUMER, "--ticket", "T-1", "--yes", "--json")
    assert result.code == 0
    assert "First finishing 1 destruction that an earlier run began." in result.err
    assert [entry["error"] for entry in result.json["finished_earlier"]] == [None]
    assert keyvault("status", "--json").json["scopes"]["destroyed"] == 2


def test_pausing_stops_shredding_and_resuming_finishes(keyvault: Command, small: TestHome) -> None:
    ensure(small, CONSUMER, OTHER)
    leave_fenced(small, OTHER)
    assert keyvault("destroy", "pause", "--json").json == {"paused": True, "changed": True}
    assert keyvault("destroy", "pause", "--json").json == {"paused": True, "changed": False}
    refused = keyvault("shred", CONSUMER, "--ticket", "T-1", "--yes")
    assert (refused.code, "destroy resume" in refused.error) == (1, True)
    status = keyvault("destroy", "status", "--json").json
    assert (status["paused"], status["pending"], len(status["scopes"])) == (True, 1, 1)
    resumed = keyvault("destroy", "resume", "--json")
    assert (resumed.code, resumed.json["changed"], len(resumed.json["finished"])) == (0, True, 1)
    assert keyvault("destroy", "status", "--json").json["pending"] == 0


def test_a_destruction_that_cannot_be_finished_stays_pending(
    keyvault: Command, small: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyvault.errors import Unavailable
    from keyvault.transit.embedded import EmbeddedEngine

    ensure(small, CONSUMER)

    def down(_engine: EmbeddedEngine, _name: str) -> None:
        raise Unavailable("down")

    monkeypatch.setattr(EmbeddedEngine, "rotate", down)
    result = keyvault("shred", CONSUMER, "--ticket", "T-1", "--yes")
    assert result.code == 1
    assert f"{CONSUMER}: pending: " in result.out
    assert "destroy resume" in result.err
    resumed = keyvault("destroy", "resume")
    assert (resumed.code, "0 pending destructions finished, 1 left" in resumed.out) == (1, True)
    monkeypatch.undo()
    assert keyvault("destroy", "resume").code == 0


# --- what all commands share -------------------------------------------------------------------------------------------


def test_every_output_of_a_simulated_clock_says_so(
    command: Callable[[Path], Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = embedded_home(tmp_path, clock="simulated")
    keyvault = command(home.path)
    monkeypatch.setenv("KEYVAULT_NOW", "2030-01-02T03:04:05Z")
    (tmp_path / "in").write_text("hello")
    line = "simulated clock: 2030-01-02T03:04:05+00:00"
    assert keyvault("seal", "--scope", "communications/a/2030-01", tmp_path / "in", tmp_path / "out").err == f"{line}\n"
    for args in (["status"], ["doctor"], ["scope", "list"], ["destroy", "status"], ["destroy", "pause"], ["init"]):
        result = keyvault(*args, "--json")
        assert result.json["clock"] == "simulated", args
        assert line in result.err
    error = keyvault("scope", "show", OTHER, "--json")
    assert (error.code, error.json["clock"]) == (1, "simulated")
    monkeypatch.setenv("KEYVAULT_NOW", "soon")
    assert (keyvault("status").code, "ISO 8601" in keyvault("status").error) == (1, True)


def test_errors_are_json_too(keyvault: Command) -> None:
    result = keyvault("scope", "show", "phone/1", "--json")
    assert result.code == 2
    assert result.json["error"]["type"] == "InvalidScopeError"
    assert result.error == result.json["error"]["message"]


def test_a_closed_pipe_is_quiet(small: TestHome) -> None:
    ensure(small, *[f"user/{number}" for number in range(50)])
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [*PROGRAM, "--home", str(small.path), "scope", "list"],
            stdout=closed,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_full_standard_output_is_an_error(small: TestHome) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*PROGRAM, "--home", str(small.path), "status"], stdout=full, stderr=subprocess.PIPE, cwd=ROOT, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"keyvault: error: No space left on device\n"


def test_nothing_is_coloured_when_piped(small: TestHome) -> None:
    ensure(small, CONSUMER)
    for args in (["scope", "list"], ["status"], ["doctor"], ["--help"]):
        result = program(small.path, *args, env={"FORCE_COLOR": "", "CLICOLOR_FORCE": ""})
        assert "\x1b" not in result.out + result.err
