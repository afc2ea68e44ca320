"""A database's URL decides where it says something."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from keyvault.store.database import PATIENCE, Database


@pytest.mark.parametrize(
    ("query", "own"),
    [("", {}), ("?tcp_user_timeout=60000&keepalives_idle=30", {"tcp_user_timeout", "keepalives_idle"})],
)
def test_a_network_that_cuts_off_silently_is_noticed_as_the_url_says_or_soon(
    query: str, own: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    create = sa.create_engine

    def watched(*args: Any, **options: Any) -> sa.Engine:
        asked.update(options["connect_args"])
        return create(*args, **options)

    monkeypatch.setattr(sa, "create_engine", watched)
    Database(f"postgresql+psycopg://somebody@127.0.0.1/nowhere{query}").close()
    assert asked == {name: value for name, value in PATIENCE.items() if name not in own}
