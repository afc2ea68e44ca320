"""One Vault with raw storage access for the tests that leave it unsealed; homes on it have mounts of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import VaultServer, running_vault


@pytest.fixture(scope="session")
def raw_vault() -> Iterator[VaultServer]:
    with running_vault(raw_storage=True) as server:
        yield server
