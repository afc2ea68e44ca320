"""Batch results: each item is its value or its own error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from keyvault.errors import KeyVaultError

T = TypeVar("T")
P = ParamSpec("P")


def value_of(result: T | KeyVaultError) -> T:
    """Return the value, or raise the error that stands in its place."""
    if isinstance(result, KeyVaultError):
        raise result
    return result


def values_of(results: Sequence[T | KeyVaultError]) -> list[T]:
    """Return all values, or raise the first error."""
    return [value_of(result) for result in results]


def caught(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | KeyVaultError:
    """Call, and return the value or the error, so that one item never fails its batch."""
    try:
        return function(*args, **kwargs)
    except KeyVaultError as error:
        return error
