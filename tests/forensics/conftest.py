"""One Vault with raw storage access for the tests of this folder that leave it unsealed; each has a home with mounts of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.forensics.raw_storage import RawStorage
from tests.servers import VaultServer, running_vault


@pytest.fixture(scope="package")
def raw_vault() -> Iterator[VaultServer]:
    with running_vault(raw_storage=True) as server:
        yield server


@pytest.fixture
def raw(raw_vault: VaultServer) -> Iterator[RawStorage]:
    with RawStorage(raw_vault) as raw:
        yield raw
