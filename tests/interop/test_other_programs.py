"""What our log writes, judged by programs that others wrote: each accepts it, and each refuses a copy that was tampered with.

Tessera's fsck, torchwood, `note` and `tlog` of golang.org/x/mod, and OpenSSL.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import pytest

from keyvault.results import values_of
from shredder.log.checkpoint import Checkpoint, open_checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.merkle import consistency_proof, inclusion_proof
from shredder.log.note import ED25519, VerifierKey, split_note
from shredder.log.proof import Proof
from shredder.log.tiles import encode_bundle, tiles_of
from tests.homes import TestHome, embedded_home
from tests.interop.programs import fsck, judge
from tests.log_oracle import Signer
from tests.logs import LOG_KEY, ORIGIN, SIGNER, signed, write_log
from tests.vectors import load

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "log-checkpoint.md"
SIZES = (1, 255, 256, 257, 70_000)
CONSUMERS = [f"consumer/acct-001/+1555100{number:04}" for number in range(300)]
POLICY = f"log {LOG_KEY}\nquorum none\n"


@pytest.fixture(scope="session")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Some hundred events of a home, as they are in its log."""
    home = embedded_home(tmp_path_factory.mktemp("events"), custody="ring")
    with home.opened() as opened:
        logged(home)
        directory = LogDirectory(opened.log_directory)
        size = open_checkpoint(directory.checkpoint() or b"", key_of(home)).size
        return list(directory.entries(0, size))


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory, events: list[bytes]) -> Callable[[int], Path]:
    """`log(size)` gives the directory of a log of that many events."""
    base = tmp_path_factory.mktemp("logs")

    @cache
    def made(size: int) -> Path:
        write_log(base / str(size), entries_of(events, size))
        return base / str(size)

    return made


def entries_of(events: list[bytes], size: int) -> list[bytes]:
    return list(islice(cycle(events), size))


def logged(home: TestHome) -> None:
    """Let a home write some hundred events into its log: scopes made, suspended and destroyed."""
    with home.vault() as vault:
        values_of(vault.ensure_scopes(CONSUMERS))
        values_of(vault.suspend(CONSUMERS[:9]))
    with home.destroyer() as destroyer:
        destroyer.destroy(CONSUMERS[:3], ticket="T-17", requested_by="ada")
    with home.opened() as opened:
        opened.log.settle()


def key_of(home: TestHome) -> VerifierKey:
    with home.opened() as opened:
        return VerifierKey(name=opened.log.context.origin, type=ED25519, public=opened.log.context.public_key)


def accepted(check: str, **case: object) -> str:
    ((value, error),) = judge(check, [case])
    assert error == ""
    return value


def refused(check: str, **case: object) -> str:
    ((_, error),) = judge(check, [case])
    assert error
    return error


# --- a home's own log ------------------------------------------------------------------------------------------------


def test_the_log_of_a_home(home: TestHome, tmp_path: Path) -> None:
    """From the engine's signature to the last tile: fsck, torchwood, note, tlog and OpenSSL agree with us."""
    logged(home)
    key = key_of(home)
    with home.opened() as opened:
        path = opened.log_directory
    note = LogDirectory(path).checkpoint() or b""
    checkpoint = open_checkpoint(note, key)
    root = b64encode(checkpoint.root).decode()
    assert checkpoint.size > 300
    assert fsck(path, str(key), tmp_path) == (checkpoint.size, root)
    assert accepted("directory", path=str(path), key=str(key), note=note) == f"{checkpoint.size} {root}"
    assert accepted("note", key=str(key), note=note) == checkpoint.text
    assert openssl(key, note, tmp_path)
    proof = proof_of(path, note, checkpoint, 7)
    (entry,) = LogDirectory(path).entries(7, 8)
    accepted("proof", policy=f"log {key}\nquorum none\n", proof=proof.text, entry=entry)


