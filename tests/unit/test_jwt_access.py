"""Tokens of an identity provider: what is taken, and each way in which one is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from keyvault.errors import ConfigurationError, TokenRefusedError, Unavailable
from keyvault.oidc_settings import ALGORITHMS, OidcSettings
from keyvault.scopes import ScopeKind
from keyvault.service.jwt_access import JwtTokens, jwt_access
from keyvault.service.key_set import AGAIN_SECONDS, FRESH_SECONDS, LATEST_SECONDS, KeySet, loader
from keyvault.settings import load_settings
from keyvault.testing import ManualClock
from keyvault.tokens import Role
from tests.homes import embedded_home
from tests.servers.certificates import make_certificates
from tests.token_histories import KEYS

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
ISSUER, AUDIENCE = "https://login.example.com/", "keyvault"
RSA_KEY = rsa.generate_private_key(65_537, 2_048)
SMALL_KEY = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - to be refused
OTHER_KEY = rsa.generate_private_key(65_537, 2_048)
KEYS_BY_ALGORITHM: dict[str, Any] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA_KEY),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
WRITERS: dict[str, Any] = {"RS": RSAAlgorithm, "PS": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm}


def jwk(kid: str, key: Any, algorithm: str = "RS256", **changes: Any) -> dict[str, Any]:
    written = WRITERS[algorithm[:2]].to_jwk(key.public_key())
    return {**json.loads(written), "kid": kid, "use": "sig", **changes}


class Provider:
    """An identity provider, and a service that takes its tokens."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock(NOW)
        self.keys = [jwk("rsa", RSA_KEY)]
        self.down = False
        self.loads = 0
        given = {"issuer": ISSUER, "audience": AUDIENCE, "key_file": "/unused", **settings}
        self.tokens = JwtTokens(OidcSettings(**given), KeySet(self.load, self.clock.monotonic), KEYS, self.clock)

    def load(self) -> bytes:
        self.loads += 1
        if self.down:
            raise Unavailable("down")
        return json.dumps({"keys": self.keys}).encode()

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(self.clock.now().timestamp())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "importer",
            "iat": now,
            "exp": now + 300,
            "keyvault_role": "issuer",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def sign(self, key: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "rsa", **claims: Any) -> str:
        headers = None if kid is None else {"kid": kid}
        return jwt.encode(self.claims(**claims), key, algorithm=algorithm, headers=headers)

    def refused(self, token: str, match: str = "the identity provider's token") -> None:
        with pytest.raises(TokenRefusedError, match=match):
            self.tokens.verify(token)
        assert self.tokens.known(token) is None


@pytest.fixture
def provider() -> Provider:
    return Provider()


# --- what is taken --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("stated", [True, False])
def test_each_algorithm_is_taken_with_its_own_key(provider: Provider, algorithm: str, stated: bool) -> None:
    key = KEYS_BY_ALGORITHM[algorithm]
    provider.keys = [jwk("k", key, algorithm, **({"alg": algorithm} if stated else {}))]
    token = provider.sign(key, algorithm, "k")
    (caller,) = provider.tokens.verify(token).values()
    assert (caller.role, caller.limits.unlimited, len(caller.owner)) == (Role.ISSUER, True, 32)
    assert provider.tokens.known(token) == {Role.ISSUER: caller}


def test_one_subject_is_one_owner_whatever_the_token(provider: Provider) -> None:
    def caller(**claims: Any) -> Any:
        (found,) = provider.tokens.verify(provider.sign(**claims)).values()
        return found

    assert caller() == caller(exp=NOW.timestamp() + 7)
    assert caller().owner != caller(sub="another").owner
    assert caller().token != caller(sub="another").token


def test_roles_are_those_of_the_claim_and_requests_need_a_known_person() -> None:
    roles = ["issuer", "requester", "auditor", "admin"]
    unknown = Provider()
    assert set(unknown.tokens.verify(unknown.sign(keyvault_role=roles))) == {Role.ISSUER, Role.AUDITOR}
    assert unknown.tokens.verify(unknown.sign(keyvault_role="admin")) == {}
    known = Provider(person_claim="entity")
    callers = known.tokens.verify(known.sign(keyvault_role=roles, entity="ada"))
    assert set(callers) == {Role.ISSUER, Role.AUDITOR, Role.REQUESTER}
    assert callers[Role.REQUESTER].owner == KEYS.pseudonym_of("person", "ada"), "as `request approve` knows ada"
    for person in (None, "", 7, "\ud800"):
        known.refused(known.sign(entity=person), "which person")
    for role in (None, 7, {"issuer": True}):
        unknown.refused(unknown.sign(keyvault_role=role), "claim with its role")


