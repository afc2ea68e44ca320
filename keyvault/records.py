"""Communication records under their keys: a JSON-lines file in, a file of sealed records out, and back.

Of each record the identifying fields go into one envelope under its account-month *and* its consumer, the rest into another under
the account-month. Shredding the consumer makes the identifying fields unreadable, shredding the account-month all of it. The
format of the sealed file is in docs/formats/sealed-records.md.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import batched
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from keyvault.errors import (
    AlreadyDueError,
    ConfigurationError,
    InvalidFormatError,
    InvalidInputError,
    InvalidScopeError,
    KeyVaultError,
    NotYetOpenError,
    ScopeError,
)
from keyvault.results import value_of
from keyvault.scopes import Scope, ScopeKind
from keyvault.values import OpenRequest, SealRequest
from keyvault.vault import KeyVault