# --- the directory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_fsck_and_tlog_find_our_size_and_root(
    log: Callable[[int], Path], events: list[bytes], tmp_path: Path, size: int
) -> None:
    path = log(size)
    note = LogDirectory(path).checkpoint() or b""
    checkpoint = open_checkpoint(note, LOG_KEY)
    root = b64encode(checkpoint.root).decode()
    assert fsck(path, str(LOG_KEY), tmp_path) == (size, root)
    assert accepted("directory", path=str(path), key=str(LOG_KEY), note=note) == f"{size} {root}"
    assert accepted("root", entries=entries_of(events, size)) == root


def test_fsck_refuses_every_kind_of_tampering(log: Callable[[int], Path], events: list[bytes], tmp_path: Path) -> None:
    """One change in any file, an entry dropped, added or moved, a file gone, an older or a forged checkpoint."""
    tampered = tmp_path / "tampered"
    for name, change in changes(log(256), events).items():
        shutil.copytree(log(257), tampered)
        change(tampered)
        assert fsck(tampered, str(LOG_KEY), tmp_path) is None, name
        assert judge("directory", [directory_case(tampered)])[0][1], name
        shutil.rmtree(tampered)
    shutil.copytree(log(257), tampered)
    assert fsck(tampered, str(LOG_KEY), tmp_path) is not None


def directory_case(path: Path) -> dict[str, object]:
    return {"path": str(path), "key": str(LOG_KEY), "note": (path / "checkpoint").read_bytes()}


def changes(older: Path, events: list[bytes]) -> dict[str, Callable[[Path], object]]:
    entries = entries_of(events, 257)

    def bundle(*first: bytes) -> Callable[[Path], object]:
        return lambda copy: (copy / "tile/entries/000").write_bytes(encode_bundle(first))

    def checkpoint(note: bytes) -> Callable[[Path], object]:
        return lambda copy: (copy / "checkpoint").write_bytes(note)

    def flip(name: str) -> Callable[[Path], object]:
        return lambda copy: (copy / name).write_bytes(flipped((copy / name).read_bytes()))

    forged = Checkpoint(origin=ORIGIN, size=257, root=bytes(32))
    stranger = Checkpoint(origin="example.com/another", size=257, root=bytes(32))
    files = [tile.path for tile in tiles_of(257)]
    return {
        **{name: flip(name) for name in [*files, "checkpoint"]},
        **{f"{name} gone": lambda copy, name=name: (copy / name).unlink() for name in files},  # type: ignore[misc]
        "an entry dropped": bundle(*entries[1:256]),
        "an entry repeated": bundle(entries[0], *entries[:255]),
        "entries exchanged": bundle(entries[1], entries[0], *entries[2:256]),
        "a root that is not its own": checkpoint(signed(forged)),
        "signed by another log": checkpoint(signed(stranger)),
        "of an older log with a newer text": checkpoint(
            (older / "checkpoint").read_bytes().replace(b"\n256\n", b"\n257\n")
        ),
    }


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_an_older_checkpoint_passes_everywhere_so_the_auditor_keeps_one(
    log: Callable[[int], Path], tmp_path: Path
) -> None:
    """A log rolled back is whole in itself: only consistency with a checkpoint that somebody kept shows it."""
    rolled_back = tmp_path / "log"
    shutil.copytree(log(256), rolled_back)
    assert fsck(rolled_back, str(LOG_KEY), tmp_path) is not None
    kept = open_checkpoint(LogDirectory(log(257)).checkpoint() or b"", LOG_KEY)
    shown = open_checkpoint(LogDirectory(rolled_back).checkpoint() or b"", LOG_KEY)
    refused("tree", size=shown.size, root=shown.root, old=kept.size, old_root=kept.root, hashes=[])


# --- notes, checkpoints and OpenSSL ----------------------------------------------------------------------------------


def altered_bytes(data: bytes) -> list[bytes]:
    """Return copies with one byte altered each, but for the last letter before `=`: two bits of it Go does not read (we do)."""
    places = [at for at in range(len(data)) if data[at + 1 : at + 2] != b"="]
    return [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in places]


