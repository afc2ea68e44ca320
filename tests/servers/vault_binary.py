"""A Vault to test against: the one that is given or installed, else one built once and cached outside the tree."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers.go_toolchain import BUILD, cache_dir, digest_of, find_go, lock, run_with_progress
from tests.servers.process import ServerError, say, tail

_HERE = Path(__file__).parent
_MODULE = (_HERE / "vault" / "go.mod", _HERE / "vault" / "go.sum")
_VERSION = "1.21.0"


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
    directory = cache_dir() / f"vault-{_VERSION}-{digest_of(*_MODULE)}"
    binary = directory / "vault"
    if not binary.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with lock(directory / "lock", "Vault"):
            if not binary.exists():
                _build(binary)
    return binary


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
    go, log = find_go(), binary.with_name("build.log")
    say(f"Building Vault {_VERSION} for the tests: once, 6 to 15 minutes on 2 cores, about 8 GB with Go's own caches")
    say(f"  into {binary}; Go writes to {log}")
    with tempfile.TemporaryDirectory(dir=binary.parent, prefix="build-") as name:
        for path in _MODULE:
            shutil.copy(path, name)
        command = [str(go), *BUILD, "vault", "github.com/hashicorp/vault"]
        status = run_with_progress(command, what="Vault", cwd=Path(name), log=log)
        if status != 0:
            raise ServerError(
                f"Vault could not be built: go ended with status {status}; {log} ends with\n{tail(log)}\n"
                "Mend that (often the network, or a full disk) and run this again: it goes on from Go's caches. "
                "Or give a Vault or OpenBao program with KEYVAULT_TEST_VAULT=path."
            )
        (Path(name) / "vault").replace(binary)
    say("Vault is built")
