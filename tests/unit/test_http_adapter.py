"""hvac over our adapter: what is sent, what is never sent, and which answer becomes which error."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hvac
import pytest
from hvac import exceptions
from urllib3 import HTTPResponse
from urllib3.exceptions import ProtocolError
from urllib3.util import Retry

from keyvault.errors import ConfigurationError, InvalidInputError, Unavailable
from keyvault.transit._http import VaultAdapter, open_client, open_pool
from keyvault.transit.base import audit_event
from keyvault.transit.hashicorp import HashicorpEngine, TokenCredentials
from keyvault.transit.vault_settings import VaultSettings

ADDR = "https://vault.example:8200"


@dataclass(kw_only=True)
class FakePool:
    """Stands in for urllib3's pool: gives one answer, or raises, and keeps what it was sent."""

    status: int = 200
    body: bytes = b"{}"
    error: Exception | None = None
    sent: list[dict[str, Any]] = field(default_factory=list)

    def urlopen(self, method: str, url: str, **options: Any) -> HTTPResponse:
        self.sent.append({"method": method, "url": url, **options})
        if self.error:
            raise self.error
        return HTTPResponse(body=self.body, status=self.status)

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.sent[-1]["headers"])


def client_over(pool: FakePool, *, token: str = "", namespace: str | None = None, addr: str = ADDR) -> Any:
    return hvac.Client(url=addr, token=token, verify=True, namespace=namespace, adapter=VaultAdapter, pool=pool)


# --- what is sent --------------------------------------------------------------------------------------------------------


def test_sends_token_namespace_and_the_mark_of_a_deliberate_request() -> None:
    pool = FakePool()
    client_over(pool, token="t", namespace="team").secrets.transit.read_key(name="k")
    assert (pool.sent[0]["method"], pool.sent[0]["url"], pool.sent[0]["body"]) == ("GET", "/v1/transit/keys/k", None)
    assert pool.headers == {
        "Content-Type": "application/json",
        "X-Vault-Namespace": "team",
        "X-Vault-Request": "true",
        "X-Vault-Token": "t",
    }


def test_sends_neither_token_nor_namespace_where_there_is_none() -> None:
    pool = FakePool()
    client_over(pool).secrets.transit.read_key(name="k")
    assert set(pool.headers) == {"Content-Type", "X-Vault-Request"}


def test_sends_the_audit_event_only_inside_it() -> None:
    pool = FakePool()
    client = client_over(pool)
    with audit_event("event-1"):
        client.secrets.transit.read_key(name="k")
        assert pool.headers["X-Keyvault-Event"] == "event-1"
        with audit_event("event-2"):
            client.secrets.transit.read_key(name="k")
            assert pool.headers["X-Keyvault-Event"] == "event-2"
    client.secrets.transit.read_key(name="k")
    assert "X-Keyvault-Event" not in pool.headers


def test_never_asks_for_a_wrapped_answer() -> None:
    pool = FakePool()
    with pytest.raises(InvalidInputError, match="wrapping"):
        client_over(pool).auth.approle.generate_secret_id("r", wrap_ttl="1m")
    assert pool.sent == []


def test_sends_json_under_the_addresss_own_path() -> None:
    pool = FakePool()
    client_over(pool, addr=f"{ADDR}/proxy/").secrets.transit.trim_key(name="k", min_version=2)
    assert pool.sent[0]["url"] == "/proxy/v1/transit/keys/k/trim"
    assert json.loads(pool.sent[0]["body"]) == {"min_available_version": 2}


def test_lists_with_vaults_own_verb() -> None:
    pool = FakePool()
    client_over(pool).secrets.transit.list_keys()
    assert (pool.sent[0]["method"], pool.sent[0]["url"]) == ("LIST", "/v1/transit/keys")


def test_tries_again_only_what_never_reached_vault_and_follows_nothing() -> None:
    pool = FakePool()
    client_over(pool).secrets.transit.read_key(name="k")
    retries = pool.sent[0]["retries"]
    assert isinstance(retries, Retry)
    assert (retries.connect, retries.read, retries.status, retries.other) == (2, False, False, False)
    assert pool.sent[0]["redirect"] is False


def test_takes_no_token_from_the_environment_or_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".vault-token").write_text("from-home")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VAULT_TOKEN", "from-environment")
    settings = VaultSettings(addr=ADDR)
    with closing(open_pool(settings)) as pool:
        assert open_client(settings, pool).token == ""


