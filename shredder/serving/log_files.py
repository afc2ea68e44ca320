"""The log's files, as they are: what C2SP tlog-tiles calls `checkpoint`, `tile/...` and `tile/entries/...`, and nothing else of the directory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from stat import S_ISREG

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from keyvault.errors import KeyVaultError, UnknownPathError
from keyvault.home import Home
from keyvault.service.access import Access
from keyvault.service.calls import admitted, refusal
from keyvault.service.operations import Operation
from keyvault.tokens import Role
from shredder.log.directory import CHECKPOINT
from shredder.log.tiles import parse_path

TEXT, BYTES = "text/plain; charset=utf-8", "application/octet-stream"
FOREVER = "private, max-age=31536000, immutable"
"""A tile's path says how full it is, so that what it leads to never changes. Private: it is for auditors."""
ANEW = "no-cache"

_RANGE = re.compile(rb"bytes=([0-9]{1,18})-([0-9]{0,18})")


class LogFiles:
    """Serves a home's log to auditors."""

    def __init__(self, home: Home) -> None:
        """Serve the log of `home`."""
        self._directory = home.log_directory

    @property
    def operation(self) -> Operation:
        """What is said of it."""
        return Operation(
            path="/log/{path:path}",
            method="GET",
            summary="Get a file of the log: `checkpoint`, a tile or an entry bundle, by its path in C2SP tlog-tiles.",
            role=Role.AUDITOR,
            answered={200: (TEXT, BYTES), 206: (BYTES,)},
            statuses=(404,),
        )

    def route(self, access: Access) -> Route:
        """Return the route."""

        async def endpoint(request: Request) -> Response:
            try:
                await admitted(access, request, Role.AUDITOR)
                return await self._answer(request, request.path_params["path"])
            except KeyVaultError as error:
                return refusal(error)

        return Route(self.operation.path, endpoint, methods=["GET"])

    async def _answer(self, request: Request, name: str) -> Response:
        path, status = await run_in_threadpool(find, self._directory, name)
        if name == CHECKPOINT:  # read at once: it is replaced by others at any time, and may be longer then
            content = await run_in_threadpool(path.read_bytes)
            return Response(content, media_type=TEXT, headers={"Cache-Control": ANEW})
        _keep_simple_range(request, status.st_size)
        return FileResponse(path, stat_result=status, media_type=BYTES, headers={"Cache-Control": FOREVER})


def find(directory: Path, name: str) -> tuple[Path, os.stat_result]:
    """Return a file of the log, and what the disk says of it.

    `UnknownPathError` where the name is none that a log can have, written in the one way it may be, or no such file is there.
    """
    if name == CHECKPOINT or parse_path(name) is not None:
        path = directory / name
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            pass
        else:
            if S_ISREG(status.st_mode):
                return path, status
    raise UnknownPathError(
        "the log has no such file here: begin with log/checkpoint, and take the full tile for one that was partial"
    )


def _keep_simple_range(request: Request, size: int) -> None:
    """Let one range be heeded that begins within the file. Any other is passed over, as RFC 9110, section 14.2, lets a server do."""
    given = request.headers.get("range")
    match = None if given is None else _RANGE.fullmatch(given.encode("latin-1"))
    if given is not None and (match is None or not int(match[1]) <= int(match[2] or size) or int(match[1]) >= size):
        headers = request.scope["headers"]
        request.scope["headers"] = [(name, value) for name, value in headers if name != b"range"]
