"""What no honest client sends: refused with a reason that quotes nothing of it, and without a trace in memory."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvault.service.bodies import JSON
from keyvault.service.calls import Call
from keyvault.service.wire import MAX_BATCH, MAX_BODY_BYTES
from keyvault.tokens import Role
from shredder.serving.wire import MAX_SUBMISSIONS
from tests.homes import embedded_home
from tests.service.conftest import Service
from tests.serving import issue_token, served

MARK = "Zyxwvut"
"""Stands for a name."""
DEEP = 100_000
WARM_UP, CALLS = 300, 2_000
MEGABYTE = 1024 * 1024
GROWTH = 24 * MEGABYTE
"""What the process may have more of after `CALLS`; bodies of one of each kind alone come to more."""

BODIES: dict[str, bytes] = {
    "nothing": b"",
    "half an object": b'{"names": ["',
    "no JSON": b"names=" + MARK.encode(),
    "an array": b"[]",
    "a text": json.dumps(MARK).encode(),
    "null": b"null",
    "not UTF-8": b'{"names": ["\xff' + MARK.encode() + b'"]}',
    "a lone surrogate": b'{"names": ["\\ud800' + MARK.encode() + b'"]}',
    "two high surrogates": b'{"names": ["\\ud800\\ud800' + MARK.encode() + b'"]}',
    "a control character": b'{"names": ["\x00' + MARK.encode() + b'"]}',
    "deep arrays": b"[" * DEEP,
    "deep arrays in a member": b'{"names": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a":' * DEEP,
    "deep facts": b'{"facts": [' + b"[" * DEEP + b"]" * DEEP + b"]}",
    "an unknown member": json.dumps({"names": ["a"], MARK: 1}).encode(),
    "a wrong type": json.dumps({"names": [{MARK: 1}], "keys": [MARK], "facts": MARK, "requests": MARK}).encode(),
    "a huge number": b'{"names": ' + b"9" * 100_000 + b"}",
    "a huge exponent": b'{"names": ["a"], "renew": 1e999999}',
    "NaN": b'{"names": ["a"], "renew": NaN}',
    "wrong base64": json.dumps({"keys": [{"wrapped": MARK + "!", "data_key": MARK + "!", "scopes": []}]}).encode(),
    "no items": json.dumps(
        {"names": [], "keys": [], "facts": [], "requests": [], "scope": "a", "records": []}
    ).encode(),
    "something after it": b'{"names": ["a"]} ' + MARK.encode(),
}


def posts(service: Service) -> list[Call]:
    return [one for one in service.app.state.served if isinstance(one, Call) and one.method == "POST"]


def refused(answer: httpx2.Response, status: int, type_: str | None = None) -> None:
    """Assert that an answer is a refusal in our form, with a reason, and without anything of what was sent."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == JSON
    error = answer.json()["error"]
    assert error["message"]
    assert len(answer.content) < 1_000
    assert MARK.lower() not in answer.text.lower()
    assert type_ is None or error["type"] == type_


def test_bodies_that_are_not_what_a_route_takes_are_refused_with_a_reason(service: Service) -> None:
    for call in posts(service):
        for name, body in BODIES.items():
            answer = service.client.post(
                call.path, content=body, headers={**service.headers(call.role), "Content-Type": JSON}
            )
            assert answer.status_code == 400, f"{call.path}: {name}: {answer.text[:300]}"
            refused(answer, 400, "InvalidInputError")


def test_the_reason_says_where_it_is(service: Service) -> None:
    answer = service.post("/v1/keys/unwrap", {"keys": [{"wrapped": "AAAA"}, {"wrapped": 5}]})
    assert "Expected `bytes`, got `int` - at `$.keys[1].wrapped`" in answer.json()["error"]["message"]
    answer = service.post("/v1/keys/unwrap", {"keys": [{"wrapped": "AAAA", MARK: 1}]})
    assert "a member that is not known - at `$.keys[0]`" in answer.json()["error"]["message"]


ITEMS: dict[str, Any] = {
    "/v1/keys/generate": {"scopes": [MARK]},
    "/v1/keys/wrap": {"scopes": [MARK], "data_key": "AAAA"},
    "/v1/keys/unwrap": {"wrapped": "AAAA"},
    "/v1/keys/rewrap": {"scopes": [MARK], "wrapped": "AAAA"},
    "/v1/requests": {"ticket": "T", "from": "customer", "kind": "hold", "scopes": [MARK]},
}
"""An item of the batches that are not of names alone."""


