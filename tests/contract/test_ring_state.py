"""A ring's stored state over the engines: what is made, replaced and destroyed, in every order that two workers can come to."""

import itertools
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace as altered
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keyvault.custody import ring_sealing as sealing
from keyvault.custody.ring_sealing import LoadedRing, Pointer
from keyvault.custody.ring_state import RingStates
from keyvault.errors import (
    CheckAndSetError,
    CiphertextRefusedError,
    DecryptionFailedError,
    InvalidFormatError,
    InvalidInputError,
    KeyExistsError,
    KeyMissingError,
    KeyVaultError,
    NotProvenError,
    PermissionDeniedError,
    Unavailable,
)
from keyvault.puncture_state import encode_state, parse_state
from keyvault.testing import faulty_engine
from keyvault.transit.base import Ciphertext, TransitEngine
from keyvault.transit.embedded import EmbeddedEngine
from keyvault.transit.hashicorp import HashicorpEngine, VaultSettings
from keyvault.vault_setup import issue_credentials
from tests.rings import (
    CAPACITY,
    DiedError,
    History,
    Shares,
    at_every_step,
    die,
    entries,
    hooked,
    info,
    new_ring,
    replace,
    second_first,
    share,
    shares,
    shred,
    stored_shares,
    without,
)
from tests.servers import VaultServer

# --- create -----------------------------------------------------------------------------------------------------------


def test_a_new_ring_is_whole_and_lies_where_its_page_says(engine: TransitEngine) -> None:
    states, ring_id = RingStates(engine, 7), secrets.token_bytes(16)
    handle = states.create(ring_id, CAPACITY)
    assert (handle.ring_id, handle.capacity, handle.epoch, handle.key_version) == (ring_id, CAPACITY, 0, 1)
    loaded = states.load(ring_id)
    assert (loaded.epoch, loaded.key_version, loaded.previous, loaded.pointer_version) == (0, 1, None, 1)
    assert loaded.entry_path == f"state/{ring_id.hex()}/0"
    assert None not in shares(loaded.state).values()
    assert engine.get_state(f"pointer/{ring_id.hex()}-7") is not None
    assert f"r-{ring_id.hex()}" in engine.list_keys()
    assert str(loaded.state) not in repr(loaded)


