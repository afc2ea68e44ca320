"""Verification of a log of a million entries, made without a database or an engine, against the bare SHA-256 tree over it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from random import Random

from bench.progress import peak_memory, say
from bench.rows import Row, at_most
from keyvault.events import EventType, Value, b64, instant, make_event
from keyvault.identity import commit
from keyvault.scopes import month_due_at
from shredder.audit.pack import make_pack
from shredder.audit.population import AccountMonth
from shredder.log.checkpoint import Checkpoint, read_unverified
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.log.merkle import inclusion_proof, leaf_hash, root_of
from shredder.log.tiles import WIDTH, Edge, Tile, decode_bundle, encode_bundle
from shredder.verify import Evidence, verify_pack
from tests.logs import LOG_KEY, ORIGIN, signed

COMMAND = "make bench ARGS=audit"
ENTRIES = 1_000_000
GROUP = 1_000
"""Scopes a destruction; one in ten is destroyed."""
MONTHS = ("2026-08", "2026-09", "2026-10", "2026-11")
START = datetime(2026, 11, 24, 12, tzinfo=UTC)
ROUNDS = 3
PROOFS = 200
RIVAL = "bare SHA-256 tree over the same entries"


def run() -> list[Row]:
    """Return the rows of this file."""
    count = int(ENTRIES * float(os.environ.get("BENCH_SCALE", "1")))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        size = write_pack(path, count)
        say("verifying")
        times = [(measured("verify", path / "pack"), measured("bare", path / "pack")) for _ in range(ROUNDS)]
        peak = measured("memory", path / "pack")
        mine, rival = min(done for done, _ in times), min(done for _, done in times)
        sample = min(sample_seconds(path / "pack") for _ in range(ROUNDS))
        one_proof = measured("proof", path / "pack")
    what = f"{size:,} entries"
    whole = Row(
        name=f"{what}: verification of all, in two processes",
        value=mine,
        unit="s",
        rival=RIVAL,
        rival_value=rival,
        ratio=rival / mine,
        bar="≥ 0.333 ×",
        met=mine <= 3 * rival,
        command=COMMAND,
    )
    loaded = min(import_seconds() for _ in range(2 * ROUNDS))
    return [
        whole,
        at_most("import of shredder.verify", "s", loaded, 0.2, command=COMMAND),
        at_most(f"{what}: resident memory of both processes that verify", "MB", peak, 600, command=COMMAND),
        at_most(f"{what}: `audit verify --sample 25`, with its start", "s", sample, 1, command=COMMAND),
        at_most(f"{what}: one inclusion proof from the files", "ms", one_proof * 1000, 5, command=COMMAND),
    ]


def measured(part: str, pack: Path) -> float:
    """Measure a part in a process of its own: seconds, or MB."""
    command = [sys.executable, "-m", "bench.audit", part, str(pack)]
    done: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    say(f"{part}: {done[part]:.3f}")
    return done[part]


def import_seconds() -> float:
    """Return the seconds that importing takes, without those of starting Python."""
    code = "import time; started = time.perf_counter(); import shredder.verify; print(time.perf_counter() - started)"
    return float(subprocess.check_output([sys.executable, "-c", code], text=True))


def sample_seconds(pack: Path) -> float:
    """Return the seconds that the command takes."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "cli", "audit", "verify", str(pack), "--sample", "25", "--seed", f"{started}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


# --- the log ----------------------------------------------------------------------------------------------------------


