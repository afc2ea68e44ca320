"""What a shred leaves in memory: the service and a client are searched for the keys before it, and after its bound."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from keyvault import UnwrapRequest, wrapped
from keyvault.formats import hkdf
from keyvault.results import values_of
from keyvault.store import scopes
from keyvault.wrapped import CustodyCode, parse_wrapped
from tests.homes import embedded_home
from tests.memory import forms, occurrences
from tests.service.running import children
from tests.service.test_wait import shorten
from tests.serving import issue_token, keyvault, served

ADA, BOB = "consumer/acct-1/ada", "consumer/acct-1/bob"
KEYS = 8
TTL = 10.0
ZEROING = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.perturb=85",
}
"""Lets the C library overwrite whatever is freed, small objects of Python included."""

CLIENT = """
import json, sys
from keyvault import KeyRequest, UnwrapRequest, connect, harden_process
from keyvault.results import values_of
harden_process()
vault = connect(sys.argv[1], token=sys.argv[2])
held = [values_of(vault.generate_data_keys([KeyRequest(scopes=(name,))] * KEYS)) for name in NAMES]
print(json.dumps([[key.wrapped.hex() for key in keys] for keys in held]), flush=True)
for command in sys.stdin:
    if command == "use\\n":
        for keys in held:
            for again in values_of(vault.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped) for key in keys])):
                again[:] = bytes(len(again))
    else:
        for key in held.pop(0):
            key.wipe()
    print("done", flush=True)
"""


class Scene(contextlib.ExitStack):
    """A service and a client that hold keys of two scopes, of which one is shredded."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        super().__init__()
        self.home = embedded_home(directory, custody="ring")
        shorten(self.home.path, TTL)
        with self.home.vault() as vault:
            self.scope = values_of(vault.ensure_scopes([ADA, BOB]))[0]
        token = issue_token(self.home.path)
        self.service = self.enter_context(served(self.home.path, log=directory / "log", **environment))
        (self.worker,) = children(self.service.process.pid)
        program = CLIENT.replace("NAMES", repr((ADA, BOB))).replace("KEYS", str(KEYS))
        self.client = subprocess.Popen(
            [sys.executable, "-c", program, self.service.url, token],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
        )  # fmt: skip
        self.callback(self._end)
        assert self.client.stdout is not None
        mine, others = ([bytes.fromhex(text) for text in some] for some in json.loads(self.client.stdout.readline()))
        self.needles = {
            "wrapping key": [self.wrapping_key(mine[0])],
            "ring": self.seeds(),
            "data keys": self.opened(mine),
            "data keys in base64": forms(self.opened(mine))[1::2],
            "data keys of another scope": forms(self.opened(others)),
        }

    def opened(self, keys: list[bytes]) -> list[bytes]:
        with self.home.vault() as vault:
            return [
                bytes(key) for key in values_of(vault.unwrap_data_keys([UnwrapRequest(wrapped=key) for key in keys]))
            ]

    def wrapping_key(self, key: bytes) -> bytes:
        """Return the KEK, caught where it is derived."""
        caught: list[bytes] = []
        with pytest.MonkeyPatch.context() as patch:
            derive = hkdf

            def watched(*args: Any, **kwargs: Any) -> bytearray:
                output = derive(*args, **kwargs)
                caught.append(bytes(output[:32]))
                return output

            patch.setattr(wrapped, "hkdf", watched)
            self.opened([key])
        assert parse_wrapped(key).header.scopes[0].scope_id == self.scope.id
        return caught[-1]

    def seeds(self) -> list[bytes]:
        """Return what the ring's state is made of while nothing was taken out of it: the seed that all its scopes come from."""
        with self.home.opened("issuer") as home:
            custody: Any = home.custodies[CustodyCode.RING]
            row = home.database.read(lambda connection: scopes.by_id(connection, [self.scope.id]))[self.scope.id]
            with custody._cache.borrow(row.ring_id, 0) as ring:
                return [bytes(ring.loaded.state.slots.seeds)]

    def scan(self) -> dict[str, dict[str, int]]:
        return {
            "service": occurrences(self.worker, self.needles),
            "client": occurrences(self.client.pid, self.needles),
        }

    def tell(self, command: str) -> None:
        """Have the client do something, and wait for it."""
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        self.client.stdin.write(f"{command}\n")
        self.client.stdin.flush()
        assert self.client.stdout.readline() == "done\n"

    def shred(self) -> None:
        """Destroy the scope; the client wipes what it holds; the lease's bound passes."""
        self.tell("wipe")
        keyvault(self.home.path, "shred", ADA, "--ticket", "T-1", "--yes", "--wait")

    def _end(self) -> None:
        assert self.client.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.client.stdin.close()
        self.client.wait(30)
        assert self.client.stdout is not None
        self.client.stdout.close()


def test_after_the_bound_the_keys_are_in_no_memory(tmp_path: Path) -> None:
    """With what the C library can do; what is left without it is in SECURITY.md."""
    with Scene(tmp_path, ZEROING) as scene:
        scene.tell("use")
        before = scene.scan()
        if not before["service"][
            "ring"
        ]:  # its lease was over, and that of the wrapping key, which is admitted anew, was not
            time.sleep(TTL)
            scene.tell("use")
            before = scene.scan()
        assert before["service"]["wrapping key"] == before["service"]["ring"] == 1
        assert before["client"]["data keys"] == KEYS
        scene.shred()
        after = scene.scan()
        gone = ("wrapping key", "ring", "data keys", "data keys in base64")
        assert {group: after["client"][group] for group in gone} == dict.fromkeys(gone, 0)
        assert {group: after["service"][group] for group in gone} == dict.fromkeys(gone, 0)
        assert after["client"]["data keys of another scope"] >= KEYS, "the search finds what is there"
