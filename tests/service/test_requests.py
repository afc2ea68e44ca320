"""Requests by way of the service: judged as the command judges them, and of the person who answers for the token."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from cli.requests import described
from keyvault.errors import SamePersonError
from keyvault.persons import system_user
from keyvault.service.access import Caller
from keyvault.service.bodies import JSON
from keyvault.service.wire import encoder
from keyvault.store import outbox
from keyvault.store import requests as request_store
from keyvault.tokens import Role
from shredder.policy_file import home_policy
from shredder.requests import Requests, RequestState
from shredder.serving.requests import RequestDesk, answer_of
from shredder.serving.wire import RequestAnswer, SubmissionItem, Submissions
from tests.homes import TestHome, in_ring_custody
from tests.service.conftest import Service, command
from tests.service.good import ADA, BOB, MONTH

SETTINGS = "customer/acct-1/settings"


def asked(*scopes: str, ticket: str = "T-1", **more: Any) -> dict[str, Any]:
    return {"ticket": ticket, "from": "customer", "kind": "anonymize", "scopes": scopes, **more}


def submit(service: Service, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    answer = service.post("/v1/requests", {"requests": requests}, Role.REQUESTER)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["requests"]
    return found


def listed(service: Service, query: str = "") -> dict[str, Any]:
    answer = service.get(f"/v1/requests{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(found: dict[str, Any]) -> list[str]:
    return [request["id"] for request in found["requests"]]


def test_each_request_is_answered_for_itself(service: Service) -> None:
    service.made(ADA, BOB, MONTH)
    waiting, refused, records, unknown, malformed, strange = submit(
        service,
        asked(ADA, BOB),
        asked(ADA, row=2, **{"from": "consumer"}),
        asked(MONTH, row=3, records=["r-1", "r-2"]),
        asked("consumer/acct-1/nobody", row=4),
        asked(row=5),
        asked(ADA, row=6, kind="Zyxwvut"),
    )
    assert (waiting["state"], waiting["scopes"], waiting["kinds"]) == ("awaiting-approval", 2, {"consumer": 2})
    assert (refused["state"], refused["reason"]) == ("refused", "consumer-direct")
    assert refused["reply"]
    assert (records["state"], records["records"], records["scopes"]) == ("awaiting-approval", 2, 0)
    assert (unknown["state"], unknown["reason"]) == ("refused", "unknown-scope")
    assert malformed["error"]["type"] == strange["error"]["type"] == "InvalidInputError"
    assert strange["error"]["message"].startswith("kind is one of anonymize")
    assert len(listed(service, "?all=true")["requests"]) == 4


def test_what_the_service_shows_is_what_the_command_shows(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.made(ADA, BOB)
    (first, refused) = submit(service, asked(ADA), asked(BOB, row=2, kind="hold"))
    for shown in (first, refused):
        assert service.get(f"/v1/requests/{shown['id']}").json() == shown
        by_command = command(service.home, capsys, "request", "show", shown["id"])
        assert {name: value for name, value in by_command.items() if value is not None} == {
            name: value.replace("Z", "+00:00") if name.endswith(("_at", "_by")) else value
            for name, value in shown.items()
        }
    (again,) = submit(service, asked(ADA))
    assert again == first
    assert (
        command(
            service.home,
            capsys,
            "request",
            "submit",
            *["--ticket", "T-1", "--from", "customer", "--kind", "anonymize", "--scope"],
            ADA,
        )["id"]
        == first["id"]
    )


def test_another_content_under_a_row_is_refused(service: Service) -> None:
    service.made(ADA, BOB)
    (first, other) = submit(service, asked(ADA), asked(BOB))
    assert first["id"] in other["error"]["message"]
    assert len(listed(service)["requests"]) == 1


def test_a_request_that_is_sent_several_times_at_once_is_one(service: Service) -> None:
    service.made(ADA, BOB)
    wanted = [asked(ADA), asked(BOB, row=2)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: submit(service, *wanted), range(4)))
    assert [[one["id"] for one in answer] for answer in answers] == [[one["id"] for one in answers[0]]] * 4
    with service.home.opened() as home:
        rows = home.database.read(lambda c: request_store.in_states(c, map(str, RequestState)))
        assert len(rows) == 2
        before = home.database.read(outbox.bodies)
        submit(service, *wanted)
        assert home.database.read(outbox.bodies) == before


def test_who_answers_for_the_token_made_the_request_and_cannot_approve_it(service: Service) -> None:
    service.made(ADA)
    (request,) = submit(service, asked(ADA))
    with service.home.opened() as home:
        person = system_user(os.getuid())
        two = replace(home, settings=replace(home.settings, approvals=2))
        row = home.database.read(lambda c: request_store.by_id(c, bytes.fromhex(request["id"])))
        assert row is not None
        assert row.submitted_by == home.keys.pseudonym_of("person", person.identity)
        with pytest.raises(SamePersonError):
            Requests(two, home_policy(home)).approve(row.id, person)


def test_requests_are_listed_in_pages(service: Service) -> None:
    names = [f"consumer/acct-1/c-{number}" for number in range(7)]
    service.made(*names)
    made = submit(service, *(asked(name, row=number) for number, name in enumerate(names, 1)))
    submit(service, asked(row=8, kind="hold", scopes=[names[0]]))
    seen: list[str] = []
    query = "?limit=3"
    for expected in (3, 3, 1):
        found = listed(service, query)
        assert len(found["requests"]) == expected
        seen += ids(found)
        query = f"?limit=3&after={seen[-1]}"
        assert ("next" in found) is (expected == 3)
    assert sorted(seen) == sorted(one["id"] for one in made)
    assert len(ids(listed(service, "?all=true"))) == 8
    assert len(ids(listed(service, "?state=refused"))) == 1
    assert ids(listed(service, "?state=done")) == ids(listed(service, "?overdue=true")) == []


REFUSED = [
    ("/v1/requests/" + "0" * 32, 404),
    ("/v1/requests/Zyxwvut", 400),
    ("/v1/requests/" + "0" * 31, 400),
    ("/v1/requests?after=" + "0" * 32, 404),
    ("/v1/requests?after=0", 400),
    ("/v1/requests?limit=0", 400),
    ("/v1/requests?limit=1001", 400),
    ("/v1/requests?state=Zyxwvut", 400),
    ("/v1/requests?state=done&all=true", 400),
    ("/v1/requests?overdue=true&overdue=false", 400),
    ("/v1/requests?Zyxwvut=1", 400),
    ("/v1/requests/" + "0" * 32 + "?id=" + "1" * 32, 400),
]


def test_what_is_not_there_or_makes_no_sense_is_refused(service: Service) -> None:
    for path, status in REFUSED:
        answer = service.get(path)
        assert answer.status_code == status, path
        assert answer.headers["content-type"] == JSON
        assert answer.json()["error"]["message"]
        assert "Zyxwvut" not in answer.text


def test_an_answer_has_all_that_the_command_shows(service: Service) -> None:
    service.made(ADA)
    (request,) = submit(service, asked(ADA))
    with service.home.opened() as home:
        policy = home_policy(home)
        view = Requests(home, policy).show(bytes.fromhex(request["id"]))
        names = set(RequestAnswer.__struct_encode_fields__) - {"error"}
        assert names == set(described(policy, view))
        assert encoder.encode(answer_of(policy, view)) == service.get(f"/v1/requests/{request['id']}").content


@in_ring_custody
def test_the_issuers_rights_are_enough_to_judge_and_to_bring_back(home: TestHome) -> None:
    with home.vault() as vault:
        vault.ensure_scopes([ADA, SETTINGS, MONTH])
        vault.suspend([ADA])
    with home.opened("issuer") as opened:
        caller = Caller(token=bytes(16), role=Role.REQUESTER, owner=bytes(32))
        items = [
            SubmissionItem(ticket="T", requester="customer", kind="undelete", scopes=(ADA,)),
            SubmissionItem(ticket="T", row=2, requester="customer", kind="anonymize", scopes=(SETTINGS,)),
            SubmissionItem(ticket="T", row=3, requester="customer", kind="delete", account="acct-1"),
            SubmissionItem(
                ticket="T", row=4, requester="customer", kind="anonymize", scopes=(MONTH,), records=("r-1",)
            ),
        ]
        answers = RequestDesk(opened).submit(caller, Submissions(requests=items)).requests
        shown = [RequestDesk(opened)._desk()[1].show(bytes.fromhex(str(answer.id))) for answer in answers]
    assert [answer.error for answer in answers] == [None] * 4
    assert [answer.state for answer in answers] == ["done", "refused", "refused", "awaiting-approval"]
    assert [view.row.submitted_by for view in shown] == [bytes(32)] * 4
    with home.vault() as vault:
        (info,) = vault.describe([ADA])
    assert not isinstance(info, Exception)
    assert info.state == "active"