def test_creating_again_finds_the_same_ring_and_changes_nothing(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    assert states.create(ring_id, CAPACITY) == states.create(ring_id, CAPACITY)
    shred(states, ring_id, 3)
    assert states.create(ring_id, CAPACITY).epoch == 1
    assert stored_shares(states, ring_id) == without(before, 3)
    with pytest.raises(InvalidInputError, match="8 slots"):
        states.create(ring_id, CAPACITY + 1)


def test_a_ring_in_use_is_not_begun_again_in_another_incarnation(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    shred(states, ring_id, 3)
    with pytest.raises(KeyExistsError):
        RingStates(engine, 2).create(ring_id, CAPACITY)
    assert stored_shares(states, ring_id) == without(before, 3)


@pytest.mark.parametrize("ring_id", [b"", bytes(15), bytes(17)])
def test_a_ring_id_has_sixteen_bytes(engine: TransitEngine, ring_id: bytes) -> None:
    with pytest.raises(InvalidInputError, match="16 bytes"):
        RingStates(engine, 1).create(ring_id, CAPACITY)


def test_two_creators_end_with_the_same_ring_wherever_one_pauses(engine: TransitEngine) -> None:
    def run(at: int) -> list[str]:
        ring_id, other = secrets.token_bytes(16), RingStates(engine, 1)
        seen: list[Shares] = []

        def overtake() -> None:
            other.create(ring_id, CAPACITY)
            seen.append(stored_shares(other, ring_id))

        paused, steps = hooked(engine, at, overtake)
        assert RingStates(paused, 1).create(ring_id, CAPACITY).epoch == 0
        assert seen in ([stored_shares(other, ring_id)], [])
        return steps

    assert "before put_state" in at_every_step(run)


def test_a_creator_that_pauses_while_the_ring_is_used_does_it_no_harm(engine: TransitEngine) -> None:
    def run(at: int) -> list[str]:
        ring_id, other = secrets.token_bytes(16), RingStates(engine, 1)
        seen: list[Shares] = []

        def overtake() -> None:
            other.create(ring_id, CAPACITY)
            seen.append(without(stored_shares(other, ring_id), 3))
            shred(other, ring_id, 3)

        paused, steps = hooked(engine, at, overtake)
        RingStates(paused, 1).create(ring_id, CAPACITY)
        assert seen in ([stored_shares(other, ring_id)], [])
        shred(other, ring_id, 4)
        assert len(entries(engine, ring_id)) == 1
        return steps

    at_every_step(run)


# --- load -------------------------------------------------------------------------------------------------------------


def test_what_is_missing_or_altered_is_told_apart(engine: TransitEngine) -> None:
    states, ring_id, _ = new_ring(engine)
    with pytest.raises(KeyMissingError, match="no pointer"):
        states.load(secrets.token_bytes(16))
    path = f"state/{ring_id.hex()}/0"
    entry = engine.get_state(path)
    assert entry is not None
    mark, text, wrapped = entry.value.split("\n")
    for value, error in (
        (f"{mark}\n{'A' * 8}{text[8:]}\n{wrapped}", DecryptionFailedError),
        (f"{mark}\n{text[:16]}\n{wrapped}", InvalidFormatError),
        (f"other/1\n{text}\n{wrapped}", InvalidFormatError),
        ("", InvalidFormatError),
    ):
        engine.delete_state(path)
        engine.put_state(path, value, expected_version=0)
        with pytest.raises(error):
            states.load(ring_id)
    engine.delete_state(path)
    with pytest.raises(KeyMissingError, match="entry of its state of epoch 0"):
        states.load(ring_id)
    engine.delete_keys([f"r-{ring_id.hex()}"])
    with pytest.raises(KeyMissingError):
        states.load(ring_id)


def test_a_state_opens_for_its_own_ring_and_epoch_only(engine: TransitEngine) -> None:
    states, ring_id, _ = new_ring(engine)
    _, other, _ = new_ring(engine)
    before = shred(states, ring_id, 1)
    path = f"pointer/{ring_id.hex()}-1"
    ref = before.current
    moved = altered(ref, entry="2" + ref.entry[1:])
    foreign = states.load(other).current
    for current, error in ((moved, CiphertextRefusedError), (foreign, CiphertextRefusedError)):
        now = engine.get_state(path)
        assert now is not None
        engine.put_state(path, sealing.encode_pointer(Pointer(current=current)), expected_version=now.version)
        with pytest.raises(error):
            states.load(ring_id)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "keyvault-ring-pointer/1",
        "keyvault-ring-pointer/2\n0\nvault:v1:AAAA",
        "keyvault-ring-pointer/1\n0",
        "keyvault-ring-pointer/1\n0\nvault:v0:AAAA",
        "keyvault-ring-pointer/1\n0\nvault:v1:AA AA",
        "keyvault-ring-pointer/1\n0\nvault:v1:AAAA\n",
        f"keyvault-ring-pointer/1\n1-{'a' * 31}\nvault:v2:AAAA",
        f"keyvault-ring-pointer/1\n01-{'a' * 32}\nvault:v2:AAAA",
        f"keyvault-ring-pointer/1\n1-{'a' * 32}\nvault:v1:AAAA\n0\nvault:v1:AAAA",
        f"keyvault-ring-pointer/1\n0\nvault:v2:AAAA\n1-{'a' * 32}\nvault:v1:AAAA",
    ],
)
def test_a_pointer_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(InvalidFormatError):
        sealing.parse_pointer(value)


def test_the_entry_on_the_formats_page_opens() -> None:
    value = (
        "keyvault-ring-state/1\n"
        "QEFCQ0RFRkdISUpLiQLvgFB1xQpSMlApNq6tb4T3RPGbhV2ntKMgzEUcf1R05dDbn/2CYUkIEuzCzOv8"
        "ALl/Vf1EoxcNuhLPdUUueHnRtBzxuNNIu+HtpJevBw46asqxbfEASp3wirs="
    )
    ring_id, state_key = bytes(range(16)), bytes(range(0x20, 0x40))
    state = parse_state(sealing.unseal(value, state_key, ring_id=ring_id, epoch=1))
    assert (state.capacity, state.punctured) == (3, (1,))
    label = b"keyvault/ring/state-key/1"
    assert (
        sealing.state_key_binding(ring_id, 1)
        == label + bytes(7) + b"\x10" + ring_id + bytes(7) + b"\x08" + bytes(7) + b"\x01"
    )
    for other in ({"ring_id": bytes(16), "epoch": 1}, {"ring_id": ring_id, "epoch": 2}):
        with pytest.raises(DecryptionFailedError):
            sealing.unseal(value, state_key, **other)  # type: ignore[arg-type]


# --- replace ----------------------------------------------------------------------------------------------------------


