"""The garbage collector while batches are at work: off for one at a time, on again whatever happens, and never against the program."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from keyvault.batches import uncollected
from tests.forking import fork


@pytest.fixture(autouse=True)
def _collecting() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_collection_is_off_within_and_on_again_after() -> None:
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_collection_is_on_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), uncollected():
        1 // 0  # noqa: B018 - raises
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()


def test_a_block_within_another_ends_nothing() -> None:
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_block_that_overlaps_another_does_not_prolong_it() -> None:
    first, second = uncollected(), uncollected()
    with ThreadPoolExecutor(1) as other:
        first.__enter__()
        other.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        assert gc.isenabled(), "however many batches overlap, the collector comes to its turn"
        other.submit(second.__exit__, None, None, None).result()
    assert gc.isenabled()


def test_a_program_that_turned_collection_off_finds_it_off() -> None:
    gc.disable()
    with uncollected():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_a_child_forked_meanwhile_collects_and_can_hold_it_off_again() -> None:
    with uncollected():
        child = fork()
        if child == 0:
            right = gc.isenabled()
            with uncollected():
                right = right and not gc.isenabled()
            os._exit(0 if right and gc.isenabled() else 1)
        assert not gc.isenabled()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
