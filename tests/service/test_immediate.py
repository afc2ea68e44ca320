"""Calls that are answered out of memory before the application sees them: nobody can tell them from others but by their speed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import uvloop

from keyvault.service import immediate, protocol, token_readings, worker
from keyvault.service.front import Front
from keyvault.service.metrics import Metrics
from keyvault.service.opening import Opening
from keyvault.service.wiping import wipe_when_released
from shredder.serving.application import application
from tests.homes import embedded_home
from tests.serving import issue_token

ADA = "consumer/acct-1/ada"
GENERATE, UNWRAP = "/v1/keys/generate", "/v1/keys/unwrap"
ASKED = json.dumps({"keys": [{"scopes": [ADA]}]}).encode()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Counting(Front):
    """Counts the requests that come as far as the application."""

    asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        await super().__call__(scope, receive, send)


class Client:
    """A connection, on which requests are sent as they are given."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], token: str) -> None:
        self.reader, self.writer = streams
        self.token = token

    def request(self, body: bytes = ASKED, path: str = GENERATE, *lines: str, length: bool = True) -> bytes:
        """Return a request; without `length` its lines must say where the body ends."""
        head = [f"POST {path} HTTP/1.1", "Host: a", "Content-Type: application/json"]
        head += (
            [] if any(line.startswith("Authorization") for line in lines) else [f"Authorization: Bearer {self.token}"]
        )
        head += [f"Content-Length: {len(body)}"] if length else []
        return "\r\n".join([*head, *lines, "", ""]).encode() + body

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Return the next answer: its status, headers and JSON."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        lines = (line.lower().partition(":") for line in head[1:-2])
        headers = {name: value.strip() for name, _, value in lines}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, json.loads(body)

    async def ask(self, *arguments: Any, **options: Any) -> tuple[int, dict[str, str], Any]:
        await self.send(self.request(*arguments, **options))
        return await self.answer()


Scenario = Callable[[Callable[[], Awaitable[Client]], Counting, Any], Awaitable[None]]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    """Run a scenario beside a worker's server, over a home of whose scope the service keeps a key."""
    home = embedded_home(tmp_path, custody="ring")
    with home.vault() as vault:
        vault.ensure_scopes([ADA])
    token = issue_token(home.path)
    monkeypatch.setenv("KEYVAULT_HOME", str(home.path))
    monkeypatch.setattr("keyvault.service.opening.COLLECT", (700, 10, 10))
    for limit in ("BELIEVED_SECONDS", "LATEST_SECONDS"):  # however slow the machine, a call does not wait for its token
        monkeypatch.setattr(token_readings, limit, 60.0)

    async def run(scenario: Scenario) -> None:
        opening = Opening(application)
        opened = asyncio.create_task(opening.run())
        await opening.settled.wait()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)  # noqa: FBT003 - the name says it
        address = listener.getsockname()
        front = Counting(opening, Metrics())
        server = worker._server(front, None)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.listening.wait()

        clients: list[Client] = []

        async def client() -> Client:
            clients.append(Client(await asyncio.open_connection(*address), token))
            return clients[-1]

        try:
            first = await client()
            assert (await first.ask())[0] == 200
            front.asked = 0
            await scenario(client, front, server)
        finally:
            for one in clients:
                one.writer.close()
            server.stop()
            await serving
            opening.stop()
            await opened

    def in_the_loop_of_workers(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(scenario))

    return in_the_loop_of_workers


def test_it_answers_as_the_application_does(served: Callable[[Scenario], None]) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], front: Counting, _server: Any) -> None:
        client = await connect()
        status, headers, answer = await client.ask(ASKED, GENERATE, f"x-request-id: {TRACE}")
        assert (status, front.asked) == (200, 0)
        slow_status, slow_headers, slow = await client.ask(
            ASKED, GENERATE, f"x-request-id: {TRACE}", "Connection: close"
        )
        assert (slow_status, front.asked) == (200, 1)
        assert slow_headers.pop("connection") == "close"
        assert headers.keys() == slow_headers.keys()
        differ = {"date": "", "content-length": ""}  # the lease that is left has any number of digits
        assert {**headers, **differ} == {**slow_headers, **differ}
        assert answer.keys() == slow.keys()
        assert [item.keys() for item in answer["keys"]] == [item.keys() for item in slow["keys"]]
        assert 0 < answer["lease"] <= 60

    served(scenario)


def test_a_key_made_at_once_is_unwrapped_at_once_and_by_the_application(served: Callable[[Scenario], None]) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], front: Counting, _server: Any) -> None:
        client = await connect()
        _, _, made = await client.ask()
        wrapped = json.dumps({"keys": [{"wrapped": made["keys"][0]["wrapped"]}]}).encode()
        opened = [await client.ask(wrapped, UNWRAP) for _ in range(2)]
        assert front.asked == 1  # under the key's header nothing was kept before
        assert [answer["keys"][0]["plaintext"] for _, _, answer in opened] == [made["keys"][0]["plaintext"]] * 2

    served(scenario)


@pytest.mark.parametrize(
    ("body", "lines", "status"),
    [
        (ASKED, ["Authorization: Bearer kv1_" + "0" * 32 + "_" + "0" * 64], HTTPStatus.UNAUTHORIZED),
        (ASKED, ["Authorization: Basic YTpi"], HTTPStatus.UNAUTHORIZED),
        (b"{", [], HTTPStatus.BAD_REQUEST),
        (b'{"keys": []}', [], HTTPStatus.BAD_REQUEST),
        (b'{"keys": [{"scopes": ["\xff"]}]}', [], HTTPStatus.BAD_REQUEST),
    ],
)
def test_what_it_refuses_is_refused_as_ever(
    served: Callable[[Scenario], None], body: bytes, lines: list[str], status: int
) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], front: Counting, _server: Any) -> None:
        client = await connect()
        at_once = await client.ask(body, GENERATE, *lines)
        later = await client.ask(body, GENERATE, *lines, "Connection: close")
        assert at_once[0] == later[0] == status
        assert at_once[2] == later[2]
        assert at_once[1].get("www-authenticate") == later[1].get("www-authenticate")
        assert front.asked == 2

    served(scenario)


