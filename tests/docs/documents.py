"""Reading the documents: their fenced blocks, links and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_NO_ANCHOR = re.compile(r"[^\w\- ]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block: the words after the fence, and what is between the fences."""

    info: tuple[str, ...]
    text: str


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def blocks(document: Path, *info: str) -> list[Block]:
    """Return the blocks whose fence begins with these words, and has no others."""
    found = (
        Block(info=tuple(match["info"].split()), text=match["text"]) for match in _FENCE.finditer(document.read_text())
    )
    return [block for block in found if block.info == info]


def links(document: Path) -> Iterator[tuple[Path, str]]:
    """Yield each link to a file of the project: the file, and the anchor in it (or nothing)."""
    for target in _LINK.findall(_CODE.sub("", _FENCE.sub("", document.read_text()))):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        yield (document.parent / path).resolve() if path else document, anchor


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, spelt as GitHub spells them."""
    headings = _HEADING.findall(_FENCE.sub("", document.read_text()))
    return {_NO_ANCHOR.sub("", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}
