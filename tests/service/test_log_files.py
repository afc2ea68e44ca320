"""The log's files by way of the service: those that a log has, byte for byte, and nothing else of the disk."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from keyvault.tokens import Role
from shredder.log.checkpoint import open_checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.proving import log_key
from shredder.log.publish import publish
from shredder.log.tiles import Tile, tiles_of
from tests.service.conftest import Service

ATTACKS = [
    "",
    "/",
    "../keyvault.toml",
    "..%2fkeyvault.toml",
    "%2e%2e/keyvault.toml",
    "%2e%2e%2fstore.db",
    "tile/../../keyvault.toml",
    "tile/entries/../../checkpoint",
    "./checkpoint",
    "//checkpoint",
    "checkpoint/",
    "checkpoint%00",
    "checkpoint%00.txt",
    "Checkpoint",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    ".checkpoint.draft",
    "tile",
    "tile/",
    "tile/0",
    "tile/0/",
    "tile/0/000.p",
    "tile/0/.000.draft",
    "tile/0/000.p/0",
    "tile/0/000.p/257",
    "tile/0/000.p/01",
    "tile/0/000.p/.4.draft",
    "tile/0/x000/000",
    "tile/00/000.p/4",
    "tile/64/000",
    "tile/0/%D9%A0%D9%A0%D9%A0",
    "tile/0/007",
    "notes.txt",
    "tile/0/notes.txt",
    "..\\keyvault.toml",
]


def raw_get(service: Service, target: str) -> tuple[int, bytes]:
    """Ask with a target that no client has made proper, taken apart as uvicorn does."""
    path, _, query = target.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "root_path": "",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"authorization", service.headers(Role.AUDITOR)["Authorization"].encode())],
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(service.app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def get(service: Service, path: str, **headers: str) -> Any:
    return service.get(f"/log/{path}", Role.AUDITOR, headers=headers)


def directory_of(service: Service) -> Path:
    with service.home.opened() as home:
        return home.log_directory


def test_what_is_downloaded_verifies_as_the_log(service: Service, tmp_path: Path) -> None:
    service.logged(*(f"consumer/acct-1/c-{number}" for number in range(300)))
    with service.home.opened() as home:
        key, directory = log_key(home), home.log_directory
    note = get(service, "checkpoint").content
    checkpoint = open_checkpoint(note, key)
    assert checkpoint.size >= 300
    copy = LogDirectory(tmp_path / "copy")
    for tile in tiles_of(checkpoint.size):
        answer = get(service, tile.path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert answer.content == (directory / tile.path).read_bytes()
        copy.write({tile.path: answer.content})
    copy.write({"checkpoint": note})
    done = publish(copy, tmp_path / "published", key)  # which verifies every entry up to the signed root
    assert done.size == checkpoint.size


def test_a_checkpoint_is_asked_for_anew_each_time(service: Service) -> None:
    service.logged("consumer/acct-1/ada")
    answer = get(service, "checkpoint")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    service.logged("consumer/acct-1/bob")
    assert get(service, "checkpoint").content != answer.content


def test_one_range_is_heeded_and_any_other_passed_over(service: Service) -> None:
    service.logged("consumer/acct-1/ada", "consumer/acct-1/bob")
    path, content = _a_tile(service)
    assert len(content) >= 64
    for asked, part in (("bytes=0-31", content[:32]), ("bytes=32-", content[32:])):
        answer = get(service, path, Range=asked)
        assert (answer.status_code, answer.content) == (206, part)
    for asked in ("bytes=0-0,2-2", "bytes=-5", "bytes=9-3", "bytes=99999999-", "Zyxwvut"):
        answer = get(service, path, Range=asked)
        assert (answer.status_code, answer.content) == (200, content)


def test_head_says_what_get_would(service: Service) -> None:
    service.logged("consumer/acct-1/ada")
    for path in ("checkpoint", _a_tile(service)[0]):
        whole = get(service, path)
        head = service.client.head(f"/log/{path}", headers=service.headers(Role.AUDITOR))
        assert head.status_code == 200
        assert head.headers["content-length"] == str(len(whole.content))
        assert head.headers["cache-control"] == whole.headers["cache-control"]


def test_nothing_else_can_be_reached(service: Service, tmp_path: Path) -> None:
    service.logged("consumer/acct-1/ada")
    directory = directory_of(service)
    secret = secrets.token_hex(16)
    (directory / "tile" / "0" / "000.p").mkdir(exist_ok=True)
    for name in (".checkpoint.draft", "tile/0/.000.draft", "tile/0/000.p/.4.draft", "notes.txt", "tile/0/notes.txt"):
        (directory / name).write_text(secret)
    (tmp_path / "outside").write_text(secret)
    (directory / "tile" / "0" / "007").symlink_to(tmp_path / "outside")
    for target in ATTACKS:
        status, body = raw_get(service, f"/log/{target}")
        assert status == 404, f"{target}: {body[:200]!r}"
        assert b"UnknownPathError" in body
        assert secret.encode() not in body
    assert raw_get(service, "/log/checkpoint")[0] == 200


def test_a_directory_that_is_not_there_has_no_files(service: Service) -> None:
    service.logged("consumer/acct-1/ada")
    directory = directory_of(service)
    assert raw_get(service, "/log/checkpoint")[0] == 200
    directory.rename(directory.with_name("moved"))
    assert raw_get(service, "/log/checkpoint")[0] == 404
    assert raw_get(service, "/log/tile/0/000")[0] == 404


def _a_tile(service: Service) -> tuple[str, bytes]:
    size = int(get(service, "checkpoint").text.splitlines()[1])
    path = Tile(0, 0, size).path
    return path, get(service, path).content
