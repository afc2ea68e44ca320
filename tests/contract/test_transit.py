"""What every transit engine must do, whatever is behind it."""

import base64
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keyvault.errors import (
    CheckAndSetError,
    CiphertextRefusedError,
    InvalidInputError,
    KeyMissingError,
    TransitError,
)
from keyvault.transit.base import (
    Ciphertext,
    EngineDataKey,
    KeyInfo,
    Plaintext,
    StateEntry,
    TransitEngine,
    audit_event,
    current_audit_event,
)

BAD_NAMES = ["", ".", "..", "-a", "a-", "a/b", "a/rotate", "a b", "ä", "a\n", "a%2Fb", "x" * 129]
BAD_PATHS = ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a b", "ä/b"]


def fresh(what: str = "k") -> str:
    return f"{what}-{secrets.token_hex(8)}"


def made(engine: TransitEngine, count: int = 1) -> list[str]:
    names = [fresh() for _ in range(count)]
    assert engine.create_keys(names) == [None] * count
    return names


def sealed(engine: TransitEngine, name: str, data: bytes = b"data", associated_data: bytes = b"") -> Ciphertext:
    (text,) = engine.encrypt([Plaintext(name=name, data=data, associated_data=associated_data)])
    assert isinstance(text, str)
    return Ciphertext(name=name, text=text, associated_data=associated_data)


def opened(engine: TransitEngine, item: Ciphertext) -> object:
    (result,) = engine.decrypt([item])
    return result


def info(engine: TransitEngine, name: str) -> KeyInfo:
    (result,) = engine.read_keys([name])
    assert isinstance(result, KeyInfo)
    return result


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_new_key_has_version_one(engine: TransitEngine) -> None:
    (name,) = made(engine)
    key = info(engine, name)
    assert (key.latest_version, key.min_decryption_version, key.min_encryption_version) == (1, 1, 0)
    assert key.min_available_version <= 1


def test_creating_again_leaves_the_key_as_it_is(engine: TransitEngine) -> None:
    (name,) = made(engine)
    item = sealed(engine, name)
    engine.rotate(name)
    assert engine.create_keys([name, name]) == [None, None]
    assert info(engine, name).latest_version == 2
    assert opened(engine, item) == b"data"


def test_lists_all_names_sorted(bare_engine: TransitEngine) -> None:
    assert bare_engine.list_keys() == []
    bare_engine.create_keys(["b", "a.1", "c_2"])
    assert bare_engine.list_keys() == ["a.1", "b", "c_2"]


def test_an_absent_key_is_an_answer_to_reading_and_an_error_to_using(engine: TransitEngine) -> None:
    name = fresh()
    text = sealed(engine, made(engine)[0]).text
    assert engine.read_keys([name]) == [None]
    results = [
        *engine.encrypt([Plaintext(name=name, data=b"data")]),
        *engine.decrypt([Ciphertext(name=name, text=text)]),
        *engine.generate_data_keys([name]),
    ]
    assert [type(result) for result in results] == [KeyMissingError] * 3
    with pytest.raises(KeyMissingError):
        engine.rotate(name)
    with pytest.raises(KeyMissingError):
        engine.set_min_versions(name, decryption=1, encryption=0)
    with pytest.raises(KeyMissingError):
        engine.trim(name, min_available=1)


def test_using_an_absent_key_never_makes_it(engine: TransitEngine) -> None:
    name = fresh()
    engine.encrypt([Plaintext(name=name, data=b"data")])
    engine.generate_data_keys([name])
    assert engine.read_keys([name]) == [None]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_malformed_name_is_refused_by_every_method(engine: TransitEngine, name: str) -> None:
    results: list[object] = [
        *engine.create_keys([name]),
        *engine.encrypt([Plaintext(name=name, data=b"")]),
        *engine.decrypt([Ciphertext(name=name, text="")]),
        *engine.generate_data_keys([name]),
        *engine.read_keys([name]),
        *engine.delete_keys([name]),
    ]
    assert [type(result) for result in results] == [InvalidInputError] * 6
    with pytest.raises(InvalidInputError):
        engine.rotate(name)
    with pytest.raises(InvalidInputError):
        engine.set_min_versions(name, decryption=1, encryption=1)
    with pytest.raises(InvalidInputError):
        engine.trim(name, min_available=1)


