"""Where the programs come from: built once from the pinned module; and a failed build is told, never passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.programs import programs
from tests.servers import ServerError

# Stands in for Go: notes each build, and writes the two programs.
FAKE_GO = """
if [ "$1" = version ]; then echo "go version go1.26.3 linux/amd64"; exit; fi
echo "$* in $(ls | tr '\\n' ' ')" >> "$NOTES"
touch bin/interop bin/fsck
"""
FAILING_GO = FAKE_GO.replace("touch", "echo no space left on device >&2; exit 3; touch")


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`go(script)` puts a shell script in Go's place; no cache is there before."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("KEYVAULT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    programs.cache_clear()

    def write(script: str) -> None:
        (tmp_path / "go").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "go").chmod(0o755)

    yield write
    programs.cache_clear()


def test_they_are_built_once_from_the_pinned_module(go: Callable[[str], None], tmp_path: Path) -> None:
    go(FAKE_GO)
    with ThreadPoolExecutor(2) as threads:
        (built,) = set(threads.map(lambda _: programs(), range(2)))
    assert built.match("cache/interop-????????????????/bin")
    assert {file.name for file in built.iterdir()} == {"fsck", "interop"}
    (note,) = (tmp_path / "notes").read_text().splitlines()
    assert note == (
        "build -mod=readonly -trimpath -ldflags -s -w -o bin/ . github.com/transparency-dev/tessera/cmd/fsck "
        "in bin go.mod go.sum main.go "
    )


def test_a_failed_build_is_explained_and_leaves_nothing(go: Callable[[str], None], tmp_path: Path) -> None:
    go(FAILING_GO)
    with pytest.raises(ServerError, match=r"(?s)go ended with status 3; .*no space left on device\nMend that"):
        programs()
    assert {path.name for path in tmp_path.glob("cache/*/*")} == {"lock", "build.log"}
