"""A client's calls: tried again where it helps and is safe, within their time; several nodes; tokens that change; errors that tell."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from keyvault.client.asking import Lost, Reply, Send
from keyvault.client.options import client_options
from keyvault.client.pushes import LONGEST_PAUSE_SECONDS, Pushes
from keyvault.errors import (
    ConfigurationError,
    InvalidInputError,
    KeyVaultError,
    NotPermittedError,
    RateLimitedError,
    RestoreDetected,
    ServiceError,
    TokenRefusedError,
    Unavailable,
)
from keyvault.results import values_of
from keyvault.service import wire
from keyvault.values import DataKey, KeyRequest, UnwrapRequest
from tests.key_service import Client, refusal, scope_id

NODES = ["https://a.example.com", "https://b.example.com"]
REQUEST = KeyRequest(scopes=("user/1",))


def generate(client: Client, count: int = 1) -> list[DataKey | KeyVaultError]:
    return [key for key, _ in client.take(client.core.calls.generate([REQUEST] * count))]


def hosts(client: Client) -> list[str]:
    return [call.url.removeprefix("https://")[0] for call in client.service.sent]


def fails_on(node: str, answer: Reply | Lost):  # type: ignore[no-untyped-def]
    return lambda call: answer if call.url.startswith(node) else None


def test_the_next_node_answers_at_once_where_one_cannot_be_reached_and_stays_the_first() -> None:
    client = Client(url=NODES)
    client.service.failing = fails_on(NODES[0], Lost(reason="ConnectError"))
    values_of(generate(client))
    values_of(generate(client))
    assert hosts(client) == ["a", "b", "b"]
    assert client.service.paused == []


def test_a_node_that_cannot_answer_now_is_left_for_the_next() -> None:
    client = Client(url=NODES)
    client.service.failing = fails_on(NODES[0], refusal(Unavailable("no database", retry_after=5.0)))
    values_of(generate(client))
    assert hosts(client) == ["a", "b"]
    assert client.service.paused == []


def test_a_silent_node_leaves_time_for_the_others() -> None:
    client = Client(url=NODES, timeout=10.0)

    def silent(call: Send) -> Lost | None:
        if not call.url.startswith(NODES[0]):
            return None
        client.clock.advance(timedelta(seconds=call.seconds))
        return Lost(reason="ReadTimeout")

    client.service.failing = silent
    values_of(generate(client))
    assert hosts(client) == ["a", "b"]
    assert [call.seconds for call in client.service.sent] == [5.0, 5.0]
    assert client.service.paused == []


def test_calls_are_tried_again_with_longer_and_jittered_pauses_until_their_time_is_up() -> None:
    client = Client(url=NODES, timeout=10.0)
    client.service.failing = lambda _call: Lost(reason="ConnectError")
    with pytest.raises(Unavailable, match=r"does not answer \(ConnectError\): try again") as caught:
        generate(client)
    assert caught.value.retry_after > 0
    assert client.clock.monotonic() <= 10.0
    assert 0.1 <= client.service.paused[0] <= 0.2
    assert client.service.paused[0] < client.service.paused[2] < client.service.paused[4] <= 2.0
    assert len(client.service.sent) == 2 * len(client.service.paused) + 2
    assert all(call.seconds <= 10.0 for call in client.service.sent)
    assert client.service.sent[-1].seconds < 5.0


def test_a_rate_limit_is_waited_for_and_not_carried_to_other_nodes() -> None:
    client = Client(url=NODES)
    answers = [refusal(RateLimitedError("too often", retry_after=3.0))]
    client.service.failing = lambda _call: answers.pop() if answers else None
    values_of(generate(client))
    assert hosts(client) == ["a", "a"]
    assert 3.0 <= client.service.paused[0] <= 3.3


def test_a_rate_limit_longer_than_the_time_left_is_told_at_once() -> None:
    client = Client()
    client.service.failing = lambda _call: refusal(RateLimitedError("too often", retry_after=60.0))
    with pytest.raises(RateLimitedError) as caught:
        generate(client)
    assert caught.value.retry_after == 60.0
    assert client.service.paused == []


@pytest.mark.parametrize(
    "error",
    [
        InvalidInputError("no"),
        TokenRefusedError("no"),
        NotPermittedError("no"),
        RestoreDetected("no"),
        ServiceError("no"),
    ],
)
def test_what_will_not_help_is_not_tried_again(error: KeyVaultError) -> None:
    client = Client(url=NODES)
    client.service.failing = lambda _call: refusal(error)
    with pytest.raises(type(error)):
        generate(client)
    assert len(client.service.sent) == 1


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (200, b"<html>", ServiceError),
        (200, b"", ServiceError),
        (200, b'{"lease": 1, "keys": []}', ServiceError),
        (200, b'{"lease": 1, "keys": [{}]}', ServiceError),
        (302, b"", ServiceError),
        (404, b"not found", ServiceError),
        (500, b"", ServiceError),
        (500, b'{"error": {"type": "NewError", "message": "new"}}', ServiceError),
    ],
)
def test_what_is_no_answer_of_a_key_service_is_an_error(
    status: int, content: bytes, expected: type[KeyVaultError]
) -> None:
    client = Client()
    client.service.failing = lambda _call: Reply(status=status, content=bytearray(content))
    with pytest.raises(expected):
        generate(client)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_proxy_that_says_later_is_asked_later(status: int) -> None:
    client = Client()
    answers = [Reply(status=status, content=bytearray(b"<html>"), retry_after="4")]
    client.service.failing = lambda _call: answers.pop() if answers else None
    values_of(generate(client))
    assert 4.0 <= client.service.paused[0] <= 4.3


def test_a_file_is_read_again_when_its_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old\n")
    client = Client(token=path)
    values_of(generate(client))
    path.write_text("new\n")
    client.service.failing = lambda call: refusal(TokenRefusedError("no")) if call.token == "old" else None
    values_of(generate(client))
    assert [call.token for call in client.service.sent] == ["old", "old", "new"]
    client.service.failing = lambda _call: refusal(TokenRefusedError("no"))
    with pytest.raises(TokenRefusedError):
        generate(client)
    assert len(client.service.sent) == 4


@pytest.mark.parametrize("token", ["", "two words", "a\x00b", "\u00e9", lambda: ""])
def test_a_token_that_is_none_is_refused_without_being_shown(token: str) -> None:
    client = Client(token=token)
    with pytest.raises(ConfigurationError, match="the token is empty, or has characters that no token has"):
        generate(client)


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere is not a file with a token"):
        generate(Client(token=tmp_path / "nowhere"))


def test_no_step_and_no_error_shows_token_or_key() -> None:
    client = Client(token="kv1_secret")
    keys = values_of(generate(client))
    client.service.failing = lambda _call: Lost(reason="ReadError")
    with pytest.raises(Unavailable) as caught:
        generate(client)
    shown = repr(client.service.sent) + repr(caught.value) + repr(caught.value.__cause__) + repr(client.asker)
    assert "secret" not in shown
    assert keys[0].plaintext.hex() not in repr(keys)
    assert "secret" not in repr(client_options("http://localhost", token="kv1_secret"))


def test_large_batches_go_in_parts_and_come_back_in_order() -> None:
    client = Client()
    client.service.refused[scope_id("user/x")] = NotPermittedError("no")
    requests = [KeyRequest(scopes=(f"user/{index}" if index != 7000 else "user/x",)) for index in range(10_001)]
    keys = [key for key, _ in client.take(client.core.calls.generate(requests))]
    assert [count for _, count in client.service.calls] == [5001, 5000]
    assert [index for index, key in enumerate(keys) if isinstance(key, KeyVaultError)] == [7000]
    wrapped = [key.wrapped for key in keys if isinstance(key, DataKey)]
    assert len(set(wrapped)) == 10_000


def test_bodies_stay_within_what_the_service_takes() -> None:
    client = Client()
    requests = [KeyRequest(scopes=("user/1",), associated_data=bytes(64 * 1024)) for _ in range(200)]
    keys = [key for key, _ in client.take(client.core.calls.generate(requests))]
    assert len(values_of(keys)) == 200
    assert len(client.service.sent) > 1
    assert all(len(call.content) <= wire.MAX_BODY_BYTES for call in client.service.sent)
    with pytest.raises(InvalidInputError, match="for one item has more than"):
        client.take(client.core.calls.generate([KeyRequest(scopes=("x" * 9_000_000,))]))


def test_each_part_has_its_own_lease() -> None:
    client = Client()
    client.service.seconds = 5.0
    leases = [lease for _, lease in client.take(client.core.calls.generate([REQUEST] * 10_001))]
    assert {lease.anchor for lease in leases} == {0.0, 5.0}


def test_keys_of_parts_before_one_that_fails_are_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(timeout=0.01)
    wiped: list[object] = []
    monkeypatch.setattr("keyvault.client.calls.messages.wipe_keys", wiped.append)
    client.service.failing = lambda _call: Lost(reason="ReadError") if client.service.calls else None
    with pytest.raises(Unavailable):
        generate(client, 10_001)
    assert len(wiped) == 1


def test_nothing_asked_is_nothing_sent() -> None:
    client = Client()
    assert generate(client, 0) == []
    assert client.take(client.core.opening.many([])) == []
    assert client.take(client.core.unwrap([UnwrapRequest(wrapped=b"", associated_data=bytes(70_000))]))[0] is not None
    assert client.service.sent == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "keys.example.com",
        "ftp://keys.example.com",
        "https://",
        "https://user:secret@keys.example.com",
        "https://keys.example.com/?a=b",
        "https://keys.example.com:99999",
        "http://keys.example.com",
        "http://10.0.0.1:8443",
        [],
    ],
)
def test_urls_that_cannot_be_used_are_refused(url: str | list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client_options(url, token="t")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8443", "http://[::1]:1", "http://localhost/", "https://10.0.0.1"])
def test_plain_http_stays_within_the_machine(url: str) -> None:
    options = client_options(url, token="t")
    assert options.urls == (url.rstrip("/"),)
    assert (options.tls is None) == url.startswith("http:")


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ca\.pem is not a file of certificates"):
        client_options("https://a", token="t", ca_file=tmp_path / "ca.pem")
    with pytest.raises(ConfigurationError, match=r"c\.pem and .*k\.pem are not a certificate and its key"):
        client_options("https://a", token="t", client_certificate=(tmp_path / "c.pem", tmp_path / "k.pem"))
    with pytest.raises(ConfigurationError, match="of no use with plain HTTP"):
        client_options("http://localhost", token="t", ca_file=tmp_path / "ca.pem")


@pytest.mark.parametrize("wrong", [{"timeout": 0.0}, {"timeout": float("nan")}, {"keep": -1}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        client_options("https://a", token="t", **wrong)  # type: ignore[arg-type]


def test_a_listener_turns_to_the_next_node_and_waits_longer_each_time() -> None:
    client = Client()
    pushes = Pushes(client_options(NODES, token="kv1_secret"), client.core.kept)
    listened = [pushes.listen()]
    pauses = []
    for _ in range(12):
        pauses.append(pushes.ended())
        listened.append(pushes.listen())
    assert [one.url for one in listened[:3]] == [f"{NODES[n]}/v1/push" for n in (0, 1, 0)]
    assert pauses[0] <= 1.0 < pauses[4] < pauses[-1] <= LONGEST_PAUSE_SECONDS
    assert pushes.opened(200)
    assert pushes.ended() <= 1.0
    assert not pushes.opened(404)
    assert not pushes.opened(401)
    assert "secret" not in repr(listened)


def test_a_send_shows_neither_token_nor_body() -> None:
    shown = repr(Send(url="https://a", token="secret", content=b"secret", seconds=1.0))
    assert "secret" not in shown
