"""A lost database is made anew from the log and the engine, and equals the one that was lost, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvault.errors import (
    DestructionPausedError,
    KeyVaultError,
    ScopeDestroyedError,
    ScopeFencedError,
)
from shredder.destroy import Destroyer
from shredder.policy_file import home_policy
from shredder.rebuild.run import rebuild
from shredder.requests import Requests
from tests import rebuilding as history_of
from tests.homes import TestHome
from tests.rebuilding import History, after_rebuild, dump, live_through, without_database


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
        opened.log.settle()
