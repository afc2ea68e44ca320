"""Every role's own token on every path of every other role, and on paths that are nobody's."""

import base64
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import urllib3

from keyvault.errors import CheckAndSetError, KeyMissingError, PermissionDeniedError
from keyvault.transit.base import Ciphertext, Plaintext
from keyvault.transit.hashicorp import HashicorpEngine, TokenCredentials, VaultSettings
from keyvault.vault_setup import ROLES, issue_credentials, set_up_vault
from tests.homes import own_mounts
from tests.servers import VaultError, VaultServer

DATA = base64.b64encode(b"data").decode()
USES = {"issuer", "shredder", "restorer"}
KILLS = {"shredder", "restorer"}
SEES = USES | {"auditor"}
LOG_READERS = SEES | {"sequencer"}
NOBODY: set[str] = set()
AES = {"type": "aes256-gcm96"}


@dataclass(frozen=True, kw_only=True)
class Try:
    """One request and the roles that may make it. `{new}` is a fresh name, `{key}` a fresh key; `put` is written before."""

    request: str
    body: Any = None
    may: set[str]
    put: str = ""
    gone: str = ""


def state(request: str, may: set[str], *, put: str = "", gone: str = "", version: int = 0) -> Try:
    body = {"options": {"cas": version}, "data": {"value": "x"}} if request.startswith("POST") else None
    return Try(request=request, body=body, may=may, put=put, gone=gone)


