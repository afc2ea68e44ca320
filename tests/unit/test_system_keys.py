from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keyvault.errors import (
    CheckAndSetError,
    CiphertextRefusedError,
    DecryptionFailedError,
    EngineMismatchError,
    KeyMissingError,
)
from keyvault.system_keys import NAMES, SYSTEM_KEY, SystemKeys, create_system_keys, load_system_keys
from keyvault.testing import faulty_engine
from keyvault.transit.base import TransitEngine
from keyvault.transit.embedded import EmbeddedEngine
from tests.homes import embedded_home

KEYS = SystemKeys(index=bytes(32), journal=b"j" * 32, pseudonym=b"p" * 32, log_public=b"l" * 32)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[TransitEngine]:
    opened = EmbeddedEngine(tmp_path / "engine.db", create=True)
    yield opened
    opened.close()


def test_keys_are_made_once_and_read_back(engine: TransitEngine) -> None:
    create_system_keys(engine)
    first = load_system_keys(engine)
    create_system_keys(engine)
    assert load_system_keys(engine) == first
    assert len({first.index, first.journal, first.pseudonym, first.log_public}) == 4
    assert {len(key) for key in (first.index, first.journal, first.pseudonym, first.log_public)} == {32}
    assert engine.list_keys() == [SYSTEM_KEY]


def test_an_interrupted_creation_is_finished_without_changing_what_is_there(engine: TransitEngine) -> None:
    create_system_keys(engine)
    first = load_system_keys(engine)
    engine.delete_state("system/journal")
    create_system_keys(engine)
    second = load_system_keys(engine)
    assert replace(second, journal=first.journal) == first
    assert second.journal != first.journal


def test_of_two_that_make_the_keys_the_first_ones_stand(engine: TransitEngine) -> None:
    interrupted = False

    def rival(step: str) -> None:
        nonlocal interrupted
        if step == "before put_state" and not interrupted:
            interrupted = True
            create_system_keys(engine)

    create_system_keys(faulty_engine(engine, rival))
    assert interrupted
    assert {engine.list_state("system")[i] for i in range(3)} == set(NAMES)
    for name in NAMES:
        entry = engine.get_state(f"system/{name}")
        assert entry is not None
        assert entry.version == 1
        with pytest.raises(CheckAndSetError):
            engine.put_state(f"system/{name}", "another", expected_version=0)


def test_nothing_of_a_key_is_in_its_entry(engine: TransitEngine) -> None:
    create_system_keys(engine)
    keys = load_system_keys(engine)
    for name in NAMES:
        entry = engine.get_state(f"system/{name}")
        assert entry is not None
        assert entry.value.startswith("embedded:v1:")
        assert getattr(keys, name).hex() not in entry.value


def test_an_engine_without_keys_says_what_to_do(engine: TransitEngine) -> None:
    with pytest.raises(KeyMissingError, match=r"^the engine holds no index key: run `keyvault init`, or point to"):
        load_system_keys(engine)


@pytest.mark.parametrize("name", NAMES)
def test_a_tampered_entry_is_refused(engine: TransitEngine, name: str) -> None:
    create_system_keys(engine)
    entry = engine.get_state(f"system/{name}")
    assert entry is not None
    for index in (len("embedded:v1:"), len(entry.value) // 2, len(entry.value) - 4):
        flipped = "A" if entry.value[index] != "A" else "B"
        altered = entry.value[:index] + flipped + entry.value[index + 1 :]
        version = engine.get_state(f"system/{name}")
        assert version is not None
        engine.put_state(f"system/{name}", altered, expected_version=version.version)
        with pytest.raises(CiphertextRefusedError):
            load_system_keys(engine)


def test_entries_cannot_change_places(engine: TransitEngine) -> None:
    create_system_keys(engine)
    index, journal = engine.get_state("system/index"), engine.get_state("system/journal")
    assert index is not None
    assert journal is not None
    engine.put_state("system/index", journal.value, expected_version=1)
    engine.put_state("system/journal", index.value, expected_version=1)
    with pytest.raises(CiphertextRefusedError):
        load_system_keys(engine)


def test_the_keys_that_the_store_was_made_with_verify() -> None:
    KEYS.verify(KEYS.check_values())


@pytest.mark.parametrize(
    ("field", "named"),
    [("index", "index"), ("journal", "journal"), ("pseudonym", "pseudonym"), ("log_public", "log")],
)
def test_every_other_key_is_detected_and_named(field: str, named: str) -> None:
    changed = SystemKeys(
        **{key: getattr(KEYS, key) for key in ("index", "journal", "pseudonym", "log_public")} | {field: b"\1" * 32}
    )
    with pytest.raises(
        EngineMismatchError, match=rf"^the engine's {named} key is not the one this store was made with"
    ):
        changed.verify(KEYS.check_values())


def test_a_store_without_a_check_value_does_not_verify() -> None:
    checks = KEYS.check_values()
    del checks["log"]
    with pytest.raises(EngineMismatchError, match="log key"):
        KEYS.verify(checks)


def test_check_values_tell_nothing_of_the_keys_and_differ_by_name() -> None:
    same = SystemKeys(index=bytes(32), journal=bytes(32), pseudonym=bytes(32), log_public=bytes(32))
    checks = same.check_values()
    assert sorted(checks) == ["index", "journal", "log", "pseudonym"]
    assert len(set(checks.values())) == 4
    assert {len(value) for value in checks.values()} == {32}


def test_pseudonyms_of_other_sorts_differ() -> None:
    assert KEYS.pseudonym_of("account", "a") == KEYS.pseudonym_of("account", "a")
    assert len({KEYS.pseudonym_of(what, "a") for what in ("account", "person", "ticket")}) == 3
    assert KEYS.lookup(b"a") not in {KEYS.pseudonym_of("account", "a"), KEYS.lookup(b"b")}


def test_the_journal_opens_what_it_sealed_and_nothing_else() -> None:
    sealed = KEYS.seal_journal(b"data", b"id")
    assert len(sealed) == 12 + len(b"data") + 16
    assert sealed != KEYS.seal_journal(b"data", b"id")
    assert KEYS.open_journal(sealed, b"id") == b"data"
    others = [(sealed, b"other"), (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"id"), (sealed[1:] + b"\0", b"id")]
    for altered, bound in others:
        with pytest.raises(DecryptionFailedError, match="a journal entry was altered"):
            KEYS.open_journal(altered, bound)


def test_nothing_of_the_keys_shows() -> None:
    assert "jjj" not in repr(KEYS)


def test_a_home_beside_another_homes_engine_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = embedded_home(tmp_path / "a"), embedded_home(tmp_path / "b")
    (tmp_path / "b" / "engine" / "engine.db").replace(tmp_path / "a" / "engine" / "engine.db")
    with (
        pytest.raises(EngineMismatchError, match="index, journal, log, pseudonym key is not the one"),
        first.vault(),
    ):
        pytest.fail("it opened")
    assert second.path.exists()


def test_many_names_are_looked_up_as_each_is_and_what_utf_8_cannot_carry_is_left_out() -> None:
    assert KEYS.lookups(["a", "b/ü", "\udcff"]) == {"a": KEYS.lookup(b"a"), "b/ü": KEYS.lookup("b/ü".encode())}