def write_pack(folder: Path, count: int) -> int:
    """Write a log of about `count` entries and make a pack of it; return its size."""
    months: list[AccountMonth] = []
    edge = Edge()
    log = LogDirectory(folder / "log")
    started = time.perf_counter()
    for bundle in bundles(entries(count, months)):
        number = edge.size // WIDTH
        tiles = edge.grow([leaf_hash(entry) for entry in bundle])
        put(log.path, Tile(None, number, len(bundle)), encode_bundle(bundle))
        for tile, data in tiles.items():
            put(log.path, tile, data)
    note = signed(Checkpoint(origin=ORIGIN, size=edge.size, root=edge.root))
    (log.path / CHECKPOINT).write_bytes(note)
    say(f"{edge.size:,} entries written in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    make_pack(folder / "pack", log=log, log_key=LOG_KEY, note=note, account_months=lambda: months)
    say(f"packed in {time.perf_counter() - started:.0f} s")
    return edge.size


def put(folder: Path, tile: Tile, data: bytes) -> None:
    path = folder / tile.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def bundles(items: Iterator[bytes]) -> Iterator[list[bytes]]:
    bundle: list[bytes] = []
    for item in items:
        bundle.append(item)
        if len(bundle) == WIDTH:
            yield bundle
            bundle = []
    if bundle:
        yield bundle


def entries(count: int, months: list[AccountMonth]) -> Iterator[bytes]:
    """Give creations, six in ten of account-months, and the destructions of one scope in ten."""
    random = Random(7)
    group: list[str] = []
    for index in range(count):
        at = START + timedelta(milliseconds=index)
        scope = random.randbytes(32)
        is_month = index % 10 < 6
        period = MONTHS[index % len(MONTHS)]
        account = commit(b"pseudonyms", b"%d" % (index // 10))
        if is_month:
            months.append(AccountMonth(period, scope, random.randbytes(32), account))
        yield created(random, scope, account, period if is_month else None, at)
        if index % 10 == 9:
            group.append(b64(scope))
        if len(group) == GROUP:
            yield from destroyed(random, group, at)
            group = []


def created(random: Random, scope: bytes, account: bytes, period: str | None, at: datetime) -> bytes:
    payload: dict[str, Value] = {
        "scope": b64(scope),
        "scope_id": b64(random.randbytes(16)),
        "generation": 1,
        "kind": "communications" if period else "consumer",
        "period": period,
        "due_at": instant(month_due_at(period)) if period else None,
        "custody": "ring",
        "account": b64(account),
        "placement": b64(random.randbytes(110 if period else 90)),
        "sealed": "ring:1:" + b64(random.randbytes(130)),
    }
    return make_event(EventType.SCOPE_CREATED, payload, at=at).body


def destroyed(random: Random, scopes: Sequence[str], at: datetime) -> Iterator[bytes]:
    destroy_id = b64(random.randbytes(16))
    fence: dict[str, Value] = {
        "destroy_id": destroy_id,
        "reason": "customer-request",
        "ticket": b64(random.randbytes(32)),
        "requested_by": b64(random.randbytes(32)),
        "approvals": 1,
        "approved_by": None,
        "request": None,
        "scopes": list(scopes),
        "records": [],
    }
    fenced = make_event(EventType.DESTROY_FENCED, fence, at=at)
    yield fenced.body
    gone: dict[str, Value] = {
        "destroy_id": destroy_id,
        "fence": fenced.id,
        "erasure": fenced.id,
        "scopes": list(scopes),
        "fenced_at": instant(at),
        "lease_bound": instant(at + timedelta(seconds=65)),
        "horizon": instant(at + timedelta(days=90)),
        "custody": ["ring"],
        "engine": "embedded",
        "proof": {"key": "punctured", "retained_ciphertext": "refused", "neighbour": "derivable"},
        "tool": "keyvault-shredder 0.1.0",
    }
    yield make_event(EventType.KEY_DESTROYED, gone, at=at).body


# --- measured in processes of their own -------------------------------------------------------------------------------


def verify(pack: Path) -> float:
    started = time.perf_counter()
    found = verify_pack(pack, Evidence(log_key=LOG_KEY), at=START + timedelta(days=1))
    seconds = time.perf_counter() - started
    assert not found.findings, found.findings[:3]
    return seconds


def bare(pack: Path) -> float:
    """Return the seconds of hashing alone, without those of reading."""
    size = size_of(pack)
    log = LogDirectory(pack)
    leaves: list[bytes] = []
    seconds = 0.0
    for number in range(-(-size // WIDTH)):
        bundle = decode_bundle(log.read(Tile(None, number, min(WIDTH, size - number * WIDTH))))
        started = time.perf_counter()
        leaves += [sha256(b"\0" + entry).digest() for entry in bundle]
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    root = root_of(leaves)
    seconds += time.perf_counter() - started
    assert root == read_unverified((pack / CHECKPOINT).read_bytes()).root
    return seconds


def memory(pack: Path) -> float:
    """Verify once more, and return the highest resident memory, in MB, of all processes that it takes, each at its own peak."""
    peaks: dict[str, float] = {}
    ended = threading.Event()

    def watch() -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while not ended.wait(0.01):
            for child in children.read_text().split():
                with contextlib.suppress(OSError, StopIteration):  # it has ended; what was seen last is its peak
                    peaks[child] = peak_memory(child)

    watching = threading.Thread(target=watch)
    watching.start()
    verify(pack)
    ended.set()
    watching.join()
    say(f"this process {peak_memory():.0f} MB, its children {[round(peak) for peak in peaks.values()]} MB")
    return peak_memory() + sum(peaks.values())


def proof(pack: Path) -> float:
    """Return the seconds of one proof, each from files that nobody holds in memory but the system."""
    size = size_of(pack)
    random = Random(1)
    started = time.perf_counter()
    for _ in range(PROOFS):
        inclusion_proof(random.randrange(size), size, LogDirectory(pack).node(size))
    return (time.perf_counter() - started) / PROOFS


def size_of(pack: Path) -> int:
    return read_unverified((pack / CHECKPOINT).read_bytes()).size


if __name__ == "__main__":
    PARTS = {"verify": verify, "bare": bare, "memory": memory, "proof": proof}
    part = sys.argv[1]
    print(json.dumps({part: PARTS[part](Path(sys.argv[2]))}))
