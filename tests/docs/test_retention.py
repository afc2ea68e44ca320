"""docs/retention.md leaves nothing of the policy out, and says for each sentence where its proof is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from keyvault.scopes import KIND_RULES, ScopeKind
from shredder.policy import Reason
from tests.docs.documents import ROOT

PAGE = ROOT / "docs" / "retention.md"
TEXT = PAGE.read_text()
POLICY = tomllib.loads((ROOT / "shredder" / "policy.toml").read_text())
RUNBOOKS = ROOT / "docs" / "runbooks"
PROOF = re.compile(r"`tests/[\w/]+\.py::\w+`")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table whose first heading is this, wherever it stands."""
    found: list[list[str]] = []
    for table in re.findall(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, flags=re.MULTILINE):
        found += [line.strip("| ").split(" | ") for line in table.splitlines()]
    return found


SENTENCES = rows("the policy")


@pytest.mark.parametrize("cells", SENTENCES, ids=lambda cells: cells[0][:60])
def test_every_sentence_has_its_behaviour_and_its_proof(cells: list[str]) -> None:
    sentence, behaviour, proof = cells
    assert sentence
    assert behaviour
    assert PROOF.findall(proof) == proof.split(", ")


def test_every_kind_of_scope_has_its_section() -> None:
    for kind in ScopeKind:
        for shape in KIND_RULES[kind].shapes:
            assert f"`{'/'.join([kind, *shape])}`" in TEXT


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_of_a_refusal_is_explained(reason: Reason) -> None:
    assert any(f"`{reason}`" in behaviour for _, behaviour, _ in SENTENCES)


def keys(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict) and name != "classes":
            yield from keys(value, (*path, name))
        else:
            yield ".".join((*path, name))


def test_every_key_of_the_file_is_explained_and_no_other() -> None:
    kinds, reasons = "|".join(ScopeKind), "|".join(Reason)
    written = {
        re.sub(rf"\.({kinds})\.", ".KIND.", re.sub(rf"\.({reasons})\.", ".REASON.", key)) for key in keys(POLICY)
    }
    assert {cells[0].strip("`") for cells in rows("key")} == written


def test_every_runbook_is_listed() -> None:
    index = (RUNBOOKS / "README.md").read_text()
    pages = {page.name for page in RUNBOOKS.glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", index))