TRIES = [
    # keys
    Try(request="POST {t}/keys/{new}", body=AES, may=USES),
    Try(request="POST {t}/keys/{new}", body={**AES, "exportable": True}, may=NOBODY),
    Try(request="POST {t}/keys/{new}", body={**AES, "exportable": False}, may=NOBODY),
    Try(request="POST {t}/keys/{new}", body={**AES, "allow_plaintext_backup": True}, may=NOBODY),
    Try(request="POST {t}/keys/{new}", body={"type": "rsa-2048"}, may=NOBODY),
    Try(request="POST {t}/keys/{new}/import", body={"ciphertext": DATA}, may=NOBODY),
    Try(request="GET {t}/keys/{key}", may=SEES),
    Try(request="LIST {t}/keys", may=KILLS | {"auditor"}),
    Try(request="DELETE {t}/keys/{key}", may=KILLS),
    Try(request="POST {t}/keys/{key}/rotate", may=KILLS),
    Try(request="POST {t}/keys/{key}/trim", body={"min_available_version": 1}, may=KILLS),
    Try(request="POST {t}/keys/{key}/config", body={"deletion_allowed": True}, may=KILLS),
    Try(request="POST {t}/keys/{key}/config", body={"min_decryption_version": 1}, may=KILLS),
    Try(request="POST {t}/keys/{key}/config", body={"exportable": True}, may=NOBODY),
    Try(request="POST {t}/keys/{key}/config", body={"allow_plaintext_backup": True}, may=NOBODY),
    Try(request="POST {t}/keys/{key}/config", body={"auto_rotate_period": "1h"}, may=NOBODY),
    Try(request="POST {t}/encrypt/{key}", body={"plaintext": DATA}, may=USES),
    Try(request="POST {t}/decrypt/{key}", body={"ciphertext": "vault:v1:AAAA"}, may=USES),
    Try(request="POST {t}/datakey/plaintext/{key}", may={"issuer"}),
    Try(request="POST {t}/datakey/wrapped/{key}", may=NOBODY),
    Try(request="POST {t}/rewrap/{key}", body={"ciphertext": "vault:v1:AAAA"}, may=NOBODY),
    Try(request="GET {t}/export/encryption-key/{key}", may=NOBODY),
    Try(request="GET {t}/backup/{key}", may=NOBODY),
    Try(request="POST {t}/restore/{new}", body={"backup": DATA}, may=NOBODY),
    Try(request="POST {t}/hmac/{key}", body={"input": DATA}, may=NOBODY),
    Try(request="POST {t}/config/keys", body={"disable_upsert": False}, may=NOBODY),
    # the system key
    Try(request="GET {t}/keys/system", may=SEES),
    Try(request="POST {t}/decrypt/system", body={"ciphertext": "vault:v1:AAAA"}, may=USES),
    Try(request="POST {t}/keys/system", body=AES, may=NOBODY),
    Try(request="DELETE {t}/keys/system", may=NOBODY),
    Try(request="POST {t}/keys/system/rotate", may=NOBODY),
    Try(request="POST {t}/keys/system/trim", body={"min_available_version": 1}, may=NOBODY),
    Try(request="POST {t}/keys/system/config", body={"deletion_allowed": True}, may=NOBODY),
    Try(request="POST {t}/encrypt/system", body={"plaintext": DATA}, may=NOBODY),
    Try(request="POST {t}/datakey/plaintext/system", may=NOBODY),
    # the log key
    Try(request="POST {l}/sign/log", body={"input": DATA}, may={"sequencer"}),
    Try(request="POST {l}/sign/log", body={"input": DATA, "key_version": 1}, may=NOBODY),
    Try(request="GET {l}/keys/log", may=LOG_READERS),
    Try(request="POST {l}/keys/log", body={"type": "ed25519"}, may=NOBODY),
    Try(request="POST {l}/keys/log/rotate", may=NOBODY),
    Try(request="POST {l}/keys/log/config", body={"deletion_allowed": True}, may=NOBODY),
    Try(request="DELETE {l}/keys/log", may=NOBODY),
    Try(request="POST {l}/keys/{new}", body={"type": "ed25519"}, may=NOBODY),
    # states, pointers, slots, the log head
    state("POST {k}/data/state/{new}/0", USES),
    state("POST {k}/data/state/{new}/1", KILLS),
    state("POST {k}/data/state/{new}/0", NOBODY, put="state/{new}/0", version=1),
    state("POST {k}/data/state/{new}/1", NOBODY, put="state/{new}/1", version=1),
    state("GET {k}/data/state/{new}/1", USES, put="state/{new}/1"),
    state("POST {k}/data/pointer/{new}", {"issuer", "restorer"}),
    state("POST {k}/data/pointer/{new}", KILLS, put="pointer/{new}", version=1),
    state("GET {k}/data/pointer/{new}", SEES, put="pointer/{new}"),
    state("POST {k}/data/slots/{new}", {"issuer", "restorer"}),
    state("POST {k}/data/slots/{new}", {"issuer", "restorer"}, put="slots/{new}", version=1),
    state("GET {k}/data/slots/{new}", SEES, put="slots/{new}"),
    state("POST {k}/data/log/head/{new}", {"restorer"}, gone="log/head/{new}"),
    state(
        "POST {k}/data/log/head/{new}",
        {"sequencer", "restorer"},
        gone="log/head/{new}",
        put="log/head/{new}",
        version=1,
    ),
    state("GET {k}/data/log/head/{new}", LOG_READERS),
    state("POST {k}/data/system/{new}", NOBODY),
    state("POST {k}/data/system/{new}", NOBODY, put="system/{new}", version=1),
    state("GET {k}/data/system/{new}", USES, put="system/{new}"),
    # "+" also matches the empty segment: listing state/+ grants listing state/.
    state("LIST {k}/metadata/state", KILLS | {"auditor"}),
    state("LIST {k}/metadata/pointer", {"auditor", "restorer"}),
    state("LIST {k}/metadata/slots", {"auditor", "restorer"}),
    state("LIST {k}/metadata/state/{new}", KILLS | {"auditor"}, put="state/{new}/1"),
    state("LIST {k}/metadata", NOBODY),
    state("LIST {k}/metadata/system", NOBODY),
    state("GET {k}/metadata/state/{new}/1", KILLS, put="state/{new}/1"),
    state("GET {k}/metadata/pointer/{new}", KILLS | {"auditor"}, put="pointer/{new}"),
    state("GET {k}/metadata/slots/{new}", {"restorer", "auditor"}, put="slots/{new}"),
    state("DELETE {k}/metadata/state/{new}/1", KILLS, put="state/{new}/1"),
    state("DELETE {k}/metadata/pointer/{new}", KILLS, put="pointer/{new}"),
    state("DELETE {k}/metadata/slots/{new}", {"restorer"}, put="slots/{new}"),
    state("DELETE {k}/metadata/system/{new}", NOBODY, put="system/{new}"),
    state("DELETE {k}/metadata/log/head/{new}", NOBODY),
    state("DELETE {k}/data/state/{new}/1", NOBODY, put="state/{new}/1"),
    Try(request="POST {k}/metadata/state/{new}/1", body={"max_versions": 9}, may=NOBODY, put="state/{new}/1"),
    Try(request="POST {k}/metadata/pointer/{new}", body={"max_versions": 9}, may=NOBODY, put="pointer/{new}"),
    Try(request="POST {k}/destroy/state/{new}/1", body={"versions": [1]}, may=NOBODY, put="state/{new}/1"),
    Try(request="POST {k}/undelete/state/{new}/1", body={"versions": [1]}, may=NOBODY, put="state/{new}/1"),
    Try(request="POST {k}/config", body={"cas_required": False}, may=NOBODY),
    # the server
    Try(request="POST sys/audit-hash/file", body={"input": "x"}, may={"auditor"}),
    Try(request="LIST auth/token/accessors", may={"auditor"}),
    Try(request="POST auth/token/lookup-accessor", body={"accessor": "x"}, may={"auditor"}),
    Try(request="POST auth/token/revoke-accessor", body={"accessor": "x"}, may=NOBODY),
    Try(request="POST auth/token/lookup", body={"token": "x"}, may=NOBODY),
    Try(request="POST auth/token/create", body={}, may=NOBODY),
    Try(request="GET sys/storage/raft/snapshot", may={"operator"}),
    Try(request="POST sys/storage/raft/snapshot", body={}, may=NOBODY),
    Try(request="GET sys/audit", may=NOBODY),
    Try(request="DELETE sys/audit/file", may=NOBODY),
    Try(request="GET sys/mounts", may=NOBODY),
    Try(request="DELETE sys/mounts/{t}", may=NOBODY),
    Try(request="GET sys/policies/acl/{p}-issuer", may=NOBODY),
    Try(request="PUT sys/policies/acl/{p}-issuer", body={"policy": ""}, may=NOBODY),
    Try(request="GET {a}/role/{p}-shredder/role-id", may=NOBODY),
    Try(request="POST {a}/role/{p}-shredder/secret-id", body={}, may=NOBODY),
    Try(request="PUT sys/raw/x", body={"value": "x"}, may=NOBODY),
    Try(request="POST cubbyhole/{new}", body={"x": "x"}, may=NOBODY),
    Try(request="POST sys/wrapping/wrap", body={"x": "x"}, may=NOBODY),
    # its own token
    Try(request="GET auth/token/lookup-self", may=set(ROLES)),
    Try(request="POST auth/token/renew-self", body={}, may=set(ROLES)),
    Try(request="POST sys/capabilities-self", body={"paths": ["x"]}, may=set(ROLES)),
]