# --- what comes back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204])
def test_an_empty_answer_is_an_empty_object(status: int) -> None:
    assert client_over(FakePool(status=status, body=b"")).secrets.transit.delete_key(name="k") == {}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"\xff"),
        (404, b"<html>Not found</html>"),
        (404, b""),
        (404, b"{}"),
        (404, b'{"message": "no such route"}'),
        (403, b"<html>Forbidden</html>"),
        (400, b"Bad request"),
    ],
)
def test_an_answer_that_is_not_vaults_is_no_answer(status: int, body: bytes) -> None:
    settings = VaultSettings(addr=ADDR)
    with closing(HashicorpEngine(settings, TokenCredentials(token="t"))) as engine:
        engine._client.adapter._pool = FakePool(status=status, body=body)
        (result,) = engine.read_keys(["k"])
    assert isinstance(result, Unavailable)
    assert "not as Vault does" in str(result)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, exceptions.InvalidRequest),
        (403, exceptions.Forbidden),
        (404, exceptions.InvalidPath),
        (405, exceptions.UnexpectedError),
    ],
)
def test_a_refused_request_is_hvacs_exception_with_vaults_words(status: int, kind: type[Exception]) -> None:
    pool = FakePool(status=status, body=b'{"errors": ["the words"]}')
    with pytest.raises(kind, match="the words") as caught:
        client_over(pool).secrets.transit.read_key(name="k")
    assert caught.value.errors == ["the words"]  # type: ignore[attr-defined]  # of hvac's exceptions


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b'{"errors": ["Vault is sealed"]}', "is sealed; unseal it"),
        (503, b'{"errors": ["Vault is not initialized"]}', "is not initialized"),
        (501, b"", "HTTP 501"),
        (307, b"", "redirects elsewhere"),
        (301, b"<html>", "redirects elsewhere"),
        (429, b"", "limits the rate"),
        (412, b'{"errors": ["required index state not present"]}', "HTTP 412: required index"),
        (472, b"", "HTTP 472"),
        (473, b"", "HTTP 473"),
        (500, b'{"errors": ["internal"]}', "HTTP 500: internal"),
        (502, b"<html>Bad gateway t</html>", "HTTP 502"),
        (503, b"", "HTTP 503"),
    ],
)
def test_what_is_not_the_requests_fault_is_unavailable(status: int, body: bytes, said: str) -> None:
    with pytest.raises(Unavailable, match=said) as caught:
        client_over(FakePool(status=status, body=body)).secrets.transit.read_key(name="k")
    assert f"Vault at {ADDR}" in str(caught.value)
    assert "html" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"errors": ["put failed due to value being too large, max value size"]}'),
        (500, b'{"errors": ["JSON string value exceeds allowed length"]}'),
        (413, b""),
    ],
)
def test_a_value_too_large_is_not_called_retryable(status: int, body: bytes) -> None:
    pool = FakePool(status=status, body=body)
    with pytest.raises(InvalidInputError, match="too large"):
        client_over(pool).secrets.kv.v2.create_or_update_secret("p", {"value": "x"}, cas=0)


def test_a_connection_that_breaks_is_unavailable() -> None:
    pool = FakePool(error=ProtocolError("Connection aborted."))
    with pytest.raises(Unavailable, match=r"the connection broke \(ProtocolError\)"):
        client_over(pool).secrets.transit.read_key(name="k")
    assert len(pool.sent) == 1


def test_a_programming_error_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        client_over(FakePool(error=ZeroDivisionError())).secrets.transit.read_key(name="k")


# --- real sockets ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def failing(addr: str) -> str:
    settings = VaultSettings(addr=addr, timeout=0.2)
    credentials = TokenCredentials(token="t")
    with closing(HashicorpEngine(settings, credentials)) as engine, pytest.raises(Unavailable) as caught:
        engine.list_keys()
    return str(caught.value)


def test_a_server_that_says_nothing_is_unavailable_in_time(silent_server: int) -> None:
    assert "it did not answer in time" in failing(f"https://127.0.0.1:{silent_server}")


def test_an_unknown_host_is_named_as_such() -> None:
    assert "the name of its host is not known" in failing("https://vault.invalid:8200")


# --- settings ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VaultSettings(addr="http://vault:8200"), "must be https"),
        (lambda: VaultSettings(addr="vault:8200"), "must be https"),
        (lambda: VaultSettings(addr="https://"), "must be https"),
        (lambda: VaultSettings(addr="https://user:hidden@vault"), "user name or password; roles log in by AppRole$"),
        (lambda: VaultSettings(addr=ADDR, timeout=0), "above 0 seconds"),
        (lambda: VaultSettings(addr=ADDR, pool_size=0), "at least 1"),
        (lambda: VaultSettings(addr=ADDR, log_mount="transit"), "three different"),
        (lambda: VaultSettings(addr=ADDR, kv_mount=""), "must be named"),
        (lambda: VaultSettings(addr=ADDR, kv_mount="/kv"), "must be named"),
        (lambda: VaultSettings(addr=ADDR, prefix=""), "must be named"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], VaultSettings], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_unusable_ca_file_is_refused(tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"ca\.pem cannot be used"):
        open_pool(VaultSettings(addr=ADDR, ca_file=ca_file))
