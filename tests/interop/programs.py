"""Programs of other people that judge our log: built once from the pinned module in `go/`, and kept outside the tree.

A test that needs one fails where it cannot be had.
"""

from __future__ import annotations

import json
import re
import subprocess
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.servers.go_programs import built

_MODULE = tuple(Path(__file__).parent / "go" / name for name in ("go.mod", "go.sum", "main.go"))
_FSCK = "github.com/transparency-dev/tessera/cmd/fsck"
_VERDICT = re.compile(r"Successfully fsck'd log with size (\d+) and root (\S+) ")
_WORKERS = 64
PATIENCE_SECONDS = 120


@cache
def programs() -> Path:
    """Return the folder with `interop` and `fsck`, building them if need be: a minute on 2 cores. Raises ServerError."""
    return built("interop", _MODULE, packages=(".", _FSCK), what="other people's verifiers of the log")


def judge(check: str, cases: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return for each case what a check of `go/main.go` gives: a value, and why it is refused (empty when it is not)."""
    done = subprocess.run(
        [programs() / "interop", check],
        input=json.dumps([{name: _plain(value) for name, value in case.items()} for case in cases]),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(answer["value"], answer["error"]) for answer in json.loads(done.stdout)]


def _plain(value: Any) -> Any:
    """Write a value as Go's JSON has it: bytes in base64."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return [_plain(each) for each in value] if isinstance(value, list) else value


def fsck(directory: Path, key: str, folder: Path) -> tuple[int, str] | None:
    """Return the size and the root (base64) that Tessera's fsck finds, or None where it is not satisfied.

    It ends with 0 where it found a fault, and in a panic where a bundle has too few entries, so only what it prints counts. With fewer workers than there are files to compare, one file that differs makes
    it wait for ever: a worker that has found it takes nothing more from the queue, which is as long as there are workers.
    """
    key_file = folder / "log.vkey"
    key_file.write_text(f"{key}\n")
    done = subprocess.run(
        [
            programs() / "fsck",
            f"--storage_url=file://{directory}",
            f"--public_key={key_file}",
            f"--N={_WORKERS}",
            "--ui=false",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    verdict = _VERDICT.search(done.stderr)
    assert (verdict is None) == ("fsck failed" in done.stderr or "panic:" in done.stderr), done.stderr
    return (int(verdict[1]), verdict[2]) if verdict else None
