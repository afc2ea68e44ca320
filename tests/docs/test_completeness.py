"""docs/completeness.md has every code of a finding that the fold can have, and no other."""

from __future__ import annotations

import re

from tests.docs.documents import ROOT

PAGE = ROOT / "docs" / "completeness.md"
MODULES = ("scopes", "due", "causes", "destructions", "inventory", "tokens", "reading", "fold")
CODE = re.compile(r'(?:_findings\.add|Finding)\(\s*"([a-z-]+)"')


def test_every_code_has_its_row() -> None:
    sources = [(ROOT / "shredder" / "audit" / f"{name}.py").read_text() for name in MODULES]
    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), flags=re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == {code for source in sources for code in CODE.findall(source)}
