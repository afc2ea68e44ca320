"""`keyvault.__all__` is the whole interface, and reading it costs nothing."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import keyvault


def test_every_public_name_resolves_to_what_it_says() -> None:
    for name in keyvault.__all__:
        assert getattr(keyvault, name).__name__ == name


def test_all_is_sorted_and_has_no_name_twice() -> None:
    assert list(keyvault.__all__) == sorted(set(keyvault.__all__))


def test_all_is_exactly_what_the_package_offers() -> None:
    """What type checkers see, what is imported on first use, and what `__all__` lists are the same."""
    module = ast.parse(Path(inspect.getfile(keyvault)).read_text())
    typed = {
        alias.asname: node.module
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
        if alias.asname is not None
    }
    defined = {node.name for node in module.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}
    assert typed == keyvault._HOMES
    assert set(typed) | defined == set(keyvault.__all__)


@pytest.mark.parametrize("name", ["Destroyer", "sqlalchemy", "_hidden", ""])
def test_other_names_are_missing(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"^module 'keyvault' has no attribute '{name}'$"):
        getattr(keyvault, name)


@pytest.mark.parametrize(
    "statement",
    ["import keyvault", "import keyvault.errors", "from keyvault import Scope, KeyState", "import keyvault.settings"],
)
def test_importing_it_loads_neither_a_database_nor_a_vault_driver(statement: str) -> None:
    heavy = ("sqlalchemy", "alembic", "psycopg", "hvac", "requests", "urllib3")
    program = f"{statement}; import sys; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_client_is_made_without_a_database_a_vault_driver_or_a_server() -> None:
    heavy = ("sqlalchemy", "alembic", "psycopg", "hvac", "requests", "urllib3", "starlette", "uvicorn")
    program = (
        "import sys; from keyvault import connect, connect_async; connect('http://localhost', token='t').close(); "
        f"connect_async('http://localhost', token='t'); print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
