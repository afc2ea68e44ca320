"""Making packs: whole or not there, of the log as it stands, and never in the place of something else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyvault.errors import LogError, VerificationError
from keyvault.results import values_of
from shredder.audit.home_pack import pack_home
from shredder.audit.manifest import MANIFEST, POPULATION
from shredder.audit.pack import make_pack
from shredder.log.checkpoint import Checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.merkle import leaf_hash, root_of
from shredder.log.note import ED25519, VerifierKey
from shredder.verify import Evidence, verify_pack
from tests.audit.packs import NOW, Material, lines, note_of, packed, verified
from tests.homes import TestHome
from tests.logs import LOG_KEY, ORIGIN, SIGNER, signed, write_log

MONTH = f"communications/acct-001/{datetime.now(UTC):%Y-%m}"
PEOPLE = [f"consumer/acct-001/c{index}" for index in range(3)]
ENTRIES = [b'{"type":"request.cancelled","v":1}' for _ in range(300)]


def ignored(_size: int) -> Callable[[int], None]:
    return lambda _: None


def simple(folder: Path) -> Path:
    """Make a pack of entries that mean nothing."""
    write_log(folder / "log", ENTRIES)
    return again(folder)


def again(folder: Path) -> Path:
    log = LogDirectory(folder / "log")
    note = log.checkpoint()
    assert note is not None
    make_pack(folder / "pack", log=log, log_key=LOG_KEY, note=note, account_months=list)
    return folder / "pack"


def tree_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_home_gives_a_pack_that_verifies_alone(home: TestHome, tmp_path: Path) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes([MONTH, *PEOPLE]))
    with home.destroyer() as destroyer:
        destroyer.destroy([MONTH, PEOPLE[0]], ticket="T-1", requested_by="ada")
    with home.opened("issuer") as opened:
        done = pack_home(opened, tmp_path / "pack", ignored)
        key = VerifierKey(name=opened.log.context.origin, type=ED25519, public=opened.log.context.public_key)
    assert done.proofs in {1, 2}  # in ring custody, an account-month is in another ring than people are
    assert done.account_months == 1
    found = verify_pack(tmp_path / "pack", Evidence(log_key=key), at=datetime.now(UTC))
    assert lines(found) == []
    assert found.checkpoint == done.checkpoint
    assert found.ledger is not None
    assert (found.ledger.created, found.ledger.destroyed, found.ledger.live) == (4, 2, 2)


def test_what_came_after_the_checkpoint_is_not_in_the_pack(thousand: Material, tmp_path: Path) -> None:
    first = next(at for at, entry in enumerate(thousand.entries) if b"scope.created" in entry)
    pack = packed(tmp_path, thousand, thousand.entries[: first + 1])
    assert (pack / POPULATION).read_bytes().count(b"\n") <= 1


def test_a_pack_is_replaced_by_a_newer_one(tmp_path: Path, thousand: Material) -> None:
    pack = packed(tmp_path, thousand, thousand.entries[:-10])
    old = note_of(pack)
    packed(tmp_path, thousand)
    assert lines(verified(pack, thousand.at, previous=old)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "pack"]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    assert (simple(tmp_path) / MANIFEST).is_file()


@pytest.mark.parametrize("what", ["files", "a file", "a link", "a pack of another log"])
def test_nothing_else_is_overwritten(tmp_path: Path, what: str) -> None:
    target = tmp_path / "pack"
    if what == "files":
        target.mkdir()
        (target / "letter.txt").write_text("Dear Ada")
    elif what == "a file":
        target.write_text("Dear Ada")
    elif what == "a link":
        (tmp_path / "elsewhere").mkdir()
        target.symlink_to(tmp_path / "elsewhere")
    else:
        simple(tmp_path)
        (target / "log-key").write_text(f"{VerifierKey(name='other/log', type=ED25519, public=LOG_KEY.public)}\n")
    before = tree_of(tmp_path)
    with pytest.raises(LogError, match="is no pack of this log: nothing was written"):
        simple(tmp_path)
    after = tree_of(tmp_path)
    assert {name: data for name, data in after.items() if not name.startswith("log/")} == {
        name: data for name, data in before.items() if not name.startswith("log/")
    }


def test_another_keys_checkpoint_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path / "log", ENTRIES)
    other = VerifierKey(name=ORIGIN, type=ED25519, public=bytes(32))
    with pytest.raises(VerificationError):
        make_pack(tmp_path / "pack", log=LogDirectory(tmp_path / "log"), log_key=other, note=b"x", account_months=list)
    assert not (tmp_path / "pack").exists()


def test_a_directory_that_is_not_its_checkpoints_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path / "log", ENTRIES)
    root = root_of([leaf_hash(b"other"), *(leaf_hash(entry) for entry in ENTRIES[1:])])
    note = signed(Checkpoint(origin=ORIGIN, size=len(ENTRIES), root=root), SIGNER)
    with pytest.raises(LogError, match="not those of its checkpoint"):
        make_pack(
            tmp_path / "pack", log=LogDirectory(tmp_path / "log"), log_key=LOG_KEY, note=note, account_months=list
        )
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_store_that_is_older_than_the_log_is_refused(thousand: Material, tmp_path: Path) -> None:
    write_log(tmp_path / "log", thousand.entries)
    with pytest.raises(LogError, match="90 account-months of the log are not in the store"):
        again(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("before", [False, True])
def test_a_crash_leaves_the_older_pack_or_none_and_the_next_run_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Killed at every rename and every sync: what stands at the name is a whole pack, or nothing."""
    pack = tmp_path / "pack"
    if before:
        simple(tmp_path)
    whole = tree_of(simple(tmp_path / "other"))
    write_log(tmp_path / "log", ENTRIES)
    for step in range(200):
        with monkeypatch.context() as patch:
            count = kill_at(patch, step)
            try:
                again(tmp_path)
            except Killed:
                assert not pack.exists() or tree_of(pack) == whole
                continue
        assert count() <= step
        break
    else:
        pytest.fail("it never ended")
    assert tree_of(pack) == whole