def test_every_altered_byte_of_a_checkpoint_is_refused(log: Callable[[int], Path]) -> None:
    note = LogDirectory(log(256)).checkpoint() or b""
    assert accepted("checkpoint", policy=POLICY, note=note) == accepted("note", key=str(LOG_KEY), note=note)
    altered = altered_bytes(note)
    for check, how in [("note", {"key": str(LOG_KEY)}), ("checkpoint", {"policy": POLICY})]:
        answers = judge(check, [{"note": each, **how} for each in altered])
        assert all(error for _, error in answers)


def test_a_cosigned_checkpoint_meets_a_policy_with_a_witness(log: Callable[[int], Path]) -> None:
    note = LogDirectory(log(256)).checkpoint() or b""
    witness, stranger = Signer("example.com/witness", b"W" * 32, kind=4), Signer("example.com/w2", b"w" * 32, kind=4)
    policy = f"log {LOG_KEY}\nwitness W {witness.vkey}\nquorum W\n"
    text = split_note(note)[0]
    cosigned = note + witness.line(text, 1_790_000_000).encode()
    assert accepted("checkpoint", policy=policy, note=cosigned) == text
    for other in (note, note + stranger.line(text, 1_790_000_000).encode(), note + witness.line_of(bytes(72)).encode()):
        refused("checkpoint", policy=policy, note=other)


def test_openssl_verifies_the_signature_over_the_body(log: Callable[[int], Path], tmp_path: Path) -> None:
    note = LogDirectory(log(257)).checkpoint() or b""
    assert openssl(LOG_KEY, note, tmp_path)
    assert not openssl(LOG_KEY, note.replace(b"\n257\n", b"\n258\n"), tmp_path)
    assert not openssl(Signer("n", b"O" * 32), note, tmp_path)


