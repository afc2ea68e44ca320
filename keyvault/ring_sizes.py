"""How many scopes a ring takes. A module of its own, because `keyvault --help` reads it and loads nothing that takes long."""

from __future__ import annotations

MAX_CAPACITY = 8192
DEFAULT_CAPACITY = 4096
