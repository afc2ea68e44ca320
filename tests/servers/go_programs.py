"""Go programs that tests and benchmarks run: built once from a module of ours, and kept outside the tree."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.servers.go_toolchain import BUILD, cache_dir, digest_of, find_go, lock, run_with_progress
from tests.servers.process import ServerError, say, tail


def built(name: str, module: Sequence[Path], *, packages: Sequence[str] = (".",), what: str) -> Path:
    """Return the folder with the programs of a module's packages, building them if need be. Raises ServerError.

    `name`: what they are kept under, with a digest of the module's files; `what`: what they are, for people.
    """
    directory = cache_dir() / f"{name}-{digest_of(*module)}"
    programs = directory / "bin"
    if not programs.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with lock(directory / "lock", what):
            if not programs.exists():
                _build(programs, module, packages, what)
    return programs


def _build(programs: Path, module: Sequence[Path], packages: Sequence[str], what: str) -> None:
    """Build beside the final place and move the whole there, so that a broken build is never taken for one."""
    log = programs.with_name("build.log")
    say(f"Building {what}: once, up to a minute")
    with tempfile.TemporaryDirectory(dir=programs.parent, prefix="build-") as name:
        for path in module:
            shutil.copy(path, name)
        (Path(name) / "bin").mkdir()
        command = [str(find_go()), *BUILD, "bin/", *packages]
        status = run_with_progress(command, what=what, cwd=Path(name), log=log)
        if status != 0:
            raise ServerError(
                f"{what} could not be built: go ended with status {status}; {log} ends with\n{tail(log)}\n"
                "Mend that (often the network, or a full disk) and run this again: it goes on from Go's caches."
            )
        (Path(name) / "bin").replace(programs)
