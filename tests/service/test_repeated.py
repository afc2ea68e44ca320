"""A call that is sent again, as after a lost answer, has the effect of having been sent once."""

from __future__ import annotations

from typing import Any

from keyvault.service.calls import Call
from tests.rebuilding import dump
from tests.service.conftest import Service
from tests.service.good import good_calls


def rows(service: Service) -> dict[str, list[dict[str, Any]]]:
    """Return every row; of an event not its place in the log, which it may get later."""
    tables = dump(service.home.store_url)
    for row in tables["outbox"]:
        del row["leaf_index"]
    return tables


def test_a_write_that_is_sent_again_changes_nothing(service: Service) -> None:
    tried = set()
    for good in good_calls(service):
        if good.body is None:
            continue
        first = service.post(good.path, good.body, good.role)  # type: ignore[arg-type]  # those without a role are not posted
        before = rows(service)
        again = service.post(good.path, good.body, good.role)  # type: ignore[arg-type]
        assert first.status_code == again.status_code == 200
        assert rows(service) == before, good.path
        tried.add(good.path)
    assert tried == {one.path for one in service.app.state.served if isinstance(one, Call) and one.method == "POST"}