def test_limits_are_those_of_the_claim_and_hold_whoever_looks_at_them() -> None:
    provider = Provider(limits_claim="limits")
    limits = {"accounts": ["acct-1"], "kinds": ["consumer"], "purposes": ["support"]}
    callers = provider.tokens.verify(provider.sign(limits=limits, keyvault_role=["issuer", "platform"]))
    assert set(callers) == {Role.ISSUER}
    found = callers[Role.ISSUER].limits
    assert found.accounts == frozenset({KEYS.pseudonym_of("account", "acct-1")})
    assert (found.kinds, found.purposes) == (frozenset({ScopeKind.CONSUMER}), frozenset({"support"}))
    assert set(provider.tokens.verify(provider.sign(limits={}, keyvault_role="platform"))) == {Role.PLATFORM}
    wrongs: list[Any] = [
        None,
        [],
        {"kinds": ["person"]},
        {"kinds": "consumer"},
        {"accounts": []},
        {"accounts": [1]},
        {"a": []},
    ]
    for wrong in wrongs:
        provider.refused(provider.sign(limits=wrong), "limits")
    provider.refused(provider.sign(limits={"accounts": ["\ud800"]}), "limits")


# --- what is not ----------------------------------------------------------------------------------------------------------


CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"iss": "https://evil.example.com/"}, "another issuer"),
    "another audience": ({"aud": "other"}, "another audience"),
    "other audiences": ({"aud": ["other", "more"]}, "another audience"),
    "expired": ({"exp": NOW.timestamp() - 30}, "expired"),
    "not yet valid": ({"nbf": NOW.timestamp() + 31}, "not valid yet"),
    "issued later": ({"iat": NOW.timestamp() + 31}, "not valid yet"),
    "without end": ({"exp": None}, "lacks a claim"),
    "an end that is a text": ({"exp": "2099-01-01"}, "no time"),
    "an end that is a truth": ({"exp": True}, "no time"),
    "an end that never comes": ({"exp": float("inf")}, "no time"),
    "without subject": ({"sub": None}, "lacks a claim"),
    "without issuer": ({"iss": None}, "lacks a claim"),
    "without audience": ({"aud": None}, "lacks a claim|another audience"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_claims_that_are_wrong_are_refused(provider: Provider, case: str) -> None:
    claims, match = CLAIMS[case]
    provider.refused(provider.sign(**claims), match)


def test_times_are_judged_with_leeway_and_at_every_use(provider: Provider) -> None:
    token = provider.sign(nbf=NOW.timestamp() + 29, exp=NOW.timestamp() + 40)
    assert provider.tokens.verify(token)
    provider.clock.advance(timedelta(seconds=69))
    provider.clock.advance(timedelta(seconds=-20))
    assert provider.tokens.known(token)
    provider.clock.jump(NOW + timedelta(seconds=70))
    with pytest.raises(TokenRefusedError, match="expired"):
        provider.tokens.known(token)


def test_a_token_without_algorithm_is_refused(provider: Provider) -> None:
    for name in ("none", "None", "NONE"):
        header = {"alg": name, "kid": "rsa"}
        parts = [json.dumps(part).encode() for part in (header, provider.claims())]
        provider.refused(".".join([*map(encoded, parts), ""]), "algorithm")


def test_the_public_key_is_no_shared_secret(provider: Provider) -> None:
    """The classic confusion: HS256 with the public key's bytes, which everybody has."""
    public = RSA_KEY.public_key()
    formats = [
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        json.dumps(jwk("rsa", RSA_KEY)).encode(),
    ]
    for secret in formats:
        parts = [encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": "rsa"}, provider.claims())]
        signed = ".".join(parts)
        signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        provider.refused(f"{signed}.{encoded(signature)}", "algorithm")
    provider.keys.append({"kty": "oct", "kid": "shared", "k": encoded(b"s" * 32), "alg": "HS256"})
    provider.refused(provider.sign(b"s" * 32, "HS256", "shared"), "algorithm")
    provider.refused(provider.sign(kid="shared"), "no such key")


def test_a_key_signs_with_its_own_algorithm_only(provider: Provider) -> None:
    provider.keys = [jwk("rsa", RSA_KEY, alg="PS256"), jwk("small", SMALL_KEY)]
    provider.keys.append(jwk("ec", KEYS_BY_ALGORITHM["ES256"], "ES256"))
    provider.refused(provider.sign(), "not for its algorithm")
    provider.refused(provider.sign(kid="ec"), "not for its algorithm")
    provider.refused(provider.sign(KEYS_BY_ALGORITHM["ES384"], "ES384", "ec"), "not for its algorithm")
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = provider.sign(SMALL_KEY, kid="small")
    provider.refused(token, "fewer than 2048 bits")
    narrow = Provider(algorithms=["ES256"])
    narrow.refused(narrow.sign(), "algorithm")


def test_another_signature_and_what_is_no_token_are_refused(provider: Provider) -> None:
    provider.refused(provider.sign(OTHER_KEY), "signature")
    good = provider.sign()
    head, body, signature = good.split(".")
    changed = encoded(json.dumps(provider.claims(sub="admin")).encode())
    provider.refused(f"{head}.{changed}.{signature}", "signature")
    provider.refused(provider.sign(kid=None), "names no key")
    for text in ("..", "a.b.c", f"{head}..", f"{head}.{body}.", "\xe9.a.b", "[" * 5_000 + ".a.b"):
        provider.refused(text)
    crit = jwt.encode(provider.claims(), RSA_KEY, algorithm="RS256", headers={"kid": "rsa", "crit": ["exp"]})
    provider.refused(crit)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# --- keys -----------------------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_looked_for_once_a_minute_and_a_rotated_one_found(provider: Provider) -> None:
    assert provider.tokens.verify(provider.sign())
    new = provider.sign(OTHER_KEY, kid="new")
    for _ in range(50):
        provider.refused(new, "no such key")
    assert provider.loads == 1
    provider.keys = [jwk("new", OTHER_KEY)]
    provider.clock.advance(timedelta(seconds=AGAIN_SECONDS))
    assert provider.tokens.verify(new)
    assert provider.loads == 2
    provider.refused(provider.sign(), "no such key")


def test_a_withdrawn_key_ends(provider: Provider) -> None:
    token = provider.sign(exp=NOW.timestamp() + 7_200)
    assert provider.tokens.verify(token)
    provider.keys = [jwk("new", OTHER_KEY)]
    provider.clock.advance(timedelta(seconds=FRESH_SECONDS))
    assert provider.tokens.known(token) is None
    provider.refused(token, "no such key")


def test_a_provider_that_is_down_ends_its_tokens_after_an_hour(provider: Provider) -> None:
    token = provider.sign(exp=NOW.timestamp() + 86_400)
    assert provider.tokens.verify(token)
    provider.down = True
    provider.clock.advance(timedelta(seconds=LATEST_SECONDS - 1))
    assert provider.tokens.verify(token)
    provider.clock.advance(timedelta(seconds=61))
    for _ in range(2):
        with pytest.raises(Unavailable, match="keys cannot be had"):
            provider.tokens.verify(token)
    provider.down = False
    provider.clock.advance(timedelta(seconds=10))
    assert provider.tokens.verify(token)


def test_nothing_is_taken_before_there_were_keys(provider: Provider) -> None:
    provider.down = True
    for _ in range(10):
        with pytest.raises(Unavailable):
            provider.tokens.verify(provider.sign())
    assert provider.loads == 1


def test_a_slow_provider_holds_up_one_caller_only() -> None:
    asked, go = threading.Event(), threading.Event()
    now = [0.0]

    def load() -> bytes:
        if now[0]:
            asked.set()
            assert go.wait(60)
        return json.dumps({"keys": [jwk("rsa", RSA_KEY)]}).encode()

    keys = KeySet(load, lambda: now[0])
    assert keys.find("rsa") is not None
    now[0] = FRESH_SECONDS
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(keys.find, "new")
        assert asked.wait(60)
        assert keys.find("rsa") is not None
        with pytest.raises(Unavailable, match="being asked"):
            keys.find("new")
        go.set()
        assert first.result(60) is None
    assert keys.find("new") is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"keys":1}', b"[" * 100_000])
def test_what_is_no_key_set_is_none(data: bytes) -> None:
    with pytest.raises(Unavailable, match="no JWKS"):
        KeySet(lambda: data, lambda: 0.0).find("k")


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    load = loader(OidcSettings(issuer=ISSUER, audience=AUDIENCE, key_file=str(path)))
    with pytest.raises(Unavailable, match="cannot be read"):
        load()
    path.write_text("{}")
    assert load() == b"{}"


class _Answers(BaseHTTPRequestHandler):
    answers: Callable[[BaseHTTPRequestHandler], None]

    def do_GET(self) -> None:
        type(self).answers(self)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def https(tmp_path: Path, answer: Callable[[Any], None]) -> Iterator[tuple[str, Path]]:
    certificates = make_certificates(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"answers": staticmethod(answer)}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert_file, certificates.key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/keys", certificates.ca_file
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_keys_are_fetched_by_https_from_whom_the_authority_knows(tmp_path: Path) -> None:
    def answer(request: Any) -> None:
        if request.path == "/keys":
            request.send_response(200)
            request.end_headers()
            request.wfile.write(b'{"keys":[]}')
            return
        request.send_response(302 if request.path == "/moved" else 500)
        request.send_header("Location", "/keys")
        request.end_headers()

    with https(tmp_path, answer) as (url, ca_file):
        given: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE}
        assert loader(OidcSettings(**given, key_url=url, ca_file=str(ca_file)))() == b'{"keys":[]}'
        for path in ("/moved", "/broken"):
            with pytest.raises(Unavailable, match="answers"):
                loader(OidcSettings(**given, key_url=url.replace("/keys", path), ca_file=str(ca_file)))()
        with pytest.raises(Unavailable, match="does not answer"):
            loader(OidcSettings(**given, key_url=url))()