def test_batches_keep_their_order_with_an_error_for_each_bad_item(engine: TransitEngine) -> None:
    names = made(engine, 50)
    absent = fresh()
    mixed = [*names[:25], absent, "a/b", *names[25:]]

    keys = engine.generate_data_keys(mixed)
    assert [type(key) for key in keys[25:27]] == [KeyMissingError, InvalidInputError]
    texts = engine.encrypt([Plaintext(name=name, data=name.encode()) for name in mixed])
    assert [type(text) for text in texts[25:27]] == [KeyMissingError, InvalidInputError]
    items = [
        Ciphertext(name=name, text=text if isinstance(text, str) else str(texts[0]))
        for name, text in zip(mixed, texts, strict=True)
    ]
    plain = engine.decrypt(items)
    assert [type(result) for result in plain[25:27]] == [KeyMissingError, InvalidInputError]
    assert plain[:25] + plain[27:] == [bytearray(name.encode()) for name in names]
    found = engine.read_keys(mixed)
    assert found[25] is None
    assert isinstance(found[26], InvalidInputError)
    assert all(isinstance(key, KeyInfo) for key in found[:25] + found[27:])


def test_empty_batches_give_nothing(engine: TransitEngine) -> None:
    batches: list[Callable[[list[str]], object]] = [engine.create_keys, engine.generate_data_keys]
    batches += [engine.read_keys, engine.delete_keys]
    assert [batch([]) for batch in batches] == [[], [], [], []]
    assert engine.encrypt([]) == []
    assert engine.decrypt([]) == []


def test_a_closed_engine_says_so(bare_engine: TransitEngine) -> None:
    bare_engine.close()
    bare_engine.close()
    for use in (lambda: bare_engine.create_keys(["k", "l"]), bare_engine.list_keys, bare_engine.log_public_key):
        with pytest.raises(TransitError, match="closed"):
            use()


# --- encryption -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\x00", b"data", secrets.token_bytes(4096)])
@pytest.mark.parametrize("associated_data", [b"", b"\xff\x00", b"scope"])
def test_decrypting_gives_back_what_was_encrypted(engine: TransitEngine, data: bytes, associated_data: bytes) -> None:
    (name,) = made(engine)
    item = sealed(engine, name, data, associated_data)
    result = opened(engine, item)
    assert isinstance(result, bytearray)
    assert result == data


def test_equal_plaintexts_have_different_ciphertexts(engine: TransitEngine) -> None:
    (name,) = made(engine)
    assert sealed(engine, name).text != sealed(engine, name).text


@pytest.mark.parametrize(
    ("bound", "given"), [(b"one", b"two"), (b"one", b""), (b"", b"one"), (b"one", b"one\x00"), (b"one", b"on")]
)
def test_other_associated_data_is_refused(engine: TransitEngine, bound: bytes, given: bytes) -> None:
    (name,) = made(engine)
    item = sealed(engine, name, b"data", bound)
    other = Ciphertext(name=name, text=item.text, associated_data=given)
    assert isinstance(opened(engine, other), CiphertextRefusedError)


def test_another_keys_ciphertext_is_refused(engine: TransitEngine) -> None:
    one, other = made(engine, 2)
    item = Ciphertext(name=other, text=sealed(engine, one).text)
    assert isinstance(opened(engine, item), CiphertextRefusedError)


def test_every_altered_byte_of_a_ciphertext_is_refused(engine: TransitEngine) -> None:
    (name,) = made(engine)
    prefix, _, body = sealed(engine, name).text.rpartition(":")
    raw = base64.b64decode(body)
    altered = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(len(raw))] + [raw[:-1], raw + b"\x00"]
    items = [Ciphertext(name=name, text=f"{prefix}:{base64.b64encode(wrong).decode()}") for wrong in altered]
    assert [type(result) for result in engine.decrypt(items)] == [CiphertextRefusedError] * len(items)


@pytest.mark.parametrize(
    "text", ["", "x", "vault:v1:", "embedded:v1:", "embedded:v1:AAAA", "vault:v1:AAAA", "v1", "::"]
)
def test_what_is_no_ciphertext_is_refused(engine: TransitEngine, text: str) -> None:
    (name,) = made(engine)
    assert isinstance(opened(engine, Ciphertext(name=name, text=text)), CiphertextRefusedError)