def test_a_refused_token_counts_once(served: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyvault.service.access.FAILURE_SECONDS", 4.0)

    async def scenario(connect: Callable[[], Awaitable[Client]], _front: Counting, _server: Any) -> None:
        client = await connect()
        wrong = "Authorization: Bearer kv1_" + "0" * 32 + "_" + "0" * 64
        statuses = [(await client.ask(ASKED, GENERATE, wrong))[0] for _ in range(6)]
        assert statuses == [401] * 4 + [429] * 2

    served(scenario)


def test_a_fault_of_the_program_is_an_incident(
    served: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], _front: Counting, _server: Any) -> None:
        client = await connect()

        def faulty(*_: object) -> None:
            raise RuntimeError(ADA)

        with monkeypatch.context() as patch:
            patch.setattr("keyvault.service.access.Access.admit_cached", faulty)
            status, _, answer = await client.ask()
        assert (status, answer["error"]["type"]) == (500, "IncidentError")
        assert ADA not in str(answer)
        assert (await client.ask())[0] == 200

    served(scenario)


def test_bodies_come_in_any_pieces(served: Callable[[Scenario], None]) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], front: Counting, _server: Any) -> None:
        client = await connect()
        for byte in client.request():
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer())[0] == 200
        chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (ASKED[:5], ASKED[5:])) + b"0\r\n\r\n"
        assert (await client.ask(chunked, GENERATE, "Transfer-Encoding: chunked", length=False))[0] == 200
        assert front.asked == 0

    served(scenario)


def test_many_requests_at_a_time_are_answered_in_their_order(served: Callable[[Scenario], None]) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], front: Counting, _server: Any) -> None:
        client = await connect()
        new = [json.dumps({"names": [f"consumer/acct-1/{number}"]}).encode() for number in range(3)]
        requests = [
            client.request(ASKED),
            client.request(new[0], "/v1/scopes/ensure"),
            client.request(ASKED),  # behind one that waits, it waits too
            client.request(new[1], "/v1/scopes/ensure"),
            client.request(ASKED),
        ]
        await client.send(b"".join(requests))
        answers = [(await client.answer())[2] for _ in requests]
        assert [*map(list, answers)] == [
            ["lease", "keys"],
            ["scopes"],
            ["lease", "keys"],
            ["scopes"],
            ["lease", "keys"],
        ]
        before = front.asked
        assert before >= 2
        assert (await client.ask())[0] == 200
        assert front.asked == before

    served(scenario)


def test_large_bodies_and_clients_that_expect_to_be_asked_take_the_longer_way(
    served: Callable[[Scenario], None],
) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], front: Counting, _server: Any) -> None:
        client = await connect()
        padded = ASKED + b" " * immediate.MAX_HELD_BYTES
        assert (await client.ask(padded))[0] == 200
        assert front.asked == 1
        request = client.request(ASKED, GENERATE, "Expect: 100-continue")
        await client.send(request[: -len(ASKED)])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(ASKED)
        assert (await client.answer())[0] == 200
        assert front.asked == 2

    served(scenario)


def test_a_worker_that_stops_lets_its_clients_know(served: Callable[[Scenario], None]) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], front: Counting, _server: Any) -> None:
        client = await connect()
        assert "connection" not in (await client.ask())[1]
        request = client.request()
        await client.send(request[:-5])
        await asyncio.sleep(0.01)
        front.drain()
        await client.send(request[-5:])
        assert (await client.answer())[0] == 200  # its request was on its way
        client = await connect()
        assert (await client.ask())[1]["connection"] == "close"

    served(scenario)


def test_a_connection_that_idles_after_an_answer_is_ended(
    served: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "KEEP_ALIVE_SECONDS", 0.3)

    async def scenario(connect: Callable[[], Awaitable[Client]], front: Counting, _server: Any) -> None:
        client = await connect()
        assert (await client.ask())[0] == 200
        assert front.asked == 0
        assert await asyncio.wait_for(client.reader.read(), 30) == b""

    served(scenario)


def test_a_body_that_stops_in_the_middle_ends_its_connection(
    served: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.3)

    async def scenario(connect: Callable[[], Awaitable[Client]], _front: Counting, _server: Any) -> None:
        client = await connect()
        await client.send(client.request()[:-5])
        ended = asyncio.create_task(client.reader.read())
        await asyncio.wait([ended], timeout=30)
        assert isinstance(ended.exception(), ConnectionResetError) or ended.result() == b""

    served(scenario)


def test_what_was_sent_is_wiped(served: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytearray] = []

    def noting(loop: asyncio.AbstractEventLoop, buffers: list[bytearray]) -> None:
        sent.extend(buffers)
        wipe_when_released(loop, buffers)

    monkeypatch.setattr(protocol, "wipe_when_released", noting)

    async def scenario(connect: Callable[[], Awaitable[Client]], _front: Counting, _server: Any) -> None:
        client = await connect()
        _, _, answer = await client.ask()
        assert answer["keys"][0]["plaintext"]
        await asyncio.sleep(0.1)
        assert sent
        assert not any(b"plaintext" in buffer for buffer in sent)
        assert not any(any(buffer) for buffer in sent)

    served(scenario)
