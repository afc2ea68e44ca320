"""Facts by way of the service come to what `keyvault facts import` makes of the same lines."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyvault.home import Home
from keyvault.service.access import Caller
from keyvault.states import KeyState
from keyvault.store import facts as fact_store
from keyvault.store import outbox
from keyvault.store import subjects as subject_store
from keyvault.subjects import SubjectKind
from keyvault.tokens import Role
from shredder.serving.facts import FactDesk
from shredder.serving.wire import Facts
from tests.homes import TestHome, embedded_home, in_ring_custody
from tests.service.conftest import Service, command

NOW = datetime.now(UTC).replace(microsecond=0)
ADA = "consumer/acct-1/ada"
CALLER = Caller(token=bytes(16), role=Role.PLATFORM, owner=bytes(32))


def fact(kind: str, account: Any = "acct-1", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "account": account, "at": (NOW - timedelta(hours=1)).isoformat(), **fields}


MIXED: list[Any] = [
    fact("account.opened"),
    fact("account.not-in-good-standing"),
    {"type": "account.vanished", "at": NOW.isoformat()},
    fact("account.opened", colour="Zyxwvut"),
    fact("account.opened", account=5),
    ["Zyxwvut"],
    fact("business.classified") | {"year": 2020, "class": "tax"},
    fact("account.closed", at="Zyxwvut"),
    fact("account.closed", account="x" * 20_000),
    fact("user.created", account="acct-1", user="u-1"),
]
GOOD = [0, 1, 6]
"""Places of those in `MIXED` that are well-formed under the built-in policy."""


def post(service: Service, facts: list[Any], **options: Any) -> Any:
    answer = service.post("/v1/facts", {"facts": facts, **options}, Role.PLATFORM)
    assert answer.status_code == 200, answer.text
    return answer.json()


def state_of(service: Service, name: str) -> str:
    (scope,) = service.post("/v1/scopes/describe", {"names": [name]}).json()["scopes"]
    state: str = scope["state"]
    return state


def stored(home: Home) -> dict[str, Any]:
    """Return all that is known of the subjects that these tests have, without the instants at which it was reported."""
    ids = [
        home.keys.pseudonym_of(SubjectKind.ACCOUNT, "acct-1"),
        home.keys.pseudonym_of(SubjectKind.BUSINESS, "acct-1/2020"),
    ]
    facts = home.database.read(lambda c: fact_store.of_subjects(c, ids))
    subjects = home.database.read(lambda c: subject_store.by_id(c, ids))
    names = {ids[0]: "account", ids[1]: "business"}
    return {
        "facts": sorted((names[key], row.type, row.detail, row.at) for key, rows in facts.items() for row in rows),
        "subjects": sorted((names[key], row.status, row.suspend_at) for key, row in subjects.items()),
    }


def test_a_batch_and_the_same_lines_by_command_come_to_the_same(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = post(service, MIXED)
    lines = tmp_path / "facts.jsonl"
    lines.write_text("".join(json.dumps(line) + "\n" for line in MIXED))
    (tmp_path / "other").mkdir()
    other = embedded_home(tmp_path / "other")
    imported = command(other, capsys, "facts", "import", str(lines))
    counts = ("new", "known", "subjects_changed", "scopes_suspended", "scopes_resumed")
    assert {name: answer[name] for name in counts} == {name: imported[name] for name in counts}
    assert answer["new"] == len(GOOD)
    told = [{"line": one["index"] + 1, "reason": one["error"]["message"]} for one in answer["malformed"]]
    assert told == imported["lines"]
    assert [one["index"] for one in answer["malformed"]] == [n for n in range(len(MIXED)) if n not in GOOD]
    assert {one["error"]["type"] for one in answer["malformed"]} == {"InvalidInputError"}
    with service.home.opened() as ours, other.opened() as theirs:
        assert stored(ours) == stored(theirs)
        assert len(stored(ours)["facts"]) == len(GOOD)


def test_what_is_malformed_is_never_quoted(service: Service) -> None:
    assert "Zyxwvut" not in json.dumps(post(service, MIXED))


def test_strict_records_nothing_and_names_the_malformed(service: Service) -> None:
    answer = service.post("/v1/facts", {"facts": MIXED, "strict": True}, Role.PLATFORM)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "BatchRefusedError"
    assert [one["index"] for one in answer.json()["items"]] == [n for n in range(len(MIXED)) if n not in GOOD]
    with service.home.opened() as home:
        assert stored(home) == {"facts": [], "subjects": []}
    good = [MIXED[index] for index in GOOD]
    assert post(service, good, strict=True)["new"] == len(good)


def test_facts_suspend_and_resume_scopes(service: Service) -> None:
    service.made(ADA)
    assert post(service, [fact("account.not-in-good-standing")])["scopes_suspended"] == 1
    assert state_of(service, ADA) == KeyState.SUSPENDED
    again = fact("account.reactivated", at=NOW.isoformat())
    assert post(service, [again])["scopes_resumed"] == 1
    assert state_of(service, ADA) == KeyState.ACTIVE


def test_the_same_facts_again_even_at_once_are_known(service: Service) -> None:
    facts = [fact("account.opened", account=f"acct-{number}") for number in range(20)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: post(service, facts), range(4)))
    assert sum(answer["new"] for answer in answers) == len(facts)
    with service.home.opened() as home:
        before = home.database.read(outbox.bodies)
        assert post(service, facts)["known"] == len(facts)
        assert home.database.read(outbox.bodies) == before


def test_facts_wait_as_long_as_the_caller_says(service: Service) -> None:
    assert service.post("/v1/facts", {"facts": [fact("account.closed")], "wait_hours": -1}, Role.PLATFORM).is_error
    post(service, [fact("account.closed")], wait_hours=48)
    with service.home.opened() as home:
        account = home.keys.pseudonym_of(SubjectKind.ACCOUNT, "acct-1")
        row = home.database.read(lambda c: subject_store.by_id(c, [account]))[account]
    assert row.due_at is not None
    assert timedelta(hours=47) < row.due_at - datetime.now(UTC) <= timedelta(hours=48)


@in_ring_custody
def test_the_issuers_rights_are_enough_to_record(home: TestHome) -> None:
    with home.vault() as vault:
        vault.ensure_scopes([ADA])
    with home.opened("issuer") as opened:
        body = Facts(facts=[json.dumps(fact("account.closed")).encode()])  # type: ignore[list-item]
        answer = FactDesk(opened).record(CALLER, body)
    assert (answer.new, answer.scopes_suspended, answer.malformed) == (1, 1, [])
    with home.vault() as vault:
        (info,) = vault.describe([ADA])
    assert not isinstance(info, Exception)
    assert info.state is KeyState.SUSPENDED
