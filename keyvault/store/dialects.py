"""What SQLAlchemy spells differently for each database, and what PostgreSQL does in one statement of any number of rows.

PostgreSQL takes a whole column as one parameter, an array: a statement's text does not grow with its rows. SQLite has no arrays and
a limit of parameters, so there the same goes in pieces.

Results of many rows are fetched as a whole (`.all()`), on either: one that is iterated asks the driver row by row, which takes several times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

T = TypeVar("T")

Moment = datetime | sa.ColumnElement[datetime]
"""A time, or what the database works it out from."""

CHUNK = 500
"""Rows a statement where each takes parameters of its own: under SQLite's limit of 32,766."""
ARRAY_CHUNK = 20_000
"""Rows a statement where they are arrays: what is in memory and under way at once."""


def conflict_insert(connection: Connection, table: sa.Table) -> Any:
    """Return an insert that has `on_conflict_do_nothing` and `on_conflict_do_update`; only the dialect in use is imported."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert(table)


def month_text(connection: Connection, column: sa.Column[Any]) -> sa.ColumnElement[str]:
    """Return the month (`2026-11`) of an instant, in UTC."""
    if connection.dialect.name == "postgresql":
        utc = sa.func.timezone(sa.literal_column("'UTC'"), column)
        return sa.func.to_char(utc, sa.literal_column("'YYYY-MM'"))
    return sa.func.strftime(sa.literal_column("'%Y-%m'"), column)


def conditions(connection: Connection, column: sa.Column[T], values: Iterable[T]) -> Iterator[sa.ColumnElement[bool]]:
    """Give conditions that each hold for some of the values that the column may have, in order; a statement for each finds all."""
    ordered = sorted(set(values))  # type: ignore[type-var]  # ids, HMACs and texts are comparable
    if connection.dialect.name == "postgresql":
        for chunk in chunks(ordered, ARRAY_CHUNK):
            yield column == sa.any_(sa.bindparam(None, chunk, type_=_array(column.type)))
        return
    for chunk in chunks(ordered):
        yield column.in_(chunk)


def pair_conditions(
    connection: Connection, first: sa.Column[T], second: sa.Column[T], pairs: Iterable[tuple[T, T]]
) -> Iterator[sa.ColumnElement[bool]]:
    """As `conditions`, for the values that two columns have together."""
    ordered = sorted(set(pairs))
    columns = sa.tuple_(first, second)
    if connection.dialect.name == "postgresql":
        for chunk in chunks(ordered, ARRAY_CHUNK):
            arrays = [
                sa.bindparam(None, list(values), type_=_array(column.type))
                for column, values in zip((first, second), zip(*chunk, strict=True), strict=True)
            ]
            wanted = sa.func.unnest(*arrays).table_valued("one", "other").render_derived(name="wanted")
            yield columns.in_(sa.select(wanted.c.one, wanted.c.other))
        return
    for chunk in chunks(ordered):
        yield columns.in_(chunk)


def insert_rows(
    connection: Connection,
    table: sa.Table,
    columns: Mapping[str, Sequence[Any]],
    *,
    conflicts: bool = True,
    returning: sa.Column[T] | None = None,
) -> list[T]:
    """Insert rows, given column by column; with `conflicts`, leave out those that would violate uniqueness.

    Returns `returning` of the rows that went in, if given.
    """
    names = list(columns)
    found: list[T] = []
    size = ARRAY_CHUNK if connection.dialect.name == "postgresql" else CHUNK
    for start in range(0, len(columns[names[0]]), size):
        some = {name: columns[name][start : start + size] for name in names}
        statement = conflict_insert(connection, table)
        if connection.dialect.name == "postgresql":
            statement = statement.from_select(names, _unnested(table, some))
        else:
            rows = [dict(zip(names, row, strict=True)) for row in zip(*some.values(), strict=True)]
            statement = statement.values(rows)
        if conflicts:
            statement = statement.on_conflict_do_nothing()
        if returning is None:
            connection.execute(statement)
        else:
            found += connection.execute(statement.returning(returning)).scalars().all()
    return found


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _unnested(table: sa.Table, columns: Mapping[str, Sequence[Any]]) -> sa.Select[Any]:
    """Select rows from arrays; a column whose rows are all alike is given once."""
    alike = {name for name, values in columns.items() if len(set(values)) == 1}
    varied = [name for name in columns if name not in alike] or [next(iter(columns))]
    arrays = [sa.bindparam(None, columns[name], type_=_array(table.c[name].type)) for name in varied]
    source = sa.func.unnest(*arrays).table_valued(*varied).render_derived(name="new")
    picked = {
        name: source.c[name]
        if name in varied
        else sa.cast(sa.bindparam(None, columns[name][0], type_=table.c[name].type), table.c[name].type)
        for name in columns
    }
    return sa.select(*picked.values())


def _array(of: sa.types.TypeEngine[Any]) -> Any:
    """Return PostgreSQL's array of a column's type."""
    from sqlalchemy.dialects.postgresql import ARRAY

    return ARRAY(_PlainBytes() if type(of) is sa.LargeBinary else of)


class _PlainBytes(sa.types.UserDefinedType[bytes]):
    """`bytea` whose values go to the driver as they are: SQLAlchemy's own wraps each one."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name."""
        return "BYTEA"