def test_a_replaced_state_lacks_the_slot_and_nothing_else(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    loaded = states.load(ring_id)
    stored = replace(states, loaded, 3)
    assert (stored.epoch, stored.key_version, stored.pointer_version) == (1, 2, 2)
    assert stored.previous == loaded.current
    assert shares(stored.state) == stored_shares(states, ring_id) == without(before, 3)
    assert entries(engine, ring_id) == [stored.current.entry]
    assert stored.entry_path == f"state/{ring_id.hex()}/{stored.current.entry}"
    key = info(engine, ring_id)
    assert (key.min_available_version, key.min_decryption_version, key.min_encryption_version) == (2, 2, 2)
    with pytest.raises(KeyVaultError, match="wiped"):
        loaded.state.derive(0)


def test_nothing_that_was_ever_stored_gives_a_punctured_slot(engine: TransitEngine) -> None:
    history = History(engine)
    states, ring_id, before = new_ring(engine)
    assert history.derivable(ring_id) == set(before.values())
    for count, slot in enumerate((3, 0, 7, 5), start=1):
        stored = shred(states, ring_id, slot)
        assert stored.epoch == count
        left = {found for found in shares(stored.state).values() if found}
        assert len(left) == CAPACITY - count
        assert history.derivable(ring_id) == left


def test_the_new_version_is_past_the_highest_ever_seen(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    stored = replace(states, states.load(ring_id), 3, highest=5)
    assert stored.key_version == info(engine, ring_id).min_available_version == 6
    assert replace(states, stored, 4, highest=2).key_version == 7
    assert stored_shares(states, ring_id) == without(before, 3, 4)


def test_what_the_database_has_seen_proven_is_not_asked_for_again(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    for proven, calls in ((0, 18), (0, 19), (2, 18), (2, 19)):
        counted, steps = hooked(engine, 0, lambda: None)
        slot = states.load(ring_id).epoch
        shred(RingStates(counted, 1), ring_id, slot, proven=proven)
        assert len(steps) == 2 * calls
        before = without(before, slot)
        assert stored_shares(states, ring_id) == before


def test_a_state_at_hand_is_opened_again_only_when_it_was_replaced(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    loaded = states.load(ring_id)
    assert states.reload(loaded) is loaded
    assert shares(loaded.state) == before
    shred(states, ring_id, 3)
    assert shares(states.reload(loaded).state) == without(before, 3)
    with pytest.raises(KeyVaultError, match="wiped"):
        loaded.state.derive(0)
    stored = states.load(ring_id)
    states.destroy(ring_id)
    with pytest.raises(KeyMissingError):
        states.reload(stored)
    with pytest.raises(KeyVaultError, match="wiped"):
        stored.state.derive(0)


def test_what_is_noted_is_noted_once_the_old_state_is_dead(engine: TransitEngine) -> None:
    history = History(engine)
    states, ring_id, before = new_ring(engine)
    noted: list[int] = []

    def note(stored: LoadedRing) -> None:
        assert info(engine, ring_id).min_available_version == stored.key_version
        assert before[3] not in history.derivable(ring_id)
        noted.append(stored.epoch)

    states.replace(
        states.load(ring_id),
        lambda state, _: state.puncture_slots([3]),
        is_punctured=lambda state: 3 in state.punctured,
        note=note,
    )
    states.resume(ring_id, note=note)
    assert noted == [1, 1]


@pytest.mark.parametrize("method", ["trim", "decrypt"])
def test_nothing_is_noted_without_a_proof(engine: TransitEngine, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    states, ring_id, _ = new_ring(engine)
    loaded = states.load(ring_id)
    noted: list[LoadedRing] = []
    original = engine.decrypt

    def decrypt(items: Sequence[Ciphertext]) -> list[bytearray | KeyVaultError]:
        dead = [bytearray(32) for item in items if item.text == loaded.current.wrapped_key]
        return [*dead] or original(items)

    replacement = decrypt if method == "decrypt" else lambda _name, **_: None
    monkeypatch.setattr(engine, method, replacement)
    with pytest.raises(NotProvenError, match="still"):
        states.replace(
            loaded,
            lambda state, _: state.puncture_slots([3]),
            is_punctured=lambda state: 3 in state.punctured,
            note=noted.append,
        )
    assert noted == []
    assert "0" in entries(engine, ring_id), "the old entry goes last"


def test_a_note_that_fails_fails_the_replacement(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)

    def note(_: LoadedRing) -> None:
        raise Unavailable("the database is down")

    loaded = states.load(ring_id)
    with pytest.raises(Unavailable, match="database"):
        states.replace(
            loaded,
            lambda state, _: state.puncture_slots([3]),
            is_punctured=lambda state: 3 in state.punctured,
            note=note,
        )
    stored = states.resume(ring_id)
    assert shares(stored.state) == without(before, 3)
    assert entries(engine, ring_id) == [stored.current.entry]


def test_a_large_state_fits(engine: TransitEngine) -> None:
    states, ring_id = RingStates(engine, 1), secrets.token_bytes(16)
    states.create(ring_id, 8192)
    stored = shred(states, ring_id, *range(0, 8192, 2))
    assert len(encode_state(stored.state)) > 139_000
    assert share(states.load(ring_id).state, 8191) is not None


def test_a_change_that_does_not_puncture_leaves_everything_as_it_was(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    loaded = states.load(ring_id)
    with pytest.raises(NotProvenError):
        states.replace(loaded, lambda state, _: state, is_punctured=lambda state: 3 in state.punctured)
    assert shares(loaded.state) == stored_shares(states, ring_id) == before
    assert entries(engine, ring_id) == ["0"]
    assert info(engine, ring_id).latest_version == 1


def test_a_change_that_fails_still_finishes_the_replacement_before_it(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    dying = faulty_engine(engine, lambda step: die() if step == "before set_min_versions" else None)
    with pytest.raises(DiedError):
        shred(RingStates(dying, 1), ring_id, 3)
    assert info(engine, ring_id).min_available_version <= 1
    with pytest.raises(NotProvenError):
        states.replace(states.load(ring_id), lambda state, _: state, is_punctured=lambda _: False)
    assert info(engine, ring_id).min_available_version == 2
    assert stored_shares(states, ring_id) == without(before, 3)


def test_nothing_is_trimmed_while_the_stored_state_is_not_punctured(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    answers = iter([True, False])
    with pytest.raises(NotProvenError, match="nothing was trimmed"):
        states.replace(
            states.load(ring_id), lambda state, _: state.puncture_slots([3]), is_punctured=lambda _: next(answers)
        )
    assert info(engine, ring_id).min_available_version <= 1
    assert stored_shares(states, ring_id) == without(before, 3)
    assert shares(shred(states, ring_id, 3).state) == without(before, 3)


def test_without_a_trim_nothing_is_proven(engine: TransitEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    states, ring_id, before = new_ring(engine)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "trim", lambda _name, **_: None)
        with pytest.raises(NotProvenError, match="still available"):
            shred(states, ring_id, 3)
        assert "0" in entries(engine, ring_id), "the old entry goes last"
        with pytest.raises(NotProvenError, match="still available"):
            states.resume(ring_id)
    history = History(engine)
    stored = states.resume(ring_id)
    assert shares(stored.state) == without(before, 3)
    assert entries(engine, ring_id) == [stored.current.entry]
    assert history.stored == []


def test_an_old_state_key_that_still_opens_is_no_proof(engine: TransitEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    states, ring_id, _ = new_ring(engine)
    real = info(engine, ring_id)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "set_min_versions", lambda _name, **_: None)
        patch.setattr(engine, "trim", lambda _name, **_: None)
        patch.setattr(engine, "read_keys", lambda _names: [altered(real, min_available_version=99)])
        with pytest.raises(NotProvenError, match="still opens"):
            shred(states, ring_id, 3)
    assert "0" in entries(engine, ring_id)
    states.resume(ring_id)


def test_a_new_state_that_reads_back_as_another_is_not_pointed_to(
    engine: TransitEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, ring_id, before = new_ring(engine)
    original = sealing.unseal

    def unseal(value: str, state_key: bytearray, *, ring_id: bytes, epoch: int) -> bytearray:
        opened = original(value, state_key, ring_id=ring_id, epoch=epoch)
        opened[-1] ^= epoch  # as if the store had kept something else
        return opened

    with monkeypatch.context() as patch:
        patch.setattr(sealing, "unseal", unseal)
        with pytest.raises(NotProvenError, match="reads back"):
            shred(states, ring_id, 3)
    assert stored_shares(states, ring_id) == before


def test_other_entries_of_the_ring_stay_until_it_is_destroyed(engine: TransitEngine) -> None:
    states, ring_id, _ = new_ring(engine)
    records = f"1-{'a' * 16}"
    future = f"2-{'a' * 32}"
    for name in (records, future):
        engine.put_state(f"state/{ring_id.hex()}/{name}", "sealed", expected_version=0)
    first = shred(states, ring_id, 3)
    assert set(entries(engine, ring_id)) == {records, future, first.current.entry}, "a later epoch may be under way"
    second = shred(states, ring_id, 4)
    assert set(entries(engine, ring_id)) == {records, second.current.entry}
    states.destroy(ring_id)
    assert entries(engine, ring_id) == []


# --- the nasty orders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swapped", [False, True])
def test_a_worker_may_pause_anywhere_while_another_finishes_the_ring(
    engine: TransitEngine, monkeypatch: pytest.MonkeyPatch, *, swapped: bool
) -> None:
    if swapped:
        monkeypatch.setattr(TransitEngine, "overlap", second_first)
    history = History(engine)

    def run(at: int) -> list[str]:
        states, ring_id, before = new_ring(engine)

        def overtake() -> None:
            shred(states, ring_id, 4)
            assert before[4] not in history.derivable(ring_id)

        paused, steps = hooked(engine, at, overtake)
        shred(RingStates(paused, 1), ring_id, 3)
        gone = {before[3]} if len(steps) < at else {before[3], before[4]}
        assert not gone & history.derivable(ring_id)
        left = without(before, *([3] if len(steps) < at else [3, 4]))
        assert stored_shares(states, ring_id) == left
        assert shares(states.resume(ring_id).state) == left
        return steps

    steps = at_every_step(run)
    assert steps.count("before put_state") == 2, "the last run was the undisturbed one"


def test_a_worker_that_dies_anywhere_after_it_was_overtaken_leaves_nothing_alive(engine: TransitEngine) -> None:
    """It never came to its flip, so nobody cleans up after it; what it wrote must not open all the same."""
    history = History(engine)
    steps = 0
    while True:
        states, ring_id, before = new_ring(engine)
        steps += 1
        overtaken = _die_after_being_overtaken(engine, states, ring_id, steps)
        assert before[4] not in history.derivable(ring_id) or not overtaken
        assert stored_shares(states, ring_id)[4] == (None if overtaken else before[4])
        if not overtaken:
            break
    assert steps > 20


def _die_after_being_overtaken(engine: TransitEngine, states: RingStates, ring_id: bytes, at: int) -> bool:
    """Let a worker be overtaken at a step and die after its next write; return whether it came that far."""
    seen: list[str] = []
    overtaken: list[int] = []

    def hook(step: str) -> None:
        seen.append(step)
        if len(seen) == at:
            shred(states, ring_id, 4)
            overtaken.append(at)
        elif overtaken and step == "after put_state":
            raise DiedError

    with suppress(DiedError, CheckAndSetError):
        replace(RingStates(faulty_engine(engine, hook), 1), states.load(ring_id), 3)
    return bool(overtaken)


def test_a_rotation_at_any_moment_loses_nothing(engine: TransitEngine) -> None:
    """Another worker has begun, and died or paused: the key's latest version is not the stored one."""

    def run(at: int) -> list[str]:
        states, ring_id, before = new_ring(engine)
        paused, steps = hooked(engine, at, lambda: engine.rotate(sealing.key_name(ring_id)))
        stored = shred(RingStates(paused, 1), ring_id, 3)
        assert info(engine, ring_id).min_available_version == stored.key_version
        assert stored_shares(states, ring_id) == without(before, 3)
        return steps

    at_every_step(run)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_worker_may_pause_anywhere_while_another_dies_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, swapped: bool
) -> None:
    """Every pair of moments, on the engine that is quick enough for it."""
    if swapped:
        monkeypatch.setattr(TransitEngine, "overlap", second_first)
    with closing(EmbeddedEngine(tmp_path / "engine" / "keys.db", create=True)) as engine:
        history = History(engine)
        before_each_call = range(1, 2 * 20, 2)
        for at, fatal in itertools.product(before_each_call, before_each_call):
            history.stored.clear()
            _pause_and_die(engine, history, at, fatal)


def _pause_and_die(engine: TransitEngine, history: History, at: int, fatal: int) -> None:
    states, ring_id, before = new_ring(engine)
    dying, _ = hooked(engine, fatal, die)

    def overtake() -> None:
        with suppress(DiedError):
            shred(RingStates(dying, 1), ring_id, 4)

    paused, _ = hooked(engine, at, overtake)
    shred(RingStates(paused, 1), ring_id, 3)
    left = stored_shares(states, ring_id)
    assert left in (without(before, 3), without(before, 3, 4))
    assert before[3] not in history.derivable(ring_id)
    assert shares(states.resume(ring_id).state) == left
    assert history.derivable(ring_id) == {found for found in left.values() if found}
    assert shares(shred(states, ring_id, 4).state) == without(before, 3, 4)


def test_two_workers_at_once_both_get_their_way(engine: TransitEngine) -> None:
    history = History(engine)
    states, ring_id, before = new_ring(engine)
    failures: list[BaseException] = []

    def work(slots: tuple[int, ...]) -> None:
        try:
            for slot in slots:
                shred(RingStates(engine, 1), ring_id, slot)
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(slots,)) for slots in ((1, 2, 3), (4, 5, 6))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    left = without(before, 1, 2, 3, 4, 5, 6)
    assert stored_shares(states, ring_id) == left
    assert history.derivable(ring_id) == {found for found in left.values() if found}
    assert len(entries(engine, ring_id)) == 1


class LostFlip:
    """Loses the answer to a pointer's next write; the write itself happens at once, or when `land` is called."""

    def __init__(self, engine: TransitEngine, *, delayed: bool) -> None:
        self._original, self._delayed, self._lost = engine.put_state, delayed, False
        self.land: Callable[[], Any] = lambda: None
        engine.put_state = self._put  # type: ignore[method-assign]

    def _put(self, path: str, value: str, *, expected_version: int) -> int:
        def write() -> int:
            return self._original(path, value, expected_version=expected_version)

        if self._lost or not path.startswith("pointer/"):
            return write()
        self._lost, self.land = True, write
        if not self._delayed:
            write()
        raise Unavailable("the answer was lost")


def test_a_flip_whose_answer_was_lost_counts(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    LostFlip(engine, delayed=False)
    stored = replace(states, states.load(ring_id), 3)
    assert stored.epoch == 1
    assert shares(stored.state) == without(before, 3)
    assert info(engine, ring_id).min_available_version == 2


@pytest.mark.parametrize("again", [False, True])
def test_a_flip_may_land_late_or_never(engine: TransitEngine, *, again: bool) -> None:
    history = History(engine)
    states, ring_id, before = new_ring(engine)
    lost = LostFlip(engine, delayed=True)
    with pytest.raises(Unavailable):
        replace(states, states.load(ring_id), 3)
    assert stored_shares(states, ring_id) == before
    if again:
        shred(states, ring_id, 4)
        with pytest.raises(CheckAndSetError):
            lost.land()
        assert stored_shares(states, ring_id) == without(before, 4)
    else:
        lost.land()
        assert shares(states.resume(ring_id).state) == without(before, 3)
    assert shares(shred(states, ring_id, 3, 4).state) == without(before, 3, 4)
    assert not {before[3], before[4]} & history.derivable(ring_id)


def test_a_reader_gets_the_old_state_or_the_new_one_whole(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    seen: list[Shares] = []
    watched = faulty_engine(engine, lambda _step: seen.append(stored_shares(states, ring_id)))
    replace(RingStates(watched, 1), states.load(ring_id), 3)
    after = without(before, 3)
    change = seen.index(after)
    assert seen[:change] == [before] * change
    assert seen[change:] == [after] * (len(seen) - change)


def test_a_reader_may_pause_anywhere_while_the_state_is_replaced(engine: TransitEngine) -> None:
    def run(at: int) -> list[str]:
        states, ring_id, before = new_ring(engine)
        paused, steps = hooked(engine, at, lambda: shred(states, ring_id, 3))
        assert stored_shares(RingStates(paused, 1), ring_id) in (before, without(before, 3))
        return steps

    at_every_step(run)


def test_a_reader_that_is_always_overtaken_is_told_to_try_again(engine: TransitEngine) -> None:
    states, ring_id, _ = new_ring(engine)

    def hook(step: str) -> None:
        if step == "before decrypt":
            shred(states, ring_id, 3)

    with pytest.raises(Unavailable):
        RingStates(faulty_engine(engine, hook), 1).load(ring_id)


def test_the_minimum_versions_may_move_under_a_worker(engine: TransitEngine) -> None:
    """Another one sets them lower between the two calls, as a worker does that was overtaken just before it trims."""
    states, ring_id, before = new_ring(engine)
    lowered: list[int] = []

    def hook(step: str) -> None:
        if step == "before trim" and not lowered:
            lowered.append(1)
            engine.set_min_versions(sealing.key_name(ring_id), decryption=1, encryption=1)

    stored = shred(RingStates(faulty_engine(engine, hook), 1), ring_id, 3)
    assert info(engine, ring_id).min_available_version == stored.key_version == 2
    assert stored_shares(states, ring_id) == without(before, 3)


# --- restores and incarnations ----------------------------------------------------------------------------------------------


def put_back(engine: TransitEngine, path: str, value: str, version: int) -> None:
    """Bring an entry back with its value and version, as a restored snapshot does."""
    engine.delete_state(path)
    for number in range(version):
        engine.put_state(path, value, expected_version=number)


def pause_before_flip(engine: TransitEngine, action: Callable[[], None]) -> TransitEngine:
    puts: list[str] = []

    def hook(step: str) -> None:
        if step == "before put_state":
            puts.append(step)
            if len(puts) == 2:
                action()

    return faulty_engine(engine, hook)


def test_versions_that_repeat_after_a_restore_do_not_let_a_stale_flip_through(engine: TransitEngine) -> None:
    states, ring_id, before = new_ring(engine)
    first = shred(states, ring_id, 0)
    snapshot = {path: engine.get_state(path) for path in (first.entry_path, f"pointer/{ring_id.hex()}-1")}

    def restore() -> None:
        for path, entry in snapshot.items():
            assert entry is not None
            put_back(engine, path, entry.value, entry.version)
        for name in entries(engine, ring_id):
            if name != first.current.entry:
                engine.delete_state(sealing.entry_path(ring_id, name))
        assert shares(RingStates(engine, 2).adopt(ring_id, 1).state) == without(before, 0)

    with pytest.raises(CheckAndSetError):
        replace(RingStates(pause_before_flip(engine, restore), 1), states.load(ring_id), 3)
    with pytest.raises(KeyMissingError):
        states.load(ring_id)
    now = RingStates(engine, 2)
    assert stored_shares(now, ring_id) == without(before, 0)
    assert shares(shred(now, ring_id, 5).state) == without(before, 0, 5)


def test_a_stale_flip_before_the_new_incarnation_loses_no_ring(engine: TransitEngine) -> None:
    """The versions repeat, so it succeeds, and names an entry that the restore took away; nothing is trimmed."""
    states, ring_id, before = new_ring(engine)
    pointer = engine.get_state(f"pointer/{ring_id.hex()}-1")
    assert pointer is not None

    def restore() -> None:
        put_back(engine, f"pointer/{ring_id.hex()}-1", pointer.value, pointer.version)
        for name in entries(engine, ring_id):
            if name != "0":
                engine.delete_state(sealing.entry_path(ring_id, name))

    with pytest.raises(KeyMissingError, match="epoch 1 is missing"):
        replace(RingStates(pause_before_flip(engine, restore), 1), states.load(ring_id), 3)
    now = RingStates(engine, 2)
    assert shares(now.adopt(ring_id, 1).state) == before
    assert shares(now.adopt(ring_id, 1).state) == before
    assert shares(shred(now, ring_id, 3).state) == without(before, 3)


def test_a_worker_of_the_old_incarnation_may_pause_anywhere_while_the_ring_moves(engine: TransitEngine) -> None:
    def run(at: int) -> list[str]:
        states, ring_id, before = new_ring(engine)
        now = RingStates(engine, 2)
        paused, steps = hooked(engine, at, partial(now.adopt, ring_id, 1))
        try:
            shred(RingStates(paused, 1), ring_id, 3)
        except (CheckAndSetError, KeyMissingError):
            assert stored_shares(now, ring_id) in (before, without(before, 3))
        else:
            assert stored_shares(now if len(steps) >= at else states, ring_id) == without(before, 3)
        return steps

    at_every_step(run)


def test_a_ring_may_be_replaced_anywhere_while_it_moves(engine: TransitEngine) -> None:
    def run(at: int) -> list[str]:
        states, ring_id, before = new_ring(engine)

        def overtake() -> None:
            try:
                shred(states, ring_id, 3)
            except KeyMissingError:
                assert at > 4, "only once the pointer is closed"

        paused, steps = hooked(engine, at, overtake)
        moving = RingStates(paused, 2)
        try:
            moving.adopt(ring_id, 1)
        except CheckAndSetError:
            moving.adopt(ring_id, 1)
        assert stored_shares(RingStates(engine, 2), ring_id) in (before, without(before, 3))
        return steps

    at_every_step(run)


def test_a_file_restored_under_a_paused_worker_loses_no_ring(tmp_path: Path) -> None:
    path, copy = tmp_path / "engine" / "keys.db", tmp_path / "copy.db"
    with closing(EmbeddedEngine(path, create=True)) as engine:
        states, ring_id, before = new_ring(engine)
        shutil.copyfile(path, copy)

        def restore() -> None:
            shutil.copyfile(copy, path)
            RingStates(engine, 2).adopt(ring_id, 1).state.wipe()

        with pytest.raises(CheckAndSetError):
            replace(RingStates(pause_before_flip(engine, restore), 1), states.load(ring_id), 3, highest=4)
        stored = replace(RingStates(engine, 2), RingStates(engine, 2).load(ring_id), 3, highest=5)
        assert stored.key_version == 6
        assert shares(stored.state) == without(before, 3)


# --- destroy ----------------------------------------------------------------------------------------------------------------


def test_a_destroyed_ring_is_gone_with_everything_it_ever_stored(engine: TransitEngine) -> None:
    history = History(engine)
    states, ring_id, _ = new_ring(engine)
    shred(states, ring_id, 3)
    loaded = states.load(ring_id)
    for _ in range(2):
        states.destroy(ring_id)
        assert engine.read_keys([f"r-{ring_id.hex()}"]) == [None]
        assert engine.get_state(f"pointer/{ring_id.hex()}-1") is None
        assert entries(engine, ring_id) == []
        assert history.derivable(ring_id) == set()
    with pytest.raises(KeyMissingError):
        states.load(ring_id)
    with pytest.raises(KeyMissingError):
        replace(states, loaded, 4)
    with pytest.raises(KeyMissingError):
        states.resume(ring_id)


def test_a_worker_may_pause_anywhere_while_its_ring_is_destroyed(engine: TransitEngine) -> None:
    history = History(engine)

    def run(at: int) -> list[str]:
        states, ring_id, _ = new_ring(engine)
        paused, steps = hooked(engine, at, lambda: states.destroy(ring_id))
        try:
            shred(RingStates(paused, 1), ring_id, 3)
        except (KeyMissingError, CheckAndSetError):
            assert len(steps) >= at
        if len(steps) >= at:
            with pytest.raises(KeyMissingError):
                states.load(ring_id)
            assert history.derivable(ring_id) == set()
        return steps

    at_every_step(run)


def test_a_ring_that_moved_is_destroyed_from_either_incarnation(engine: TransitEngine) -> None:
    for incarnation in (1, 2):
        states, ring_id, _ = new_ring(engine)
        old, new = engine.get_state(f"pointer/{ring_id.hex()}-1"), RingStates(engine, 2)
        new.adopt(ring_id, 1).state.wipe()
        assert old is not None
        pointer = sealing.parse_pointer(old.value)
        closed = sealing.encode_pointer(pointer, moved=True)  # as where the move died before its last step
        engine.put_state(f"pointer/{ring_id.hex()}-1", closed, expected_version=0)
        with pytest.raises(KeyMissingError, match="another incarnation"):
            states.load(ring_id)
        RingStates(engine, incarnation).destroy(ring_id)
        assert engine.get_state(f"pointer/{ring_id.hex()}-{incarnation}") is None
        with pytest.raises(KeyMissingError):
            new.load(ring_id)


def test_a_key_that_stays_is_no_proof(engine: TransitEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    states, ring_id, before = new_ring(engine)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "delete_keys", lambda names: [None] * len(names))
        with pytest.raises(NotProvenError, match="still lists"):
            states.destroy(ring_id)
        assert stored_shares(states, ring_id) == before
        patch.setattr(engine, "read_keys", lambda names: [None] * len(names))
        with pytest.raises(NotProvenError, match="still opens"):
            states.destroy(ring_id)
    assert stored_shares(states, ring_id) == before


# --- with the roles' own rights ----------------------------------------------------------------------------------------------


@pytest.fixture
def roles(vault_server: VaultServer, vault_settings: VaultSettings) -> Iterator[dict[str, HashicorpEngine]]:
    made = {
        role: HashicorpEngine(vault_settings, issue_credentials(vault_settings, vault_server.root_token, role))
        for role in ("issuer", "shredder", "restorer")
    }
    yield made
    for engine in made.values():
        engine.close()


def test_the_issuer_makes_rings_and_the_shredder_ends_them(roles: dict[str, HashicorpEngine]) -> None:
    issuer, shredder = RingStates(roles["issuer"], 1), RingStates(roles["shredder"], 1)
    ring_id = secrets.token_bytes(16)
    assert issuer.create(ring_id, CAPACITY) == issuer.create(ring_id, CAPACITY)
    before = stored_shares(issuer, ring_id)
    with pytest.raises(PermissionDeniedError):
        replace(issuer, issuer.load(ring_id), 3)
    with pytest.raises(PermissionDeniedError):
        issuer.destroy(ring_id)
    assert stored_shares(issuer, ring_id) == before
    stale = shredder.load(ring_id)
    shred(shredder, ring_id, 3)
    with pytest.raises(CheckAndSetError):
        replace(shredder, stale, 4)
    assert stored_shares(issuer, ring_id) == shares(shredder.resume(ring_id).state) == without(before, 3)
    shredder.destroy(ring_id)
    shredder.destroy(ring_id)
    with pytest.raises(KeyMissingError):
        issuer.load(ring_id)


def test_the_restorer_moves_rings_and_shreds_them_again(roles: dict[str, HashicorpEngine]) -> None:
    ring_id = secrets.token_bytes(16)
    RingStates(roles["issuer"], 1).create(ring_id, CAPACITY)
    before = stored_shares(RingStates(roles["issuer"], 1), ring_id)
    restorer = RingStates(roles["restorer"], 2)
    assert shares(restorer.adopt(ring_id, 1).state) == before
    assert shares(shred(restorer, ring_id, 3).state) == without(before, 3)
    assert stored_shares(RingStates(roles["issuer"], 2), ring_id) == without(before, 3)


def test_a_replacement_takes_eighteen_calls(engine: TransitEngine) -> None:
    states, ring_id, _ = new_ring(engine)
    counted, steps = hooked(engine, 0, lambda: None)
    shred(RingStates(counted, 1), ring_id, 3)
    assert len(steps) == 2 * 18, "three of them to load it; each costs a round trip"
    assert stored_shares(states, ring_id)[3] is None
