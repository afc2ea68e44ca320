"""Envelopes and streams against bare AES-256-GCM of the cryptography package, with a key of its own for each message."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.rows import Row, best_of_both, compared
from keyvault.envelope import open_envelope, seal_envelope, split_envelope
from keyvault.stream import open_stream_body, read_stream_header, seal_stream
from keyvault.wrapped import CustodyCode, Header, ScopeShareRef, derive_wrapping_key

KIB, MIB = 1024, 1024 * 1024
STREAM_BYTES = 1024 * MIB
ENVELOPE_ROUNDS = 15
MEMORY_BAR_MIB = 64
COMMAND = "make bench ARGS=formats"
RIVAL = "bare AES-256-GCM"


def run() -> list[Row]:
    """Return the rows of this file."""
    rows = []
    for size, label, count, bar in ((KIB, "1 KiB", 20_000, 0.25), (MIB, "1 MiB", 300, 0.9)):
        rows += envelope_rows(size, label, count, bar)
    return rows + stream_rows()


def wrapped_key() -> tuple[bytes, bytes]:
    """Return a data key and itself wrapped under two scopes, as an identifying field is."""
    dek = os.urandom(32)
    scopes = tuple(
        ScopeShareRef(scope_id=os.urandom(16), custody=CustodyCode.DEDICATED, generation=1, token=os.urandom(89))
        for _ in range(2)
    )
    key = derive_wrapping_key(Header(salt=os.urandom(32), scopes=scopes), [os.urandom(32), os.urandom(32)])
    return dek, key.wrap(dek)


def envelope_rows(size: int, label: str, count: int, bar: float) -> list[Row]:
    """Seal and open `count` messages of `size` bytes."""
    dek, wrapped = wrapped_key()
    data = os.urandom(size)
    sealed = seal_envelope(dek, wrapped, data)
    nonce = os.urandom(12)
    bare = AESGCM(dek).encrypt(nonce, data, None)

    def repeat_seal() -> None:
        for _ in range(count):
            seal_envelope(dek, wrapped, data)

    def repeat_bare_seal() -> None:
        for _ in range(count):
            fresh = os.urandom(12)
            AESGCM(dek).encrypt(fresh, data, None)

    def repeat_open() -> None:
        for _ in range(count):
            open_envelope(split_envelope(sealed), dek)

    def repeat_bare_open() -> None:
        for _ in range(count):
            AESGCM(dek).decrypt(nonce, bare, None)

    seal, bare_seal = best_of_both(repeat_seal, repeat_bare_seal, ENVELOPE_ROUNDS)
    opened, bare_opened = best_of_both(repeat_open, repeat_bare_open, ENVELOPE_ROUNDS)
    return [
        compared(
            f"envelope seal, {label}", "/s", count / seal, rival=(RIVAL, count / bare_seal), bar=bar, command=COMMAND
        ),
        compared(
            f"envelope open, {label}",
            "/s",
            count / opened,
            rival=(RIVAL, count / bare_opened),
            bar=bar,
            command=COMMAND,
        ),
    ]


class Zeros(io.RawIOBase):
    """A source of `size` zero bytes."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self._left)
        self._left -= count
        return count


class Nowhere(io.RawIOBase):
    """A sink that forgets."""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        return len(data)


def stream_rows() -> list[Row]:
    """Seal 1 GiB against bare AES-GCM over the same segments, and watch the memory in a process of its own."""
    dek, wrapped = wrapped_key()
    buffer = bytearray(MIB)
    out = bytearray(MIB + 16)
    key = AESGCM(dek)

    def bare() -> None:
        source, sink = Zeros(STREAM_BYTES), Nowhere()
        while source.readinto(buffer):
            key.encrypt_into(os.urandom(12), buffer, None, out)
            sink.write(out)

    def ours() -> None:
        seal_stream(dek, wrapped, Zeros(STREAM_BYTES), Nowhere())

    mine, rival = best_of_both(ours, bare, rounds=3)
    rate = STREAM_BYTES / MIB
    seal = compared("stream seal, 1 GiB", "MiB/s", rate / mine, rival=(RIVAL, rate / rival), bar=0.7, command=COMMAND)
    idle, busy = (int(memory_of(part)) for part in ("idle", "stream"))
    above = (busy - idle) / 1024
    memory = Row(
        name="stream seal and open, 1 GiB: memory above the idle process",
        value=above,
        unit="MiB",
        bar=f"≤ {MEMORY_BAR_MIB} MiB",
        met=above <= MEMORY_BAR_MIB,
        command=COMMAND,
    )
    return [seal, open_row(), memory]


def open_row() -> Row:
    """Open a stream of 256 MiB held in memory, against bare decryption of the same segments."""
    dek, wrapped = wrapped_key()
    size = 256 * MIB
    sealed = io.BytesIO()
    seal_stream(dek, wrapped, Zeros(size), sealed)
    key = AESGCM(dek)
    nonce = os.urandom(12)
    segments = io.BytesIO(key.encrypt(nonce, bytes(MIB), None) * (size // MIB))
    buffer, out = bytearray(MIB + 16), bytearray(MIB)

    def ours() -> None:
        sealed.seek(0)
        open_stream_body(dek, read_stream_header(sealed), sealed, Nowhere())

    def bare() -> None:
        segments.seek(0)
        while segments.readinto(buffer):
            key.decrypt_into(nonce, buffer, None, out)

    mine, rival = best_of_both(ours, bare)
    rate = size / MIB
    return compared("stream open, 256 MiB", "MiB/s", rate / mine, rival=(RIVAL, rate / rival), bar=0.7, command=COMMAND)


def memory_of(part: str) -> str:
    """Return the peak resident kilobytes of a process that does `part`."""
    return subprocess.check_output([sys.executable, "-m", "bench.formats", part], text=True)


def main(part: str) -> None:
    """Do `part` and print the peak of this process's resident memory, in kilobytes."""
    if part == "stream":
        dek, wrapped = wrapped_key()
        path = "/dev/shm/keyvault-bench" if os.path.isdir("/dev/shm") else "keyvault-bench"  # noqa: PTH112
        try:
            with open(path, "wb") as sink:  # noqa: PTH123
                seal_stream(dek, wrapped, Zeros(STREAM_BYTES), sink)
            with open(path, "rb") as source:  # noqa: PTH123
                open_stream_body(dek, read_stream_header(source), source, Nowhere())
        finally:
            os.unlink(path)  # noqa: PTH108
    # Not getrusage: what it calls this process's peak is inherited from the one that started it.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(peak.split()[1])


if __name__ == "__main__":
    main(sys.argv[1])
