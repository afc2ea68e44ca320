"""Bad input and a bad surrounding: one clear line, the documented exit code, nothing changed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, ROOT, Command, program
from tests.homes import TestHome

NAME = "consumer/acct-001/+15550100001"

MALFORMED = {
    "unknown kind": "phone/acct-001/1",
    "no such month": "communications/acct-001/2024-13",
    "month zero": "communications/acct-001/2024-00",
    "600 bytes": f"user/{'x' * 595}",
    "control character": "user/ada\x07",
    "line feed": "user/ada\nlovelace",
    "empty account": "communications//2026-01",
    "empty": "",
    "look-alike letters": "user/p\u0430ypal",
    "invisible character": "user/ada\u200b",
    "not normalized": "user/Ame\u0301lie",
    "bytes that are not UTF-8": "user/\udcff",
    "too few segments": "communications/acct-001",
    "needless escape": "user/%41da",
}
UNTIMELY = {
    "future month": ("communications/acct-001/2999-01", "in the future"),
    "month past due": ("communications/acct-001/2020-01", "retention period ended"),
}


def contents(home: TestHome) -> dict[str, list[str]]:
    """Return all that store and engine hold."""
    found = {}
    for path in (home.path / "store.db", home.path.parent / "engine" / "engine.db"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found[path.name] = list(connection.iterdump())
    return found


@pytest.fixture
def unchanged(small: TestHome) -> Iterator[None]:
    """What the test does must leave store and engine as they were."""
    before = contents(small)
    yield
    assert contents(small) == before


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.write_text("hello")
    return path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", MALFORMED.values(), ids=MALFORMED)
def test_malformed_names(keyvault: Command, source: Path, name: str) -> None:
    out = source.with_name("out")
    commands: list[list[str | Path]] = [
        ["seal", "--scope", NAME, "--scope", name, source, out],
        ["scope", "show", name],
        ["scope", "suspend", NAME, name],
        ["scope", "resume", name],
        ["shred", name, "--ticket", "T-1", "--yes"],
    ]
    for args in commands:
        result = keyvault(*args)
        assert result.code == 2, args
        assert "docs/formats/scope-names.md" in result.error
        # Names identify people: no message repeats one.
        assert name not in result.err or len(name) < 2
    assert not out.exists()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("name", "words"), UNTIMELY.values(), ids=UNTIMELY)
def test_months_that_are_over_or_have_not_begun(keyvault: Command, source: Path, name: str, words: str) -> None:
    result = keyvault("seal", "--scope", NAME, "--scope", name, source, source.with_name("out"))
    assert (result.code, words in result.error) == (1, True)
    assert not source.with_name("out").exists()


@pytest.mark.usefixtures("unchanged")
def test_what_the_policy_or_the_custody_refuses(keyvault: Command, source: Path) -> None:
    out = source.with_name("out")
    seal = ("seal", "--scope", "business/acct-001/2026")
    purpose = keyvault(*seal, "--purpose", "marketing", source, out)
    assert (purpose.code, "policy" in purpose.error) == (1, True)
    record = keyvault(*seal, "--record", "msg-1", source, out)
    assert (record.code, "only account-months have records" in record.error) == (1, True)
    assert keyvault(*seal, *seal[1:], source, out).code == 2
    many = [part for number in range(9) for part in ("--scope", f"user/{number}")]
    assert keyvault("seal", *many, source, out).code == 2


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "args",
    [
        ["frobnicate"],
        ["seal"],
        ["seal", "--scope", NAME],
        ["open", "a"],
        ["shred", NAME],
        ["scope"],
        ["scope", "list", "--kind", "x"],
    ],
    ids=" ".join,
)
def test_usage(keyvault: Command, args: list[str]) -> None:
    result = keyvault(*args)
    assert (result.code, "Traceback" in result.err) == (2, False)


# --- homes -------------------------------------------------------------------------------------------------------------


def test_missing_home(command: Callable[[Path], Command], tmp_path: Path, source: Path) -> None:
    keyvault = command(tmp_path / "nowhere")
    for args in (["status"], ["doctor"], ["scope", "list"], ["destroy", "pause"], ["open", source, tmp_path / "out"]):
        result = keyvault(*args)
        assert (result.code, "keyvault --home" in result.error) == (1, True)
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "out").exists()


def test_home_that_is_a_file(command: Callable[[Path], Command], source: Path) -> None:
    assert command(source)("status").code == 1
    assert command(source)("init").code == 1
    assert source.read_text() == "hello"


@pytest.mark.parametrize("text", ["\x00\x01", "engine = 7", "id = 'x'", "nonsense = 1\n"])
def test_settings_that_make_no_sense(keyvault: Command, small: TestHome, text: str) -> None:
    (small.path / "keyvault.toml").write_text(text)
    result = keyvault("status")
    assert (result.code, "keyvault.toml" in result.error) == (1, True)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://nobody@127.0.0.1:1/keys", "cannot be reached"),
        ("postgresql://no.such.host.invalid/keys", "cannot be reached"),
        ("mysql://localhost/keys", "mysql"),
        ("certainly not", "does not parse"),
        ("sqlite:////no/such/store.db", "missing"),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_wrong_database_url(
    keyvault: Command, source: Path, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    monkeypatch.setenv("KEYVAULT_STORE", url)
    for args in (["status"], ["seal", "--scope", NAME, source, source.with_name("out")]):
        result = keyvault(*args)
        assert (result.code, words in result.error) == (1, True)
    doctor = keyvault("doctor")
    assert (doctor.code, words in doctor.out) == (1, True)
    assert not source.with_name("out").exists()


def test_database_of_another_home(keyvault: Command, small: TestHome, command: Callable[[Path], Command]) -> None:
    other = small.path.with_name("other")
    assert command(other)("init").code == 0
    (other / "store.db").replace(small.path / "store.db")
    result = keyvault("status")
    assert (result.code, "another home" in result.error) == (1, True)


def test_database_from_a_newer_migration(keyvault: Command, small: TestHome, source: Path) -> None:
    with contextlib.closing(sqlite3.connect(small.path / "store.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = contents(small)
    for args in (["status"], ["seal", "--scope", NAME, source, source.with_name("out")], ["init"]):
        result = keyvault(*args)
        assert (result.code, "9999" in result.error) == (1, True)
    assert contents(small) == before
    assert keyvault("doctor").code == 1


@pytest.mark.parametrize("name", ["store.db", "../engine/engine.db"])
@pytest.mark.parametrize("content", [b"this is no database, but long enough to look like one" * 10, b""])
def test_a_file_that_is_no_database(
    keyvault: Command, small: TestHome, source: Path, name: str, content: bytes
) -> None:
    (small.path / name).write_bytes(content)
    result = keyvault("seal", "--scope", NAME, source, source.with_name("out"))
    assert (result.code, len(result.error) > 20) == (1, True)
    assert keyvault("doctor").code == 1
    assert not source.with_name("out").exists()


# --- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "content", [b"", b"KV", b"hello, world", b"KVS\x02 from the future", b"KVW\x01", b"\x00" * 5000]
)
def test_wrong_file_type(keyvault: Command, source: Path, content: bytes) -> None:
    source.write_bytes(content)
    result = keyvault("open", source, source.with_name("out"))
    assert (result.code, len(result.error) > 20) == (3, True)
    assert not source.with_name("out").exists()


def test_truncated_altered_and_extended_files(keyvault: Command, source: Path) -> None:
    sealed, out = source.with_name("sealed"), source.with_name("out")
    assert keyvault("seal", "--scope", NAME, source, sealed).code == 0
    whole = sealed.read_bytes()
    altered = bytearray(whole)
    altered[-1] ^= 1
    for data in (*(whole[:size] for size in range(0, len(whole), 7)), whole + b"\x00", bytes(altered)):
        sealed.write_bytes(data)
        result = keyvault("open", sealed, out)
        assert (result.code, len(result.error) > 20) == (3, True)
    assert files(source.parent) == {"in", "sealed", "home", "engine"}


def test_a_stream_that_fails_late_leaves_no_file_and_exits_3(keyvault: Command, small: TestHome, source: Path) -> None:
    sealed, out = source.with_name("sealed"), source.with_name("out")
    source.write_bytes(os.urandom(3_000_000))
    assert keyvault("seal", "--scope", NAME, source, sealed).code == 0
    data = bytearray(sealed.read_bytes())
    data[-1] ^= 1
    sealed.write_bytes(data)
    assert keyvault("open", sealed, out).code == 3
    assert files(source.parent) == {"in", "sealed", "home", "engine"}
    # What is in a pipe cannot be taken back: only verified segments are written, and the exit code tells.
    done = subprocess.run(
        [*PROGRAM, "--home", str(small.path), "open", str(sealed), "-"], capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == 3
    assert done.stdout == source.read_bytes()[: len(done.stdout)]
    assert len(done.stdout) == 2 * 1024 * 1024


@pytest.mark.usefixtures("unchanged")
def test_paths_that_cannot_be_used(keyvault: Command, source: Path, tmp_path: Path) -> None:
    missing, folder = tmp_path / "missing", tmp_path / "home"
    seal = ("seal", "--scope", NAME)
    cases: list[tuple[list[str | Path], str]] = [
        ([*seal, missing, tmp_path / "out"], "No such file"),
        ([*seal, folder, tmp_path / "out"], "Is a directory"),
        ([*seal, source, folder], "is a directory"),
        ([*seal, source, source / "out"], "Not a directory"),
        (["open", missing, tmp_path / "out"], "No such file"),
        (["import-records", missing, tmp_path / "out"], "No such file"),
        (["import-records", source, source], "File exists"),
    ]
    for args, words in cases:
        result = keyvault(*args)
        assert (result.code, words in result.error) == (1, True), args
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("unchanged")
def test_an_output_in_a_missing_directory_is_noticed_first(keyvault: Command, source: Path, tmp_path: Path) -> None:
    result = keyvault("seal", "--scope", NAME, source, tmp_path / "missing" / "out")
    assert (result.code, "missing" in result.error) == (1, True)


@pytest.mark.usefixtures("unchanged")
def test_read_only_directory(small: TestHome, source: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    # Even root may not write there without its capabilities.
    prefix = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    result = program(small.path, "seal", "--scope", NAME, source, closed / "out", prefix=prefix)
    assert (result.code, result.error) == (1, f"{closed}: Permission denied")
    made = program(closed / "home", "init", prefix=prefix)
    assert (made.code, "Permission denied" in made.error) == (1, True)
    assert files(closed) == set()


# --- a full disk, and interruptions --------------------------------------------------------------------------------------


def limited(size: int) -> Callable[[], None]:
    """Let no file grow over `size` bytes: a full disk, as a process sees it."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_full_disk_for_the_output(small: TestHome, source: Path) -> None:
    source.write_bytes(os.urandom(3_000_000))
    sealed, out = source.with_name("sealed"), source.with_name("out")
    result = program(small.path, "seal", "--scope", NAME, source, sealed, before=limited(1_000_000))
    assert (result.code, result.error) == (1, f"{sealed}: File too large")
    assert files(source.parent) == {"in", "home", "engine"}
    assert program(small.path, "seal", "--scope", NAME, source, sealed).code == 0
    result = program(small.path, "open", sealed, out, before=limited(1_000_000))
    assert (result.code, result.error) == (1, f"{out}: File too large")
    assert files(source.parent) == {"in", "sealed", "home", "engine"}