@pytest.fixture(scope="module")
def settings(vault_server: VaultServer) -> VaultSettings:
    made = own_mounts(vault_server, approle_mount="approle")
    set_up_vault(made, vault_server.root_token, vault_server.audit_file)
    return made


@pytest.fixture(scope="module")
def tokens(vault_server: VaultServer, settings: VaultSettings) -> dict[str, str]:
    def login(role: str) -> str:
        given = issue_credentials(settings, vault_server.root_token, role)
        body = {"role_id": given.role_id, "secret_id": given.secret_id}
        return str(vault_server.request("POST", "auth/approle/login", body)["auth"]["client_token"])

    return {role: login(role) for role in ROLES}


@pytest.fixture(scope="module")
def http(vault_server: VaultServer) -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(ca_certs=str(vault_server.ca_file)) as pool:
        yield pool


@pytest.fixture
def engines(vault_server: VaultServer, settings: VaultSettings) -> Iterator[dict[str, HashicorpEngine]]:
    made = {
        role: HashicorpEngine(settings, issue_credentials(settings, vault_server.root_token, role)) for role in ROLES
    }
    yield made
    for engine in made.values():
        engine.close()


def prepare(server: VaultServer, settings: VaultSettings, attempt: Try) -> tuple[str, str]:
    """Write what the attempt needs, as root; return its method and path."""
    new = f"n{secrets.token_hex(6)}"
    if "{key}" in attempt.request:
        server.request("POST", f"{settings.transit_mount}/keys/{new}", AES)
    if attempt.gone:
        server.request("DELETE", f"{settings.kv_mount}/metadata/{attempt.gone}")
    if attempt.put:
        path = f"{settings.kv_mount}/data/{attempt.put.format(new=new)}"
        server.request("POST", path, {"options": {"cas": 0}, "data": {"value": "x"}})
    mounts = {"t": settings.transit_mount, "l": settings.log_mount, "k": settings.kv_mount}
    request = attempt.request.format(new=new, key=new, p=settings.prefix, a=f"auth/{settings.approle_mount}", **mounts)
    method, _, path = request.partition(" ")
    return method, path