def test_a_batch_that_is_too_long_is_refused_as_a_whole(service: Service) -> None:
    for call in posts(service):
        longest = MAX_SUBMISSIONS if call.path == "/v1/requests" else MAX_BATCH
        fields = call.asked.__struct_fields__
        (name,) = [one for one in ("names", "records", "keys", "facts", "requests") if one in fields]
        body = {name: [ITEMS.get(call.path, MARK)] * (longest + 1)} | ({"scope": MARK} if "scope" in fields else {})
        answer = service.post(call.path, body, call.role)
        refused(answer, 400)
        assert f"Expected `array` of length <= {longest} - at `$.{name}`" in answer.json()["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(service: Service, chunked: bool) -> None:
    body = json.dumps({"names": [MARK * 1_000] * 1_500}).encode()
    assert len(body) > 10 * MEGABYTE

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    headers = {**service.headers(Role.ISSUER), "Content-Type": JSON}
    answer = service.client.post("/v1/scopes/describe", content=pieces() if chunked else body, headers=headers)
    refused(answer, 413, "BodyTooLargeError")
    assert str(MAX_BODY_BYTES) in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonl",
        "application/json; charset=latin-1",
        MARK,
    ],
)
def test_a_body_that_is_not_called_json_is_refused(service: Service, kind: str | None) -> None:
    headers = service.headers(Role.ISSUER) | ({} if kind is None else {"Content-Type": kind})
    refused(
        service.client.post("/v1/scopes/describe", content=b'{"names": ["a"]}', headers=headers),
        415,
        "ContentTypeError",
    )


def test_json_may_be_called_so_in_more_than_one_way(service: Service) -> None:
    for kind in (
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
    ):
        headers = {**service.headers(Role.ISSUER), "Content-Type": kind}
        answer = service.client.post("/v1/scopes/describe", content=b'{"names": ["user/a"]}', headers=headers)
        assert answer.status_code == 200


def test_paths_and_methods_that_there_are_not_are_refused_in_the_same_form(service: Service) -> None:
    for path in (
        "/",
        "/v1",
        f"/v1/{MARK}",
        f"/{MARK}",
        "/v1/keys/generate/",
        "/V1/keys/generate",
        "/v1/keys/destroy",
        "/v1//keys/generate",
    ):
        for method in ("GET", "POST", "DELETE"):
            refused(service.client.request(method, path, headers=service.headers(Role.ISSUER)), 404, "UnknownPathError")
    for operation in service.operations:
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", MARK.upper()} - {operation.method}:
            if operation.path == "/v1/requests" and method in {"GET", "POST"}:
                continue
            answer = service.client.request(method, operation.path.replace("{path:path}", "checkpoint"))
            refused(answer, 405, "MethodNotAllowedError")
            assert operation.method in answer.headers["allow"] or operation.path == "/v1/requests"


def test_a_call_about_one_scope_says_what_is_with_it(service: Service) -> None:
    service.made(f"consumer/acct-1/{MARK}")
    for path in ("/v1/records/suspend", "/v1/records/resume"):
        unknown = service.post(path, {"scope": f"communications/{MARK}/2026-10", "records": [MARK]})
        refused(unknown, 404, "UnknownScopeError")
        refused(
            service.post(path, {"scope": f"consumer/acct-1/{MARK}", "records": [MARK]}), 409, "RecordsNotSupportedError"
        )
        refused(service.post(path, {"scope": MARK, "records": [MARK]}), 400, "InvalidScopeError")