def test_full_disk_for_the_store(small: TestHome, source: Path) -> None:
    result = program(small.path, "seal", "--scope", NAME, source, source.with_name("out"), before=limited(4096))
    assert (result.code, len(result.error) > 20) == (1, True)
    assert not source.with_name("out").exists()
    assert program(small.path, "seal", "--scope", NAME, source, source.with_name("out")).code == 0
    assert program(small.path, "doctor").code == 0


def test_full_disk_for_a_new_home(tmp_path: Path) -> None:
    for size in (0, 4096, 65536):
        result = program(tmp_path / "new", "init", before=limited(size))
        assert (result.code, len(result.error) > 20) == (1, True), size
    assert program(tmp_path / "new", "init").code == 0
    assert program(tmp_path / "new", "doctor").code == 0


@pytest.mark.parametrize(
    ("sent", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("direction", ["seal", "open"])
def test_interrupted_in_mid_stream(
    *, keyvault: Command, small: TestHome, source: Path, sent: signal.Signals, code: int, word: str, direction: str
) -> None:
    folder = source.with_name("folder")
    folder.mkdir()
    source.write_bytes(os.urandom(3_000_000))
    options = ["seal", "--scope", NAME] if direction == "seal" else ["open"]
    data = source.read_bytes()
    if direction == "open":
        assert keyvault("seal", "--scope", NAME, source, source.with_name("sealed")).code == 0
        data = source.with_name("sealed").read_bytes()
    with subprocess.Popen(
        [*PROGRAM, "--home", str(small.path), *options, "-", str(folder / "out")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(data[:-10])
        process.stdin.flush()
        wait_for(lambda: any(path.stat().st_size > 0 for path in folder.iterdir()))
        wait_for(lambda: is_waiting(process))
        process.send_signal(sent)
        assert process.wait(timeout=30) == code
        assert process.stderr.read().decode() == f"keyvault: error: {word}\n"
    assert files(folder) == set()


def is_waiting(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether a process has read all that its input has, and sleeps."""
    assert process.stdin is not None
    left = int.from_bytes(fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)), sys.byteorder)
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    return left == 0 and state == "S"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