@pytest.mark.parametrize("attempt", TRIES, ids=lambda attempt: f"{attempt.request} {attempt.body or ''} {attempt.put}")
def test_each_role_may_do_its_own_and_nothing_else(
    vault_server: VaultServer,
    settings: VaultSettings,
    tokens: dict[str, str],
    http: urllib3.PoolManager,
    attempt: Try,
) -> None:
    may = set()
    for role, token in tokens.items():
        method, path = prepare(vault_server, settings, attempt)
        headers = {"X-Vault-Token": token}
        answer = http.request(method, f"{settings.addr}/v1/{path}", json=attempt.body, headers=headers, retries=False)
        if answer.status != 403:
            may.add(role)
    assert may == attempt.may


def test_the_table_has_every_path_of_every_policy(vault_server: VaultServer, settings: VaultSettings) -> None:
    tried = {
        "/".join(
            "+" if part.startswith("{new}") or part == "{key}" else part for part in one.request.split()[1].split("/")
        )
        for one in TRIES
    }
    fixed = {"{k}/data/state/+/+", "{k}/metadata/state/+/+", "{k}/metadata/+/+", "{k}/metadata/state/+"}
    mounts = {settings.transit_mount: "{t}", settings.log_mount: "{l}", settings.kv_mount: "{k}"}
    for role in ROLES:
        text = vault_server.request("GET", f"sys/policies/acl/{settings.prefix}-{role}")["data"]["policy"]
        for line in text.splitlines():
            if line.startswith("path "):
                path = line.split('"')[1]
                mount, _, rest = path.partition("/")
                pattern = f"{mounts.get(mount, mount)}/{rest}"
                assert pattern in tried | fixed | {"auth/token/revoke-self"}, f"{role}: {pattern}"


# --- the roles at work, through the engine --------------------------------------------------------------------------------------


def test_the_issuer_makes_and_uses_keys_and_can_do_no_more(engines: dict[str, HashicorpEngine]) -> None:
    issuer = engines["issuer"]
    name = f"k{secrets.token_hex(6)}"
    assert issuer.create_keys([name]) == [None]
    (text,) = issuer.encrypt([Plaintext(name=name, data=b"data", associated_data=b"scope")])
    item = Ciphertext(name=name, text=str(text), associated_data=b"scope")
    assert issuer.decrypt([item]) == [bytearray(b"data")]
    assert isinstance(issuer.delete_keys([name])[0], PermissionDeniedError)
    for forbidden in (
        lambda: issuer.rotate(name),
        lambda: issuer.set_min_versions(name, decryption=1, encryption=1),
        lambda: issuer.trim(name, min_available=1),
        lambda: issuer.sign(b"message"),
        issuer.list_keys,
    ):
        with pytest.raises(PermissionDeniedError, match="issuer may not"):
            forbidden()
    assert issuer.decrypt([item]) == [bytearray(b"data")]