def openssl(key: VerifierKey | Signer, note: bytes, folder: Path) -> bool:
    """Verify with the commands of docs/formats/log-checkpoint.md, which take what an auditor has: the key's line and the file."""
    (commands,) = re.findall(r"^## By hand\n.*?\n\n((?:    [^\n]*\n)+)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (folder / "log.vkey").write_text(f"{key.vkey if isinstance(key, Signer) else key}\n")
    (folder / "checkpoint").write_bytes(note)
    done = subprocess.run(["sh", "-eu"], input=commands, cwd=folder, capture_output=True, text=True, check=False)
    assert ("Signature Verified Successfully" in done.stdout) == (done.returncode == 0), done.stderr
    assert ("Signature Verification Failure" in done.stdout) == (done.returncode == 1), done.stderr
    return done.returncode == 0


# --- proofs ----------------------------------------------------------------------------------------------------------


def proof_of(path: Path, note: bytes, checkpoint: Checkpoint, index: int) -> Proof:
    node = LogDirectory(path).node(checkpoint.size)
    return Proof(index=index, hashes=inclusion_proof(index, checkpoint.size, node), checkpoint=note)


@pytest.mark.parametrize("size", SIZES)
def test_torchwood_verifies_our_proof_files(log: Callable[[int], Path], events: list[bytes], size: int) -> None:
    entries, note = entries_of(events, size), LogDirectory(log(size)).checkpoint() or b""
    checkpoint = open_checkpoint(note, LOG_KEY)
    indices = sorted({0, size // 3, size // 2, size - 1})
    proofs = [proof_of(log(size), note, checkpoint, index) for index in indices]
    cases = [
        {"policy": POLICY, "proof": proof.text, "entry": entries[index]}
        for index, proof in zip(indices, proofs, strict=True)
    ]
    assert [error for _, error in judge("proof", cases)] == [""] * len(cases)
    others = [{**case, "entry": b"another"} for case in cases]
    assert all(error for _, error in judge("proof", others))


def test_torchwood_refuses_every_altered_byte_of_a_proof_file(log: Callable[[int], Path], events: list[bytes]) -> None:
    note = LogDirectory(log(257)).checkpoint() or b""
    whole = proof_of(log(257), note, open_checkpoint(note, LOG_KEY), 200).text
    cases = [{"policy": POLICY, "proof": each, "entry": events[200]} for each in altered_bytes(whole)]
    answers = judge("proof", cases)
    assert all(error for _, error in answers)


@pytest.mark.parametrize("size", SIZES)
def test_tlog_checks_our_inclusion_proofs(log: Callable[[int], Path], events: list[bytes], size: int) -> None:
    entries, directory = entries_of(events, size), LogDirectory(log(size))
    root, node = open_checkpoint(directory.checkpoint() or b"", LOG_KEY).root, directory.node(size)
    indices = range(0, size, max(1, size // 40))
    cases = [
        {
            "index": index,
            "size": size,
            "root": root,
            "entry": entries[index],
            "hashes": inclusion_proof(index, size, node),
        }
        for index in indices
    ]
    assert [error for _, error in judge("record", cases)] == [""] * len(cases)
    assert all(error for _, error in judge("record", [{**case, "root": bytes(32)} for case in cases]))
    assert all(error for _, error in judge("record", [{**case, "entry": b"another"} for case in cases]))


@pytest.mark.parametrize("size", SIZES[1:])
def test_tlog_checks_our_consistency_proofs(log: Callable[[int], Path], events: list[bytes], size: int) -> None:
    directory = LogDirectory(log(size))
    root, node = open_checkpoint(directory.checkpoint() or b"", LOG_KEY).root, directory.node(size)
    olds = [1, 2, 3, 128, 200, size - 1, size]
    roots = [b64decode(value) for value, _ in judge("root", [{"entries": entries_of(events, old)} for old in olds])]
    cases = [
        {"size": size, "root": root, "old": old, "old_root": found, "hashes": consistency_proof(old, size, node)}
        for old, found in zip(olds, roots, strict=True)
    ]
    assert [error for _, error in judge("tree", cases)] == [""] * len(cases)
    assert all(error for _, error in judge("tree", [{**case, "old_root": bytes(32)} for case in cases]))
    assert all(error for _, error in judge("tree", [{**case, "old": int(str(case["old"])) + 1} for case in cases]))


# --- the vectors -----------------------------------------------------------------------------------------------------


def test_tlog_makes_the_vectors_of_the_rfc() -> None:
    vectors = load("rfc6962")
    entries = [bytes.fromhex(entry) for entry in vectors["entries"]]
    for size, root in enumerate(vectors["roots"], 1):
        assert b64decode(accepted("root", entries=entries[:size])).hex() == root
    for check, name in [("inclusion", "index"), ("consistency", "old")]:
        rows = vectors[check]
        cases = [{"entries": entries[: row["size"]], name: row[name]} for row in rows]
        for row, (value, error) in zip(rows, judge(check, cases), strict=True):
            assert error == ""
            assert [b64decode(line).hex() for line in value.split()] == row["proof"]


def test_torchwood_reads_the_paths_of_the_vectors() -> None:
    rows = load("log-tiles")["valid"]
    expected = [f"{-1 if row['level'] is None else row['level']} {row['number']} {row['width']}" for row in rows]
    assert judge("path", [{"path": row["path"]} for row in rows]) == [(value, "") for value in expected]
    bad = [row["path"] for row in load("log-tiles")["invalid"]]
    taken = [
        path for path, (_, error) in zip(bad, judge("path", [{"path": path} for path in bad]), strict=True) if not error
    ]
    # A level that no tree needs, and the name that bundles have in the log of Go's checksums: we are stricter.
    assert taken == ["tile/64/000", "tile/data/000"]


def test_note_and_torchwood_judge_the_checkpoints_of_the_vectors_as_we_do() -> None:
    vectors = load("log-checkpoint")
    assert SIGNER.public_key().public_bytes_raw() == LOG_KEY.public
    for row in vectors["valid"]:
        assert (
            accepted("checkpoint", policy=f"log {row['key']}\nquorum none\n", note=row["note"].encode()) == row["text"]
        )
    for row in vectors["invalid"]:
        refused("checkpoint", policy=f"log {row['key']}\nquorum none\n", note=row["note"].encode())
