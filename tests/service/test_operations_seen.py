"""What operators see of the service: health, metrics, logs, spans; none of it names anybody."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyvault import connect
from keyvault.errors import ConfigurationError, Unavailable
from keyvault.results import values_of
from keyvault.service import logs
from keyvault.service.front import Front
from keyvault.service.health import Cached, Readiness, Word
from keyvault.service.metrics import Metrics
from keyvault.service.opening import Opening
from keyvault.service.tracing import Tracing, configured_tracing
from keyvault.store.database import Database
from keyvault.transit.base import TransitEngine
from keyvault.values import KeyRequest
from tests.homes import TestHome, embedded_home, in_ring_custody
from tests.service.running import eventually, get, running
from tests.serving import issue_token

ADA = "consumer/acct-1/ada"
NAME = "+15551000862"
COUNTED = [
    b'keyvault_requests_total{route="/v1/keys/generate",status="200"} 20.0',
    b'keyvault_request_seconds_count{route="/v1/scopes/ensure"} 20.0',
    b'keyvault_keys_issued_total{route="/v1/keys/generate"} 60.0',
    b'keyvault_errors_total{type="UnknownScopeError"} 20.0',
    b'keyvault_errors_total{type="TokenRefusedError"} 1.0',
    b'keyvault_requests_total{route="unmatched",status="404"} 1.0',
]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


# --- several workers, from outside ---------------------------------------------------------------------------------------


def test_metrics_are_those_of_all_workers_and_no_log_or_metric_names_anybody(tmp_path: Path) -> None:
    home = embedded_home(tmp_path, custody="ring")
    token = issue_token(home.path)
    with running(home.path, tmp_path / "log", "--workers", "2") as service:
        eventually(lambda: b"keyvault_workers_open 2.0" in metrics_of(service.url))
        for _ in range(20):  # each on a connection of its own, so that both workers have some
            with connect(service.url, token=token) as vault:
                values_of(vault.ensure_scopes([f"consumer/acct-1/{NAME}"]))
                values_of(vault.generate_data_keys([KeyRequest(scopes=(f"consumer/acct-1/{NAME}",))] * 3))
                assert len(vault.describe([ADA])) == 1
        wrong = {"x-request-id": NAME, "authorization": f"Bearer {token}"}
        assert httpx2.post(f"{service.url}/v1/{NAME}", headers=wrong).status_code == 404
        told = httpx2.post(f"{service.url}/v1/keys/generate", headers={"x-request-id": TRACE}, content=NAME)
        assert (told.status_code, told.headers["x-request-id"]) == (401, TRACE)
        eventually(
            lambda: all(count in metrics_of(service.url) for count in COUNTED)
        )  # each worker tells once a second
        metrics = metrics_of(service.url).decode()
        assert get(f"{service.url}/healthz").status_code == 204
    lines = service.lines()

    assert "keyvault_build_info{" in metrics

    requests = [line for line in lines if line["event"] == "request"]
    assert Counter(line["route"] for line in requests) == {
        "/v1/scopes/ensure": 20,
        "/v1/keys/generate": 21,
        "/v1/scopes/describe": 20,
        "unmatched": 1,
    }
    generated = next(line for line in requests if line["route"] == "/v1/keys/generate" and line["status"] == 200)
    assert (generated["role"], generated["items"], generated["token"]) == ("issuer", 3, token.split("_")[1])
    assert requests[-1]["request"] == TRACE
    everything = service.log.read_text() + metrics
    assert all(secret not in everything for secret in (NAME, "acct-1", token, token.split("_")[2]))
    assert token.split("_")[1] not in metrics


def metrics_of(url: str) -> bytes:
    return get(f"{url}/metrics").content


# --- readiness -----------------------------------------------------------------------------------------------------------


@in_ring_custody
def test_each_part_of_a_home_has_its_own_word(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Unavailable("down")

    with home.opened("issuer") as opened:
        readiness = Readiness(opened, lambda: 0)
        well = dict.fromkeys(("database", "engine", "clock", "log"), Word.OK)
        assert asyncio.run(words(readiness)) == well
        engine: type[TransitEngine] = type(opened.engine)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "get_state", refuse)
            assert asyncio.run(words(readiness)) == {**well, "engine": Word.UNAVAILABLE, "log": Word.UNKNOWN}
        with monkeypatch.context() as patch:
            patch.setattr(Database, "read", refuse)
            down = {"database": Word.UNAVAILABLE, "clock": Word.UNKNOWN, "log": Word.UNKNOWN}
            assert asyncio.run(words(readiness)) == {**well, **down}
        readiness.close()


async def words(readiness: Readiness) -> Mapping[str, Word]:
    return await readiness(Metrics())


def test_probes_within_a_second_share_one_answer() -> None:
    asked = 0

    async def ask() -> Mapping[str, Word]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return {"database": Word.OK}

    async def probe() -> None:
        cached = Cached(ask)
        assert await asyncio.gather(*(cached() for _ in range(50))) == [{"database": Word.OK}] * 50
        assert asked == 1
        cached.forget()
        await cached()
        assert asked == 2

    asyncio.run(probe())


def test_nothing_is_served_before_the_home_is_open_and_it_opens_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyvault.service.opening.AGAIN_SECONDS", 0.01)
    attempts = 0

    def make() -> Starlette:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise Unavailable("the database cannot be reached: 10.1.2.3 says no to keyvault")
        return application()

    async def scenario() -> None:
        opening = Opening(make)
        front = Front(opening, Metrics())
        status, _, body = await asked(front, "/keys")
        assert (status, json.loads(body)["error"]["type"]) == (503, "Unavailable")
        running_opening = asyncio.create_task(opening.run())
        while attempts < 2:  # noqa: ASYNC110 - attempts are made in a thread
            await asyncio.sleep(0)
        status, _, body = await asked(front, "/readyz")
        assert (status, json.loads(body)["engine"]) == (503, "unavailable")
        assert b"10.1.2.3" not in body
        assert (await asked(front, "/healthz"))[0] == 204
        await opening.settled.wait()
        assert (await asked(front, "/keys"))[0] == 200
        front.draining = True
        _, headers, _ = await asked(front, "/keys")
        assert headers[b"connection"] == b"close"
        opening.stop()
        await running_opening
        assert (await asked(front, "/keys"))[0] == 503

    asyncio.run(scenario())


def application() -> Starlette:
    async def keys(_request: Request) -> Response:
        return Response(b"{}")

    async def fault(_request: Request) -> Response:
        secret = "5ec2e7" * 4
        raise ValueError(f"{secret} and {NAME}")

    async def body(request: Request) -> Response:
        return Response(await request.body())

    return Starlette(routes=[Route("/keys", keys), Route("/body", body), Route("/fault/{name}", fault)])


async def asked(
    front: Front, path: str, *, gone: bool = False, **headers: str
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"} if gone else {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    await front(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent[1:])


def test_a_client_that_goes_before_its_request_is_there_is_no_fault_of_the_service() -> None:
    async def scenario() -> None:
        opening = Opening(application)
        running_opening = asyncio.create_task(opening.run())
        await opening.settled.wait()
        metrics = Metrics()
        await asked(Front(opening, metrics), "/body", gone=True)
        metrics.flush()
        assert b'keyvault_requests_total{route="/body",status="0"} 1.0' in metrics.expose()
        opening.stop()
        await running_opening

    asyncio.run(scenario())


# --- logs ----------------------------------------------------------------------------------------------------------------


def test_a_fault_is_logged_without_what_it_was_about(monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stderr", told)
    monkeypatch.setattr(logs, "_lines", None)
    root = logging.getLogger()
    before = (root.handlers, root.level, {name: logging.getLogger(name).level for name in logs.QUIET})
    configure = structlog.configure
    with monkeypatch.context() as patch:  # loggers that stay what they are would write to this test's stream in others
        patch.setattr(
            structlog, "configure", lambda **asked: configure(**{**asked, "cache_logger_on_first_use": False})
        )
        logs.configure_logs()
    try:

        async def scenario() -> None:
            opening = Opening(application)
            running_opening = asyncio.create_task(opening.run())
            await opening.settled.wait()
            status, _, body = await asked(Front(opening, Metrics()), f"/fault/{NAME}")
            assert status == 500
            assert NAME.encode() not in body
            opening.stop()
            await running_opening

        asyncio.run(scenario())
        try:
            raise RuntimeError(NAME) from Unavailable("the database does not answer")  # noqa: TRY301 - to be caught below
        except RuntimeError:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    finally:
        root.handlers, level, levels = before
        root.setLevel(level)
        for name, value in levels.items():
            logging.getLogger(name).setLevel(value)
        structlog.reset_defaults()
    told.flush()
    text = told.buffer.getvalue().decode()
    lines = [json.loads(line) for line in text.splitlines()]
    fault = next(line for line in lines if line["event"].startswith("a request met a fault"))
    assert fault["exception"][0]["type"] == "ValueError"
    assert any(frame.endswith(" fault") for frame in fault["exception"][0]["at"])
    request = next(line for line in lines if line["event"] == "request")
    assert (request["route"], request["status"], request["level"]) == ("/fault/{name}", 500, "warning")
    library = next(line for line in lines if line.get("logger") == "uvicorn.error")
    assert [cause["type"] for cause in library["exception"]] == ["RuntimeError", "Unavailable"]
    assert library["exception"][1]["message"] == "the database does not answer"
    assert NAME not in text
    assert "5ec2e7" not in text


# --- spans ---------------------------------------------------------------------------------------------------------------


def test_a_call_has_a_span_that_continues_its_callers_trace() -> None:
    spans = InMemorySpanExporter()
    tracing = Tracing([])
    tracing._provider.add_span_processor(SimpleSpanProcessor(spans))

    async def scenario() -> None:
        opening = Opening(application)
        running_opening = asyncio.create_task(opening.run())
        await opening.settled.wait()
        front = Front(opening, Metrics(), tracing)
        assert (await asked(front, "/keys", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01"))[0] == 200
        assert (await asked(front, f"/fault/{NAME}"))[0] == 500
        opening.stop()
        await running_opening

    asyncio.run(scenario())
    tracing.close()
    call, fault = spans.get_finished_spans()
    assert call.context is not None
    assert format(call.context.trace_id, "032x") == TRACE
    assert (call.name, dict(call.attributes or {})) == (
        "/keys",
        {"http.request.method": "GET", "http.route": "/keys", "http.response.status_code": 200},
    )
    assert fault.attributes is not None
    assert fault.attributes["error.type"] == "ValueError"
    assert NAME not in fault.to_json()


def test_tracing_is_loaded_only_where_the_environment_asks_for_it() -> None:
    assert configured_tracing({}) is None
    assert configured_tracing({"OTEL_TRACES_EXPORTER": "none"}) is None
    assert configured_tracing({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}) is None
    with pytest.raises(ConfigurationError, match="no such exporter is installed"):
        configured_tracing({"OTEL_TRACES_EXPORTER": "nobody"})
    traced = configured_tracing({"OTEL_TRACES_EXPORTER": "console"})
    assert traced is not None
    traced.close()
    loaded = "import sys, keyvault.service.worker; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"
