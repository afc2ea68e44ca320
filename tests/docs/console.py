"""Running a document's console blocks: one shell for all of them, and the output compared with what the document shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.docs.documents import Block

_SEPARATOR = "--- next command ---"
_FOREIGN = ("KEYVAULT_", "VAULT_", "PG", "XDG_")
_SECONDS = 120
_VARIES = (
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "HEX"),
    (re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?\+00:00"), "INSTANT"),
    (re.compile(r"\b\d{4}-\d{2}(?:-\d{2})?\b"), "DATE"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A command, and the lines that the document shows under it; a line `...` stands for any number of lines."""

    command: str
    expected: tuple[str, ...]


def steps(blocks: Sequence[Block]) -> list[Step]:
    """Take console blocks apart: `$ ` begins a command, `> ` goes on with it, everything else is output."""
    found: list[tuple[list[str], list[str]]] = []
    for block in blocks:
        for line in block.text.splitlines():
            if line.startswith("$ "):
                found.append(([line[2:]], []))
            elif line.startswith("> ") and not found[-1][1]:
                found[-1][0].append(line[2:])
            else:
                found[-1][1].append(line)
    return [Step(command="\n".join(command), expected=tuple(output)) for command, output in found]


def run(commands: Sequence[Step], directory: Path, env: Mapping[str, str] | None = None) -> list[list[str]]:
    """Run all commands in one shell, in `directory`, which is also the user's home; return each one's lines."""
    script = "exec 2>&1\n" + "".join(f"{step.command}\necho '{_SEPARATOR}'\n" for step in commands)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    path = f"{Path(sys.executable).parent}:{clean['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={**clean, "HOME": str(directory), "PATH": path, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    outputs = done.stdout.split(f"{_SEPARATOR}\n")
    assert len(outputs) == len(commands) + 1, done.stdout + done.stderr
    return [output.splitlines() for output in outputs[:-1]]


def plain(lines: Sequence[str], directory: Path) -> list[str]:
    """Replace what differs from run to run: the home's path, ids, times."""
    return [_plain(line.replace(str(directory), "/home/ada")) for line in lines]


def _plain(line: str) -> str:
    for pattern, name in _VARIES:
        line = pattern.sub(name, line)
    return line.rstrip()


def matches(expected: Sequence[str], actual: Sequence[str]) -> bool:
    """Return whether the lines are the expected ones, where `...` stands for any number of lines."""
    if not expected:
        return not actual
    first, *rest = expected
    if first == "...":
        return any(matches(rest, actual[skip:]) for skip in range(len(actual) + 1))
    return bool(actual) and first == actual[0] and matches(rest, actual[1:])
