from __future__ import annotations

import pytest

from keyvault.errors import InvalidInputError, KeyVaultError, UnknownScopeError
from keyvault.results import caught, value_of, values_of

FIRST, SECOND = UnknownScopeError("first"), InvalidInputError("second")


def test_a_value_is_given_back_whatever_it_is() -> None:
    values: tuple[object, ...] = (0, None, b"", [], ValueError("an error that is not ours is a value"))
    for value in values:
        assert value_of(value) is value


def test_an_error_in_a_values_place_is_raised() -> None:
    with pytest.raises(UnknownScopeError) as raised:
        value_of(FIRST)
    assert raised.value is FIRST


def test_all_values_or_the_first_error() -> None:
    assert values_of([]) == []
    assert values_of([1, 2]) == [1, 2]
    with pytest.raises(KeyVaultError) as raised:
        values_of([1, FIRST, SECOND])
    assert raised.value is FIRST


def test_our_errors_are_caught_and_arguments_pass() -> None:
    def divide(top: int, *, by: int) -> int:
        if by == 0:
            raise SECOND
        return top // by

    assert caught(divide, 6, by=3) == 2
    assert caught(divide, 6, by=0) is SECOND


def test_errors_that_are_not_ours_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        caught(lambda: 1 // 0)