NAMES = st.sampled_from(
    [MARK, f"consumer/{MARK}/{MARK}", f"consumer/{MARK}", f"communications/{MARK}/2026-13", f"nothing/{MARK}", f"user/{MARK}\u0000",
     f"user/{MARK * 100}", f"user/%zz{MARK}", f"communications/{MARK}/1999-01", f"communications/{MARK}/2999-01", f"customer/{MARK}/{MARK}", f"user/e\u0301{MARK}", "", "/"]
)  # fmt: skip
BYTES = st.sampled_from(["", "AAAA", base64.b64encode(MARK.encode()).decode(), base64.b64encode(bytes(40)).decode()])
TEXTS = st.one_of(NAMES, st.none())
ITEM = st.fixed_dictionaries(
    {"scopes": st.lists(NAMES, max_size=3)}, optional={"associated_data": BYTES, "purpose": TEXTS, "record": TEXTS}
)
NAMED = st.fixed_dictionaries({"names": st.lists(NAMES, min_size=1, max_size=3)})
RECORDS = st.fixed_dictionaries({"scope": NAMES, "records": st.lists(NAMES, min_size=1, max_size=3)})
FACTS = st.lists(
    st.dictionaries(st.sampled_from(["type", "at", "account", "user", "year", MARK]), NAMES), min_size=1, max_size=3
)
SUBMITTED = st.fixed_dictionaries(
    {"ticket": NAMES, "from": st.one_of(NAMES, st.just("customer")), "kind": st.one_of(NAMES, st.just("delete"))},
    optional={"scopes": st.lists(NAMES, max_size=2), "records": st.lists(NAMES, max_size=2), "account": TEXTS, "reason": TEXTS, "row": st.integers(-1, 2**40)},
)  # fmt: skip
STRANGE: dict[str, st.SearchStrategy[Any]] = {
    "/v1/scopes/ensure": NAMED,
    "/v1/scopes/describe": NAMED,
    "/v1/scopes/suspend": NAMED,
    "/v1/scopes/resume": NAMED,
    "/v1/records/suspend": RECORDS,
    "/v1/records/resume": RECORDS,
    "/v1/keys/generate": st.fixed_dictionaries({"keys": st.lists(ITEM, min_size=1, max_size=2)}),
    "/v1/keys/wrap": st.builds(lambda item, key: {"keys": [{**item, "data_key": key}]}, ITEM, BYTES),
    "/v1/keys/unwrap": st.builds(lambda key, aad: {"keys": [{"wrapped": key, "associated_data": aad}]}, BYTES, BYTES),
    "/v1/keys/rewrap": st.builds(lambda item, key: {"keys": [{**item, "wrapped": key}]}, ITEM, BYTES),
    "/v1/facts": st.fixed_dictionaries({"facts": FACTS, "strict": st.booleans()}),
    "/v1/requests": st.fixed_dictionaries({"requests": st.lists(SUBMITTED, min_size=1, max_size=3)}),
}


def test_no_answer_quotes_a_name(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    calls = {call.path: call for call in posts(service)}
    assert set(calls) == set(STRANGE)

    @settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(STRANGE)).flatmap(lambda path: st.tuples(st.just(path), STRANGE[path])))
    def attempt(asked: tuple[str, Any]) -> None:
        path, body = asked
        answer = service.post(path, body, calls[path].role)
        assert answer.status_code in {200, 400, 404, 409}, answer.text
        assert MARK.lower() not in answer.text.lower()

    with caplog.at_level(logging.INFO, "keyvault"):
        attempt()
    assert MARK.lower() not in caplog.text.lower()


def test_what_nobody_foresaw_is_answered_with_a_number_and_logged_without_a_value(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        try:
            dict[str, str]()[MARK]
        except KeyError as error:
            raise ValueError(f"{MARK} is not known") from error

    monkeypatch.setattr("keyvault.vault.KeyVault.describe", broken)
    with caplog.at_level(logging.ERROR):
        answer = service.post("/v1/scopes/describe", {"names": [f"user/{MARK}"]})
    refused(answer, 500, "IncidentError")
    found = re.search(r"incident ([0-9a-f]{16})", answer.json()["error"]["message"])
    assert found is not None
    assert found[1] in caplog.text
    assert "ValueError at " in caplog.text
    assert "because of KeyError" in caplog.text
    assert "broken" in caplog.text
    assert MARK not in caplog.text


def connected(url: str) -> contextlib.closing[http.client.HTTPConnection]:
    address = urlsplit(url)
    return contextlib.closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=60))


def resident(pid: int) -> int:
    """Return how many bytes of memory a process has."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def test_memory_stays_flat_under_bad_input(tmp_path: Path) -> None:
    home = embedded_home(tmp_path)
    token = issue_token(home.path)
    large = b'{"names": ["' + b"x" * (10 * MEGABYTE)
    with served(home.path, log=tmp_path / "log") as service, connected(service.url) as connection:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": JSON}
        bodies = [*BODIES.values()]

        def call(number: int) -> None:
            path = f"/v1/{secrets.token_hex(8)}" if number % 5 == 0 else "/v1/scopes/describe"
            content = large if number % 150 == 0 else bodies[number % len(bodies)]
            connection.request("POST", path, body=content, headers=headers)
            answer = connection.getresponse()
            assert 400 <= answer.status < 500
            assert json.loads(answer.read())["error"]["message"]

        for number in range(WARM_UP):
            call(number)
        before = resident(service.process.pid)
        for number in range(CALLS):
            call(number)
        grown = resident(service.process.pid) - before
        assert grown < GROWTH, f"{before} bytes before, {grown} more afterwards"
    assert MARK not in (tmp_path / "log").read_text()
