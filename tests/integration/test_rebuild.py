"""A lost database is made anew from the log and the engine, and equals the one that was lost, row by row."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keyvault.errors import (
    DestructionPausedError,
    InvalidInputError,
    KeyVaultError,
    ScopeDestroyedError,
    ScopeFencedError,
)
from keyvault.events import b64
from keyvault.store import outbox
from shredder.destroy import Destroyer
from shredder.policy import Requester, RequestKind
from shredder.policy_file import home_policy
from shredder.rebuild.run import rebuild
from shredder.request_events import open_content
from shredder.requests import Requests
from shredder.submission import Submission
from tests import rebuilding as history_of
from tests.homes import TestHome, embedded_home
from tests.rebuilding import ADA, History, after_rebuild, dump, live_through, without_database


@pytest.fixture
def new_store(request: pytest.FixtureRequest, home: TestHome, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that is not there yet, or empty, of the home's kind."""
    if home.store_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'rebuilt' / 'store.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield url
    server.drop_database(url)


def test_the_rebuilt_database_equals_the_lost_one_and_works_on(home: TestHome, new_store: str, tmp_path: Path) -> None:
    history = live_through(home)
    expected = after_rebuild(dump(home.store_url))
    rebuilt = without_database(home, tmp_path / "rebuilt", new_store)
    done = rebuild(rebuilt.path)
    assert done.gaps.counts == {}
    found = dump(new_store)
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert found[name] == rows, name
    _works_on(rebuilt, history)


def _works_on(home: TestHome, history: History) -> None:
    with home.vault() as vault:
        readable = [name for name in history.envelopes if name not in {history_of.CONTACT, history_of.USER}]
        for name in readable:
            assert vault.open(history.envelopes[name]) == name.encode()
        with pytest.raises(ScopeFencedError):
            vault.open(history.envelopes[history_of.CONTACT])
        created = vault.ensure_scopes(["consumer/acct-1/new", history_of.GONE_MONTH, history_of.ANN])
        assert isinstance(created[1], ScopeDestroyedError), "a destroyed month is refused after a rebuild, too"
        assert not isinstance(created[0], KeyVaultError)
        vault.seal(b"new", ["consumer/acct-1/new"])
    with home.opened() as opened:
        destroyer = Destroyer(opened)
        with pytest.raises(DestructionPausedError):
            destroyer.destroy([history_of.ANN], ticket="T", requested_by="tester")
        assert destroyer.unpause()
        assert [outcome.error for outcome in destroyer.finish_pending()] == [None] * 3
        assert [outcome.error for outcome in destroyer.destroy([history_of.ANN], ticket="T", requested_by="t")] == [
            None
        ]
        view = Requests(opened, home_policy(opened)).show(history.requests["records"].row.id)
        assert view.radius.records == 2
        again = Requests(opened, home_policy(opened))
        assert again.submit(_asked("records", history_of.MOVED_MONTH, records=("r-7", "r-8")), ADA).row == view.row
        with pytest.raises(InvalidInputError, match="asked for something else"):
            again.submit(_asked("done", history_of.DAN), ADA)
        opened.log.settle()


def _asked(what: str, scope: str, **rest: Any) -> Submission:
    kind = RequestKind.ANONYMIZE
    return Submission(ticket=f"T-{what}", requester=Requester.CUSTOMER, kind=kind, scopes=(scope,), **rest)


def test_no_name_of_a_destroyed_person_can_be_confirmed_from_the_log(tmp_path: Path) -> None:
    """Whoever has every long-lived key opens what is sealed under them, and finds nothing that a guess could be compared with."""
    home = embedded_home(tmp_path)
    live_through(home)
    with home.opened() as opened:
        keys, name = opened.keys, history_of.DAN.encode()
        told = [json.loads(body) for _, body in opened.database.read(partial(outbox.bodies, limit=10_000))]
        creations = [event for event in told if event["type"] == "scope.created" and event["kind"] == "consumer"]
        places = [
            json.loads(keys.open_journal(unb64(event["placement"]), unb64(event["scope_id"]))) for event in creations
        ]
        assert {place["salt"] for place in places} == {None}
        assert all("lookup" not in place for place in places)
        known = [keys.lookup(name), keys.pseudonym_of("request", history_of.DAN)]
        text = json.dumps([told, places])
        assert not any(guess.hex() in text or b64(guess) in text for guess in known)
        received = {unb64(event["request"]): event["content"] for event in told if event["type"] == "request.received"}
        contents = {request: open_content(keys, request, unb64(text)) for request, text in received.items() if text}
        assert contents, "an account's pseudonym can be confirmed anyway"
        assert known[1] not in contents.values()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