@pytest.mark.parametrize("version", ["v2", "v0", "v01", "vx", "v-1", "v99999999999999999999"])
def test_a_ciphertext_of_a_version_that_is_not_there_is_refused(engine: TransitEngine, version: str) -> None:
    (name,) = made(engine)
    text = sealed(engine, name).text.replace(":v1:", f":{version}:")
    assert isinstance(opened(engine, Ciphertext(name=name, text=text)), CiphertextRefusedError)


def test_data_keys_are_fresh_and_decrypt_to_themselves(engine: TransitEngine) -> None:
    (name,) = made(engine)
    keys = engine.generate_data_keys([name] * 20)
    assert all(isinstance(key, EngineDataKey) for key in keys)
    good = [key for key in keys if isinstance(key, EngineDataKey)]
    assert {len(key.plaintext) for key in good} == {32}
    assert all(isinstance(key.plaintext, bytearray) for key in good)
    assert len({bytes(key.plaintext) for key in good}) == 20
    assert engine.decrypt([Ciphertext(name=name, text=key.text) for key in good]) == [key.plaintext for key in good]


def test_a_data_keys_repr_shows_nothing_of_it(engine: TransitEngine) -> None:
    (key,) = engine.generate_data_keys(made(engine))
    assert isinstance(key, EngineDataKey)
    assert key.text not in repr(key)
    assert repr(bytes(key.plaintext)) not in repr(key)


# --- versions ---------------------------------------------------------------------------------------------------------


def test_rotating_keeps_old_ciphertexts_and_encrypts_under_the_new_version(engine: TransitEngine) -> None:
    (name,) = made(engine)
    old = sealed(engine, name, b"old")
    engine.rotate(name)
    new = sealed(engine, name, b"new")
    assert ":v2:" in new.text
    assert info(engine, name).latest_version == 2
    assert engine.decrypt([old, new]) == [bytearray(b"old"), bytearray(b"new")]


def test_minimum_versions_refuse_old_ciphertexts_and_are_reversible(engine: TransitEngine) -> None:
    (name,) = made(engine)
    old = sealed(engine, name)
    engine.rotate(name)
    engine.set_min_versions(name, decryption=2, encryption=2)
    key = info(engine, name)
    assert (key.min_decryption_version, key.min_encryption_version) == (2, 2)
    assert key.min_available_version < 2, "a reversible setting must not look like a removal"
    assert isinstance(opened(engine, old), CiphertextRefusedError)
    engine.set_min_versions(name, decryption=1, encryption=0)
    assert opened(engine, old) == b"data"


def test_trimming_removes_old_versions_for_ever(engine: TransitEngine) -> None:
    (name,) = made(engine)
    old = sealed(engine, name)
    engine.rotate(name)
    new = sealed(engine, name, b"new")
    engine.set_min_versions(name, decryption=2, encryption=2)
    engine.trim(name, min_available=2)
    assert info(engine, name).min_available_version == 2
    with pytest.raises(InvalidInputError):
        engine.set_min_versions(name, decryption=1, encryption=0)
    assert isinstance(opened(engine, old), CiphertextRefusedError)
    assert opened(engine, new) == b"new"
    engine.trim(name, min_available=2)
    with pytest.raises(InvalidInputError):
        engine.trim(name, min_available=1)


@pytest.mark.parametrize(
    ("decryption", "encryption", "trim"),
    [(1, 0, 2), (1, 2, 2), (2, 0, 2), (2, 2, 3), (1, 1, 2), (3, 3, 4), (2, 2, 0), (2, 2, -1)],
)
def test_trimming_above_a_minimum_version_is_refused(
    engine: TransitEngine, decryption: int, encryption: int, trim: int
) -> None:
    (name,) = made(engine)
    engine.rotate(name)
    engine.rotate(name)
    engine.set_min_versions(name, decryption=decryption, encryption=encryption)
    if trim <= 0:
        engine.trim(name, min_available=1)
    before = info(engine, name)
    with pytest.raises(InvalidInputError):
        engine.trim(name, min_available=trim)
    assert info(engine, name) == before