def test_the_shredder_deletes_what_the_issuer_made(engines: dict[str, HashicorpEngine]) -> None:
    issuer, shredder = engines["issuer"], engines["shredder"]
    name, absent = (f"k{secrets.token_hex(6)}" for _ in range(2))
    issuer.create_keys([name])
    assert shredder.delete_keys([name, absent]) == [None, None]
    assert engines["auditor"].read_keys([name, absent]) == [None, None]
    assert [type(result) for result in issuer.encrypt([Plaintext(name=name, data=b"")])] == [KeyMissingError]
    assert [type(result) for result in issuer.generate_data_keys([name])] == [KeyMissingError]


def test_the_system_key_is_safe_from_the_shredder(
    vault_server: VaultServer, settings: VaultSettings, engines: dict[str, HashicorpEngine]
) -> None:
    with closing(HashicorpEngine(settings, TokenCredentials(token=vault_server.root_token))) as admin:
        (text,) = admin.encrypt([Plaintext(name="system", data=b"index key")])
    item = Ciphertext(name="system", text=str(text))
    for role in ("shredder", "restorer"):
        assert isinstance(engines[role].delete_keys(["system"])[0], PermissionDeniedError)
        with pytest.raises(PermissionDeniedError):
            engines[role].rotate("system")
    for role in sorted(USES):
        assert engines[role].decrypt([item]) == [bytearray(b"index key")]
    assert isinstance(engines["auditor"].decrypt([item])[0], PermissionDeniedError)


def test_a_role_that_may_only_create_meets_check_and_set(engines: dict[str, HashicorpEngine]) -> None:
    ring = f"r{secrets.token_hex(6)}"
    assert engines["issuer"].put_state(f"state/{ring}/0", "x", expected_version=0) == 1
    with pytest.raises(CheckAndSetError):
        engines["issuer"].put_state(f"state/{ring}/0", "y", expected_version=0)
    with pytest.raises(PermissionDeniedError):
        engines["issuer"].put_state(f"state/{ring}/0", "y", expected_version=1)
    with pytest.raises(CheckAndSetError):
        engines["shredder"].put_state(f"pointer/{ring}", "y", expected_version=1)


def test_the_sequencer_signs_and_moves_the_head_only(
    vault_server: VaultServer, settings: VaultSettings, engines: dict[str, HashicorpEngine]
) -> None:
    sequencer = engines["sequencer"]
    assert len(sequencer.sign(b"checkpoint")) == 64
    assert len(sequencer.log_public_key()) == 32
    with closing(HashicorpEngine(settings, TokenCredentials(token=vault_server.root_token))) as admin:
        admin.delete_state("log/head/1")
        admin.put_state("log/head/1", "0", expected_version=0)
    assert sequencer.put_state("log/head/1", "1", expected_version=1) == 2
    with pytest.raises(PermissionDeniedError):
        sequencer.delete_state("log/head/1")


def test_the_auditor_finds_a_wrapped_answer_among_the_accessors(
    vault_server: VaultServer,
    settings: VaultSettings,
    tokens: dict[str, str],
    http: urllib3.PoolManager,
    engines: dict[str, HashicorpEngine],
) -> None:
    name = f"k{secrets.token_hex(6)}"
    engines["issuer"].create_keys([name])
    headers = {"X-Vault-Token": tokens["issuer"], "X-Vault-Wrap-TTL": "60s"}
    url = f"{settings.addr}/v1/{settings.transit_mount}/datakey/plaintext/{name}"
    wrapped = http.request("POST", url, headers=headers).json()["wrap_info"]

    auditor = tokens["auditor"]
    listed = vault_server.request("LIST", "auth/token/accessors", token=auditor)["data"]["keys"]
    assert wrapped["accessor"] in listed
    body = {"accessor": wrapped["accessor"]}
    found = vault_server.request("POST", "auth/token/lookup-accessor", body, token=auditor)["data"]
    assert found["policies"] == ["response-wrapping"]
    assert found["id"] == ""
    with pytest.raises(VaultError):
        vault_server.request("POST", "auth/token/revoke-accessor", body, token=auditor)