def kill_at(patch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Let a run die before its sync or rename of that number; nothing that would clean up runs any more."""
    done = 0

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def instead(*args: object) -> object:
            nonlocal done
            if done == step:
                raise Killed
            done += 1
            return call(*args)

        return instead

    patch.setattr(os, "fsync", counted(os.fsync))
    patch.setattr(Path, "rename", counted(Path.rename))
    patch.setattr(shutil, "rmtree", lambda *_args, **_options: None)
    return lambda: done


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    write_log(tmp_path / "log", ENTRIES)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LogError, match="No space left on device"):
        again(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_the_commands_in_its_readme_verify_it(pack: Path, tmp_path: Path) -> None:
    """Those of coreutils and OpenSSL, in a plain locale; and they refuse what was changed."""
    text = (pack / "README.txt").read_text()
    part = text[text.index("Files arrived whole") : text.index("The whole tree")]
    script = "set -e\n" + "".join(line for line in part.splitlines(keepends=True) if line.startswith("  "))
    assert "openssl pkeyutl -verify" in script

    def run(folder: Path) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TMPDIR": str(tmp_path)}
        return subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=False)

    good = run(pack)
    assert (good.returncode, good.stdout) == (0, "Signature Verified Successfully\n"), good.stderr
    bad = tmp_path / "bad"
    subprocess.run(["cp", "-r", pack, bad], check=True)
    (bad / "checkpoint").write_bytes(note_of(pack).replace(b"\n1", b"\n2", 1))
    assert run(bad).returncode != 0
    script = script.replace("sha256sum", "true")
    assert run(bad).returncode != 0


def test_a_log_without_a_destruction(tmp_path: Path) -> None:
    pack = simple(tmp_path)
    assert not (pack / "proofs").exists()
    assert (pack / POPULATION).read_bytes() == b""
    assert verified(pack, NOW).checkpoint is not None
