"""What the documents point to is there: files, headings, tests, commands."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, ROOT, anchors, links, name_of

_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_PATH = re.compile(r"`((?:keyvault|shredder|cli|scripts|requirements|docs|bench)/[\w./-]*\w|Makefile|\.ci/run)`")
GUARANTEES = tuple(f"G{number}" for number in range(1, 9))


@cache
def functions_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in links(document):
        assert target.exists(), f"{name_of(document)} links to {target}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(document)} links to #{anchor} in {name_of(target)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_tests_exist(document: Path) -> None:
    for file, function in _TEST.findall(document.read_text()):
        path = ROOT / file
        assert path.is_file(), f"{name_of(document)} names {file}"
        if function:
            assert function in functions_in(path), f"{name_of(document)} names {file}::{function}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_files_exist(document: Path) -> None:
    for name in _PATH.findall(document.read_text()):
        assert (ROOT / name).exists(), f"{name_of(document)} names {name}"


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_every_guarantee_names_its_proof_or_says_what_is_missing(guarantee: str) -> None:
    sections = re.split(r"^### ", (ROOT / "SECURITY.md").read_text(), flags=re.MULTILINE)
    (section,) = (section for section in sections if section.startswith(f"{guarantee} "))
    assert _TEST.search(section) or "not delivered yet" in section.lower()


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