def test_an_endless_answer_ends(tmp_path: Path) -> None:
    def answer(request: Any) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(40):
            request.wfile.write(b" " * 65_536)

    with https(tmp_path, answer) as (url, ca_file):
        settings = OidcSettings(issuer=ISSUER, audience=AUDIENCE, key_url=url, ca_file=str(ca_file))
        with pytest.raises(Unavailable, match="too long"):
            loader(settings)()


# --- settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"key_file": None}, "either key_file or key_url"),
        ({"key_url": "https://h/"}, "either key_file or key_url"),
        ({"key_file": "keys.json"}, "absolute"),
        ({"key_file": None, "key_url": "http://h/"}, "https"),
        ({"key_file": None, "key_url": "https://u:p@h/"}, "without user name"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"issuer": ""}, "issuer"),
        ({"leeway": 301}, "leeway"),
    ],
)
def test_settings_that_would_let_too_much_in_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        OidcSettings(**{"issuer": ISSUER, "audience": AUDIENCE, "key_file": "/keys.json", **changes})


def test_a_home_names_its_provider_and_the_extra_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = embedded_home(tmp_path)
    with home.opened() as opened:
        assert jwt_access(opened) is None
    with (home.path / "keyvault.toml").open("a") as file:
        file.write(f'\n[oidc]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\nkey_file = "{tmp_path}/keys.json"\n')
    assert load_settings(home.path).oidc is not None
    with home.opened() as opened:
        (tmp_path / "keys.json").write_text(json.dumps({"keys": [jwk("rsa", RSA_KEY)]}))
        access = jwt_access(opened)
        assert access is not None
        token = Provider().sign(iat=None, exp=time.time() + 60)
        assert set(access.verify(token)) == {Role.ISSUER}
        monkeypatch.setitem(sys.modules, "jwt", None)
        with pytest.raises(ConfigurationError, match=r"keyvault-shredder\[oidc\]"):
            jwt_access(opened)