@pytest.mark.parametrize(("decryption", "encryption"), [(0, 0), (-1, 0), (1, -1), (2, 1), (4, 0), (1, 4), (4, 4)])
def test_impossible_minimum_versions_are_refused(engine: TransitEngine, decryption: int, encryption: int) -> None:
    (name,) = made(engine)
    engine.rotate(name)
    engine.rotate(name)
    before = info(engine, name)
    with pytest.raises(InvalidInputError):
        engine.set_min_versions(name, decryption=decryption, encryption=encryption)
    assert info(engine, name) == before


# --- deletion ---------------------------------------------------------------------------------------------------------


def test_deleting_is_final_and_touches_no_other_key(engine: TransitEngine) -> None:
    doomed, other = made(engine, 2)
    gone, kept = sealed(engine, doomed), sealed(engine, other)
    assert engine.delete_keys([doomed]) == [None]
    assert engine.read_keys([doomed, other])[0] is None
    assert doomed not in engine.list_keys()
    assert isinstance(opened(engine, gone), KeyMissingError)
    assert opened(engine, kept) == b"data"


def test_deleting_twice_or_what_never_was_is_no_error(engine: TransitEngine) -> None:
    (name,) = made(engine)
    assert engine.delete_keys([name, fresh()]) == [None, None]
    assert engine.delete_keys([name]) == [None]
    assert engine.read_keys([name]) == [None]


def test_a_name_created_again_does_not_revive_old_ciphertexts(engine: TransitEngine) -> None:
    (name,) = made(engine)
    engine.rotate(name)
    old = sealed(engine, name)
    engine.delete_keys([name])
    engine.create_keys([name])
    engine.rotate(name)
    assert info(engine, name).latest_version == 2
    assert isinstance(opened(engine, old), CiphertextRefusedError)


def test_deletes_a_rotated_and_trimmed_key(engine: TransitEngine) -> None:
    (name,) = made(engine)
    engine.rotate(name)
    engine.set_min_versions(name, decryption=2, encryption=2)
    engine.trim(name, min_available=2)
    assert engine.delete_keys([name]) == [None]
    assert engine.read_keys([name]) == [None]


# --- the log key --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [b"", b"message", bytes(100_000)])
def test_a_signature_verifies_with_the_public_key(engine: TransitEngine, message: bytes) -> None:
    signature = engine.sign(message)
    public = engine.log_public_key()
    assert (len(signature), len(public)) == (64, 32)
    Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message + b"\x00")


def test_the_log_key_is_made_once(bare_engine: TransitEngine) -> None:
    with pytest.raises(KeyMissingError):
        bare_engine.log_public_key()
    with pytest.raises(KeyMissingError):
        bare_engine.sign(b"message")
    bare_engine.create_log_key()
    public = bare_engine.log_public_key()
    bare_engine.create_log_key()
    assert bare_engine.log_public_key() == public
    assert bare_engine.list_keys() == []


# --- sealed state --------------------------------------------------------------------------------------------------------


def test_state_is_written_by_check_and_set(engine: TransitEngine) -> None:
    path = f"state/{fresh()}/0"
    assert engine.get_state(path) is None
    assert engine.put_state(path, "one", expected_version=0) == 1
    assert engine.put_state(path, "two", expected_version=1) == 2
    assert engine.get_state(path) == StateEntry(value="two", version=2)


@pytest.mark.parametrize("expected", [0, 1, 3, 7])
def test_another_version_than_expected_is_refused(engine: TransitEngine, expected: int) -> None:
    path = f"state/{fresh()}/0"
    engine.put_state(path, "one", expected_version=0)
    engine.put_state(path, "two", expected_version=1)
    with pytest.raises(CheckAndSetError):
        engine.put_state(path, "three", expected_version=expected)
    assert engine.get_state(path) == StateEntry(value="two", version=2)


def test_a_version_of_what_is_not_there_is_refused(engine: TransitEngine) -> None:
    path = f"state/{fresh()}/0"
    with pytest.raises(CheckAndSetError):
        engine.put_state(path, "one", expected_version=1)
    assert engine.get_state(path) is None


def test_versions_begin_again_after_deletion(engine: TransitEngine) -> None:
    path = f"state/{fresh()}/0"
    engine.put_state(path, "one", expected_version=0)
    engine.put_state(path, "two", expected_version=1)
    engine.delete_state(path)
    engine.delete_state(path)
    assert engine.get_state(path) is None
    assert engine.put_state(path, "three", expected_version=0) == 1


