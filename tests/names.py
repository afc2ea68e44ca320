"""Looking for names in anything: as they are, percent-encoded, in hexadecimal, and in base64 at each of its three offsets."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from urllib.parse import quote

HEAD = 5
"""Needles are looked up by their first bytes, of which there are few: names of one sort begin alike."""


class Names:
    """Names to look for; each has 8 bytes or more, so that none is found by chance."""

    def __init__(self, names: Iterable[str]) -> None:
        """Prepare all spellings."""
        self._needles: dict[bytes, dict[bytes, str]] = defaultdict(dict)
        for name in names:
            assert len(name) >= 8, name
            for spelling in spellings(name):
                self._needles[spelling[:HEAD]][spelling] = name

    def found_in(self, content: bytes) -> set[str]:
        """Return the names that are in it; of those whose spelling differs in bits that share a character of base64 with others, one."""
        found = set()
        for head, needles in self._needles.items():
            lengths = {len(needle) for needle in needles}
            place = content.find(head)
            while place >= 0:
                found |= {needles[piece] for length in lengths if (piece := content[place : place + length]) in needles}
                place = content.find(head, place + 1)
        return found


def spellings(name: str) -> Iterator[bytes]:
    """Give the bytes of a name in each spelling."""
    plain = name.encode()
    yield plain
    yield quote(name, safe="").encode()
    yield plain.hex().encode()
    yield plain.hex().upper().encode()
    yield name.encode("utf-16-le")
    for offset in range(3):
        for encode in (b64encode, urlsafe_b64encode):
            encoded = encode(bytes(offset) + plain)
            yield encoded[-(-offset * 8 // 6) : (offset + len(plain)) * 8 // 6]
