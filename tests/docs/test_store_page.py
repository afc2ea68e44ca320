"""docs/store.md lists every table with its columns."""

from __future__ import annotations

import re

import pytest

from keyvault.store.tables import metadata
from tests.docs.documents import ROOT

PAGE = (ROOT / "docs" / "store.md").read_text()


@pytest.mark.parametrize("table", sorted(metadata.tables))
def test_every_column_has_its_row(table: str) -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (section,) = (section for section in sections if section.splitlines()[0] == f"`{table}`")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section, flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(metadata.tables[table].columns.keys())


def test_no_table_is_described_that_does_not_exist() -> None:
    assert set(re.findall(r"^## `(\w+)`$", PAGE, flags=re.MULTILINE)) == set(metadata.tables)
