"""Raw storage access to a running Vault: the barrier's plaintext of every entry, through `sys/raw` and the root token."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote

import urllib3

from tests.forensics.entries import Entry, key_versions
from tests.servers.vault import VaultError, VaultServer

UNREADABLE = {
    "core/cluster/local/info",
    "core/cluster/local/name",
    "core/hsm/barrier-unseal-keys",
    "core/keyring",
    "core/lock",
    "core/seal-config",
}
"""What Vault keeps outside the barrier, or refuses to anybody: its own identity, lock, seal and barrier keys."""

COMPRESSION_CANARIES = (b"G", b"L", b"S", b"4")
"""First byte of a value that Vault compressed: gzip, LZW, snappy, LZ4."""
NOT_COMPRESSED = ("gzip: ", "lzw: ", "snappy: ", "lz4: ", "EOF", "after the canary")
"""What its decompressors say of a value that only begins like one of theirs."""


class RawStorage:
    """`sys/raw` of a server that was started with `raw_storage=True`, over connections that are kept; close it."""

    def __init__(self, server: VaultServer) -> None:
        self._server = server
        self._pool = urllib3.PoolManager(ca_certs=str(server.ca_file))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    def entries(self) -> list[Entry]:
        """Return every entry of the storage, twice where Vault has compressed it: as stored and as written.

        Raises `VaultError` for an entry that cannot be read and is not `UNREADABLE`.
        """
        return [
            Entry(path=path, value=value, source="sys/raw")
            for path in self.paths()
            if path not in UNREADABLE
            for value in self._values(path)
        ]

    def paths(self, folder: str = "") -> Iterator[str]:
        """Yield the path of every entry under `folder`, which is empty or ends in a slash."""
        for name in self._ask("LIST", folder)["keys"]:
            if name.endswith("/"):
                yield from self.paths(folder + name)
            else:
                yield folder + name

    def paths_of(self, key: str) -> dict[str, str]:
        """Return the paths of a transit key's entries, by `policy` and `archive`, as far as they are there."""
        kinds = ("policy", "archive")
        return {kind: path for path in self.paths("logical/") for kind in kinds if path.endswith(f"/{kind}/{key}")}

    def material_of(self, key: str) -> dict[int, bytes]:
        """Return a transit key's material, 32 bytes a version."""
        return key_versions(self._value(self.paths_of(key)["policy"]))

    def delete(self, path: str) -> None:
        """Remove one entry behind the back of whoever owns it."""
        self._ask("DELETE", path)

    def _values(self, path: str) -> list[bytes]:
        value = self._value(path)
        if not value.startswith(COMPRESSION_CANARIES):
            return [value]
        try:
            return [value, self._value(path, decompress=True)]
        except VaultError as error:
            # Vault takes any value that begins with such a byte for a compressed one; a random key or salt does, now and then.
            if not any(words in str(error) for words in NOT_COMPRESSED):
                raise
            return [value]

    def _value(self, path: str, *, decompress: bool = False) -> bytes:
        return base64.b64decode(self._ask("GET", path, encoding="base64", compressed=str(decompress).lower())["value"])

    def _ask(self, method: str, path: str, **fields: str) -> Any:
        url = f"{self._server.addr}/v1/sys/raw/{quote(path)}"
        headers = {"X-Vault-Token": self._server.root_token}
        answer = (
            self._pool.request(method, url, fields=fields, headers=headers)
            if fields
            else self._pool.request(method, url, headers=headers)
        )
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise VaultError(f"Vault: {method} {path}: {answer.data.decode(errors='replace')}", status=answer.status)
        return json.loads(answer.data)["data"] if answer.data else None
