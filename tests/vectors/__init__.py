"""Test vectors, one JSON file a format; `load("wrapped-key")` reads one. Byte strings are hexadecimal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))