@pytest.mark.parametrize("value", ["", "ä€😀", '{"a": "b"}', "line\nline\x00", "x" * 524_288])
def test_state_values_come_back_as_they_were(engine: TransitEngine, value: str) -> None:
    path = f"state/{fresh()}/0"
    engine.put_state(path, value, expected_version=0)
    assert engine.get_state(path) == StateEntry(value=value, version=1)


@pytest.mark.parametrize("value", ["x" * 524_289, "ä" * 262_145, "\ud800"], ids=["bytes", "utf-8", "surrogate"])
def test_a_value_too_large_or_no_text_is_refused(engine: TransitEngine, value: str) -> None:
    path = f"state/{fresh()}/0"
    with pytest.raises(InvalidInputError):
        engine.put_state(path, value, expected_version=0)
    assert engine.get_state(path) is None


def test_lists_what_is_directly_under_a_folder(bare_engine: TransitEngine) -> None:
    assert bare_engine.list_state("") == []
    for path in ["a/b", "a/b/c", "a/b/d", "a/e", "a0/f", "a-b/g"]:
        bare_engine.put_state(path, "x", expected_version=0)
    assert bare_engine.list_state("a") == bare_engine.list_state("a/") == ["b", "b/", "e"]
    assert bare_engine.list_state("a/b") == ["c", "d"]
    assert bare_engine.list_state("") == ["a-b/", "a/", "a0/"]
    assert bare_engine.list_state("z") == []
    bare_engine.delete_state("a/b/c")
    bare_engine.delete_state("a/b/d")
    assert bare_engine.list_state("a") == ["b", "e"]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_malformed_path_is_refused(engine: TransitEngine, path: str) -> None:
    with pytest.raises(InvalidInputError):
        engine.put_state(path, "x", expected_version=0)
    with pytest.raises(InvalidInputError):
        engine.get_state(path)
    with pytest.raises(InvalidInputError):
        engine.delete_state(path)


# --- threads --------------------------------------------------------------------------------------------------------------


def test_overlapping_calls_both_come_to_their_end_in_the_callers_context(engine: TransitEngine) -> None:
    (name,) = made(engine)
    path = f"state/{fresh()}/0"
    with audit_event("an-event"):
        found, version = engine.overlap(
            lambda: (current_audit_event(), engine.read_keys([name])[0]),
            lambda: (current_audit_event(), engine.put_state(path, "value", expected_version=0)),
        )
    assert (found, version) == (("an-event", info(engine, name)), ("an-event", 1))


def test_of_two_failures_the_first_is_told_and_both_have_ended(engine: TransitEngine) -> None:
    ended: list[str] = []

    def failing(what: str) -> None:
        ended.append(what)
        raise KeyMissingError(what)

    with pytest.raises(KeyMissingError, match="one"):
        engine.overlap(lambda: failing("one"), lambda: failing("two"))
    with pytest.raises(KeyMissingError, match="three"):
        engine.overlap(lambda: ended.append("three"), lambda: failing("three"))
    assert ended.count("three") == 2


@pytest.mark.parametrize("engine", ["hashicorp"], indirect=True)
def test_what_overlaps_on_a_server_is_under_way_together(engine: TransitEngine) -> None:
    both = Barrier(2)
    assert sorted(engine.overlap(lambda: both.wait(timeout=60), lambda: both.wait(timeout=60))) == [0, 1]


def test_exactly_one_of_eight_writers_wins(engine: TransitEngine) -> None:
    path = f"state/{fresh()}/0"

    def write(number: int) -> bool:
        try:
            engine.put_state(path, str(number), expected_version=0)
        except CheckAndSetError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(write, range(8)))
    assert sum(won) == 1
    assert engine.get_state(path) == StateEntry(value=str(won.index(True)), version=1)


def test_eight_threads_use_and_delete_keys_of_their_own(engine: TransitEngine) -> None:
    def work(number: int) -> bool:
        names = made(engine, 12)
        items = [sealed(engine, name, f"{number}".encode()) for name in names]
        assert engine.delete_keys(names[:4]) == [None] * 4
        results = engine.decrypt(items)
        return [type(result) for result in results[:4]] == [KeyMissingError] * 4 and results[4:] == [
            bytearray(b"%d" % number)
        ] * 8

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [True] * 8
