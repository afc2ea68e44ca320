"""Single records of ring scopes over the engines: what is erased, what stays, and what is left lying around."""

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from keyvault.custody import ring_record_sealing as record_sealing
from keyvault.custody import ring_sealing as sealing
from keyvault.custody.ring_record_entries import ScopeRecords, chunk_names
from keyvault.custody.ring_record_sealing import RecordKind
from keyvault.custody.ring_records import (
    collect_records,
    erase_records,
    read_records,
    read_records_many,
    record_entry_path,
)
from keyvault.custody.ring_sealing import LoadedRing
from keyvault.custody.ring_state import RingStates
from keyvault.errors import (
    CheckAndSetError,
    DecryptionFailedError,
    InvalidFormatError,
    InvalidInputError,
    KeyMissingError,
    KeyVaultError,
    NotProvenError,
    PermissionDeniedError,
)
from keyvault.puncture_records import EntryRef, RecordIndex, encode_frontier, new_records, parse_index
from keyvault.testing import faulty_engine
from keyvault.transit.base import TransitEngine
from keyvault.transit.embedded import EmbeddedEngine
from keyvault.transit.hashicorp import HashicorpEngine, VaultSettings
from keyvault.vault_setup import issue_credentials
from tests.erasing import (
    SLOT,
    are_erased,
    check_records,
    erase,
    new_records_ring,
    record_entries,
    records_seed,
    replace_erasing,
    root_ref,
    small_chunks,
    some_tags,
    stored_share,
)
from tests.rings import DiedError, History, at_every_step, die, entries, hooked, scope_id, shred
from tests.servers import VaultServer

TAGS = some_tags(30)
OTHERS = some_tags(8, seed=2)


@pytest.fixture(params=["one entry", "an index of chunks"])
def _sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "an index of chunks":
        small_chunks(monkeypatch)


either_size = pytest.mark.usefixtures("_sizes")


def index_of(engine: TransitEngine, ring: LoadedRing, slot: int = SLOT) -> RecordIndex:
    scope = ScopeRecords(engine=engine, ring_id=ring.ring_id, scope_id=scope_id(slot))
    root = scope.read_root(root_ref(ring.state, slot))
    assert isinstance(root, RecordIndex)
    return root


def reached(engine: TransitEngine, ring: LoadedRing) -> set[str]:
    refs = [entry.records for entry in ring.state.entries]
    chunks = (chunk_names(engine, ring.ring_id, ref) for ref in refs)
    return {sealing.record_entry(ref) for ref in refs} | set(itertools.chain.from_iterable(chunks))


# --- erase ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 100, 3000])
def test_erased_records_are_gone_and_the_others_as_they_were(engine: TransitEngine, count: int) -> None:
    states, ring_id, seed = new_records_ring(engine)
    tags = some_tags(count, seed=3)
    ring = erase(states, ring_id, tags)
    assert ring.epoch == 1
    check_records(states, ring_id, seed, gone=tags[:20], kept=OTHERS)
    assert are_erased(engine, ring_id, ring.state, SLOT, tags)
    assert record_entries(engine, ring_id) == reached(engine, ring)
    assert (len(reached(engine, ring)) > 20) == (count > 100)
    for name in record_entries(engine, ring_id):
        entry = engine.get_state(sealing.entry_path(ring_id, name))
        assert entry is not None
        assert len(entry.value) < 180_000
    assert ring.state.derive(SLOT).share(scope_id(SLOT)) is not None


def test_fifty_thousand_records_at_once(tmp_path: Path) -> None:
    with closing(EmbeddedEngine(tmp_path / "engine" / "keys.db", create=True)) as engine:
        states, ring_id, seed = new_records_ring(engine)
        tags = some_tags(50_000, seed=4)
        ring = erase(states, ring_id, tags)
        check_records(states, ring_id, seed, gone=tags[:3], kept=OTHERS[:3])
        before = reached(engine, ring)
        assert len(before) > 500
        again = erase(states, ring_id, [*tags[:100], OTHERS[0]])
        assert len(reached(engine, again) - before) <= 3, "one chunk, or its halves, and the index"
        check_records(states, ring_id, seed, gone=[tags[0], OTHERS[0]], kept=OTHERS[1:3])


def test_chunks_without_newly_erased_records_keep_their_entries(
    engine: TransitEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    states, ring_id, seed = new_records_ring(engine)
    ring = erase(states, ring_id, TAGS)
    before = index_of(engine, ring)
    old = before.find(OTHERS[0])
    after = index_of(engine, erase(states, ring_id, OTHERS[:1]))
    kept = {(chunk.first, chunk.ref.name, bytes(chunk.ref.key)) for chunk in after.chunks}
    for chunk in before.chunks:
        assert ((chunk.first, chunk.ref.name, bytes(chunk.ref.key)) in kept) == (chunk is not old)
    assert sealing.record_entry(old.ref) not in entries(engine, ring_id)
    assert {chunk.ref.epoch for chunk in after.chunks} == {1, 2}
    assert root_ref(states.load(ring_id).state).name[0] == RecordKind.INDEX
    check_records(states, ring_id, seed, gone=[*TAGS, OTHERS[0]], kept=OTHERS[1:])


@either_size
def test_erasing_again_writes_nothing(engine: TransitEngine) -> None:
    states, ring_id, _ = new_records_ring(engine)
    ring = erase(states, ring_id, TAGS)
    node = ring.state.derive(SLOT)
    before = entries(engine, ring_id)
    for tags in (TAGS, TAGS[:1], []):
        ref = erase_records(engine, ring_id, scope_id(SLOT), 2, node, tags)
        assert ref == node.records
        assert isinstance(node.records, EntryRef)
        assert ref.key is not node.records.key
    assert entries(engine, ring_id) == before


def test_what_cannot_be_erased_is_refused(engine: TransitEngine) -> None:
    states, ring_id, _ = new_records_ring(engine)
    node = states.load(ring_id).state.derive(SLOT)
    for tags in ([], [bytes(7)], [b"\xff" * 8]):
        with pytest.raises(InvalidInputError):
            erase_records(engine, ring_id, scope_id(SLOT), 1, node, tags)
    with pytest.raises(InvalidInputError, match="16 bytes"):
        erase_records(engine, ring_id, b"short", 1, node, TAGS)
    node.wipe()
    with pytest.raises(KeyVaultError, match="wiped"):
        erase_records(engine, ring_id, scope_id(SLOT), 1, node, TAGS)
    assert record_entries(engine, ring_id) == set()


@either_size
def test_nothing_that_was_ever_stored_gives_an_erased_record(engine: TransitEngine) -> None:
    history = History(engine)
    states, ring_id, _ = new_records_ring(engine)
    left = set(TAGS) | set(OTHERS)
    assert history.derivable_records(ring_id, SLOT, left) == left
    for gone in (TAGS[:1], TAGS[1:12], OTHERS[:1], TAGS[12:]):
        ring = erase(states, ring_id, gone)
        left -= set(gone)
        assert history.derivable_records(ring_id, SLOT, [*TAGS, *OTHERS]) == left
        assert record_entries(engine, ring_id) == reached(engine, ring)
    shred(states, ring_id, SLOT)
    assert history.derivable_records(ring_id, SLOT, [*TAGS, *OTHERS]) == set()
    assert record_entries(engine, ring_id) == set()


def test_scopes_of_one_ring_do_not_touch_each_other(engine: TransitEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    states, ring_id, seed = new_records_ring(engine)
    other_seed = records_seed(states, ring_id, 5)
    erase(states, ring_id, TAGS)
    ring = erase(states, ring_id, OTHERS, slot=5)
    check_records(states, ring_id, seed, gone=TAGS, kept=OTHERS)
    check_records(states, ring_id, other_seed, gone=OTHERS, kept=TAGS[:8], slot=5)
    assert record_entries(engine, ring_id) == reached(engine, ring)
    ring = shred(states, ring_id, SLOT)
    check_records(states, ring_id, other_seed, gone=OTHERS, kept=TAGS[:8], slot=5)
    assert record_entries(engine, ring_id) == reached(engine, ring)
    states.destroy(ring_id)
    assert entries(engine, ring_id) == []


# --- read -------------------------------------------------------------------------------------------------------------


@either_size
def test_many_tags_are_read_with_each_entry_once(engine: TransitEngine) -> None:
    states, ring_id, _ = new_records_ring(engine)
    ring = erase(states, ring_id, TAGS)
    counted, steps = hooked(engine, 0, lambda: None)
    wanted = [*TAGS, *OTHERS, *TAGS]
    parts = []
    found = []
    for part, tags in read_records_many(counted, ring_id, scope_id(SLOT), root_ref(ring.state), wanted):
        assert all(part.first <= int.from_bytes(tag, "big") < part.end for tag in tags)
        assert all((int.from_bytes(tag, "big") in part.punctured) == (tag in TAGS) for tag in tags)
        part.check_usable()
        parts.append(part)
        found += tags
    assert sorted(found) == sorted({*TAGS, *OTHERS})
    assert steps.count("before get_state") == len(parts) + (len(parts) > 1)
    assert all(not any(part.seeds) for part in parts), "wiped"


@either_size
def test_a_reader_in_the_middle_of_a_change_reads_the_state_again(engine: TransitEngine) -> None:
    states, ring_id, seed = new_records_ring(engine)
    erase(states, ring_id, TAGS)
    stale = states.load(ring_id)
    erase(states, ring_id, OTHERS[:1])
    for tag in (*TAGS[:2], *OTHERS[:2]):
        with pytest.raises(KeyMissingError, match="load it again"):
            read_records(engine, ring_id, scope_id(SLOT), root_ref(stale.state), tag)
    check_records(states, ring_id, seed, gone=[*TAGS, OTHERS[0]], kept=OTHERS[1:])


@either_size
def test_a_reader_may_pause_anywhere_while_records_are_erased(engine: TransitEngine) -> None:
    def run(at: int) -> list[str]:
        states, ring_id, seed = new_records_ring(engine)
        erase(states, ring_id, TAGS)
        paused, steps = hooked(engine, at, lambda: erase(states, ring_id, OTHERS[:1]))
        reader = RingStates(paused, 1)
        with suppress(KeyMissingError):
            check_records(reader, ring_id, seed, gone=TAGS[:1], kept=OTHERS[1:2])
        check_records(states, ring_id, seed, gone=TAGS, kept=OTHERS[1:])
        return steps

    at_every_step(run)


# --- the nasty orders -------------------------------------------------------------------------------------------------


@either_size
def test_a_worker_that_dies_anywhere_loses_nothing_and_leaves_nothing_reachable(engine: TransitEngine) -> None:
    def run(at: int) -> list[str]:
        history = History(engine)
        states, ring_id, seed = new_records_ring(engine)
        erase(states, ring_id, TAGS)
        dying, steps = hooked(engine, at, die)
        with suppress(DiedError):
            erase(RingStates(dying, 1), ring_id, OTHERS[:1])
        kept = stored_share(engine, ring_id, states.load(ring_id).state, OTHERS[0]) is not None
        check_records(states, ring_id, seed, gone=TAGS, kept=OTHERS[1:])
        states.resume(ring_id)
        derivable = history.derivable_records(ring_id, SLOT, [*TAGS, *OTHERS])
        assert derivable == set(OTHERS if kept else OTHERS[1:])
        ring = erase(states, ring_id, OTHERS[:1])
        check_records(states, ring_id, seed, gone=[*TAGS, OTHERS[0]], kept=OTHERS[1:])
        assert record_entries(engine, ring_id) == reached(engine, ring), "what the dead one left was collected"
        return steps

    steps = at_every_step(run, stride=2)
    assert steps.count("before put_state") >= 3


@either_size
@pytest.mark.parametrize("theirs", [OTHERS[:1], OTHERS[1:2]], ids=["the same record", "another record"])
def test_a_worker_may_pause_anywhere_while_another_erases(engine: TransitEngine, theirs: list[bytes]) -> None:
    def run(at: int) -> list[str]:
        history = History(engine)
        states, ring_id, seed = new_records_ring(engine)
        erase(states, ring_id, TAGS)

        def overtake() -> None:
            erase(states, ring_id, theirs)
            assert not set(theirs) & history.derivable_records(ring_id, SLOT, theirs)

        paused, steps = hooked(engine, at, overtake)
        ring = erase(RingStates(paused, 1), ring_id, OTHERS[:1])
        gone = {OTHERS[0], *(theirs if len(steps) >= at else [])}
        left = set(OTHERS) - gone
        assert history.derivable_records(ring_id, SLOT, [*TAGS, *OTHERS]) == left
        check_records(states, ring_id, seed, gone=[*TAGS, *gone], kept=left)
        ring = shred(states, ring_id, 7)
        assert record_entries(engine, ring_id) == reached(engine, ring)
        check_records(states, ring_id, seed, gone=[*TAGS, *gone], kept=left)
        return steps

    at_every_step(run, stride=2)


def test_a_worker_may_pause_anywhere_while_the_scope_or_ring_is_destroyed(engine: TransitEngine) -> None:
    def run(at: int, action: Callable[[RingStates, bytes], object]) -> list[str]:
        history = History(engine)
        states, ring_id, _ = new_records_ring(engine)
        erase(states, ring_id, TAGS)
        paused, steps = hooked(engine, at, lambda: action(states, ring_id))
        try:
            replace_erasing(RingStates(paused, 1), states.load(ring_id), SLOT, OTHERS[:1])
        except (KeyMissingError, CheckAndSetError):
            assert len(steps) >= at
        if len(steps) >= at:
            assert history.derivable_records(ring_id, SLOT, [*TAGS, *OTHERS]) == set()
        return steps

    at_every_step(lambda at: run(at, lambda states, ring_id: shred(states, ring_id, SLOT)), stride=2)
    at_every_step(lambda at: run(at, lambda states, ring_id: states.destroy(ring_id)), stride=2)


def test_two_workers_at_once_both_get_their_way(engine: TransitEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    history = History(engine)
    states, ring_id, seed = new_records_ring(engine)
    failures: list[BaseException] = []

    def work(share: list[bytes]) -> None:
        try:
            for first in range(0, len(share), 5):
                erase(RingStates(engine, 1), ring_id, share[first : first + 5])
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(share,)) for share in (TAGS[:15], TAGS[15:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    check_records(states, ring_id, seed, gone=TAGS, kept=OTHERS)
    assert history.derivable_records(ring_id, SLOT, [*TAGS, *OTHERS]) == set(OTHERS)
    assert record_entries(engine, ring_id) == reached(engine, states.resume(ring_id))


@pytest.mark.parametrize("lost", [RecordKind.FRONTIER, RecordKind.INDEX, RecordKind.CHUNK])
def test_a_restore_that_takes_new_records_away_loses_none(
    engine: TransitEngine, monkeypatch: pytest.MonkeyPatch, lost: RecordKind
) -> None:
    """A worker of before goes on, and its stale flip succeeds: versions repeat. Its state names records that are not there."""
    if lost is not RecordKind.FRONTIER:
        small_chunks(monkeypatch)
    states, ring_id, seed = new_records_ring(engine)
    erase(states, ring_id, TAGS)
    before = record_entries(engine, ring_id)

    def hook(step: str) -> None:
        if step == "before rotate":
            for name in record_entries(engine, ring_id) - before:
                if sealing.parse_record_entry(name)[1][0] == lost:
                    engine.delete_state(sealing.entry_path(ring_id, name))

    loaded = states.load(ring_id)
    with pytest.raises(KeyMissingError, match="missing"):
        replace_erasing(RingStates(faulty_engine(engine, hook), 1), loaded, SLOT, OTHERS[:1])
    with pytest.raises(KeyMissingError, match="missing"):
        states.resume(ring_id)
    now = RingStates(engine, 2)
    assert now.adopt(ring_id, 1).epoch == 1
    check_records(now, ring_id, seed, gone=TAGS, kept=OTHERS)
    erase(now, ring_id, OTHERS[:1])
    check_records(now, ring_id, seed, gone=[*TAGS, OTHERS[0]], kept=OTHERS[1:])


def test_a_ring_whose_records_are_lost_can_still_be_moved(engine: TransitEngine) -> None:
    states, ring_id, _ = new_records_ring(engine)
    ring = erase(states, ring_id, TAGS)
    engine.delete_state(record_entry_path(ring_id, root_ref(ring.state)))
    assert RingStates(engine, 2).adopt(ring_id, 1).epoch == 1


def test_a_chunk_that_was_lost_long_ago_keeps_nobody_from_erasing(
    engine: TransitEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    states, ring_id, seed = new_records_ring(engine)
    index = index_of(engine, erase(states, ring_id, TAGS))
    lost = index.find(OTHERS[0])
    engine.delete_state(record_entry_path(ring_id, lost.ref))
    other = next(tag for tag in OTHERS if index.find(tag) is not lost)
    erase(states, ring_id, [other])
    check_records(states, ring_id, seed, gone=[other], kept=[])
    with pytest.raises(KeyMissingError):
        check_records(states, ring_id, seed, gone=[], kept=OTHERS[:1])


# --- collecting -------------------------------------------------------------------------------------------------------


def write_orphan(engine: TransitEngine, ring_id: bytes, epoch: int, kind: RecordKind = RecordKind.FRONTIER) -> str:
    scope = ScopeRecords(engine=engine, ring_id=ring_id, scope_id=scope_id(SLOT))
    return sealing.record_entry(scope.write(kind, epoch, encode_frontier(new_records(bytes(range(32))))))


def test_orphans_are_collected_by_the_next_replacement_and_later_ones_left(
    engine: TransitEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    states, ring_id, seed = new_records_ring(engine)
    orphans = {epoch: {write_orphan(engine, ring_id, epoch, kind) for kind in RecordKind} for epoch in (1, 2, 3)}
    ring = erase(states, ring_id, TAGS)
    assert record_entries(engine, ring_id) == reached(engine, ring) | orphans[2] | orphans[3]
    ring = shred(states, ring_id, 7)
    assert record_entries(engine, ring_id) == reached(engine, ring) | orphans[3]
    ring = states.resume(ring_id)
    assert record_entries(engine, ring_id) == reached(engine, ring) | orphans[3]
    collect_records(engine, ring_id, ring.state, 3)
    assert record_entries(engine, ring_id) == reached(engine, ring)
    check_records(states, ring_id, seed, gone=TAGS, kept=OTHERS)


def test_a_slow_collector_takes_nothing_of_later_states(engine: TransitEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    states, ring_id, seed = new_records_ring(engine)
    loaded = [states.load(ring_id)]
    for gone in (TAGS, OTHERS[:1], OTHERS[1:2]):
        erase(states, ring_id, gone)
        loaded.append(states.load(ring_id))
    now = record_entries(engine, ring_id)
    for ring in loaded:
        collect_records(engine, ring_id, ring.state, ring.epoch)
        assert record_entries(engine, ring_id) == now
    check_records(states, ring_id, seed, gone=[*TAGS, *OTHERS[:2]], kept=OTHERS[2:])


def test_frontiers_are_not_read_to_collect(engine: TransitEngine) -> None:
    states, ring_id, _ = new_records_ring(engine)
    for slot in (3, 4, 5):
        erase(states, ring_id, TAGS[:2], slot=slot)
    ring = states.load(ring_id)
    counted, steps = hooked(engine, 0, lambda: None)
    orphan = write_orphan(engine, ring_id, 1)
    collect_records(counted, ring_id, ring.state, ring.epoch)
    assert orphan not in record_entries(engine, ring_id)
    assert [step for step in steps if step.startswith("before")] == ["before list_state", "before delete_state"]


@pytest.mark.parametrize("damage", ["gone", "altered", "other text"])
def test_where_an_index_cannot_be_read_no_chunk_is_deleted(
    engine: TransitEngine, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    small_chunks(monkeypatch)
    states, ring_id, _ = new_records_ring(engine)
    ring = erase(states, ring_id, TAGS)
    before = reached(engine, ring)
    path = record_entry_path(ring_id, root_ref(ring.state))
    entry = engine.get_state(path)
    assert entry is not None
    engine.delete_state(path)
    values = {"altered": swap_case(entry.value), "other text": "other"}
    if damage in values:
        engine.put_state(path, values[damage], expected_version=0)
    shred(states, ring_id, 7)
    assert record_entries(engine, ring_id) >= before - {path.rpartition("/")[2]}


# --- tampering --------------------------------------------------------------------------------------------------------


def swap_case(value: str) -> str:
    """Alter a sealed text's last line."""
    head, _, text = value.rpartition("\n")
    return f"{head}\n{text[:20].swapcase()}{text[20:]}"


def overwrite(engine: TransitEngine, path: str, value: str) -> None:
    engine.delete_state(path)
    engine.put_state(path, value, expected_version=0)


def test_entries_swapped_between_rings_scopes_and_parts_are_refused(
    engine: TransitEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    places: dict[str, tuple[bytes, LoadedRing, int]] = {}
    for _ in range(2):
        states, ring_id, _ = new_records_ring(engine)
        for slot in (SLOT, 5):
            erase(states, ring_id, TAGS[:12], slot=slot)
        ring = states.load(ring_id)
        for slot in (SLOT, 5):
            index = index_of(engine, ring, slot)
            for ref in (root_ref(ring.state, slot), *(chunk.ref for chunk in index.chunks)):
                places[record_entry_path(ring_id, ref)] = ring_id, ring, slot
    values = {path: stored_text(engine, path) for path in places}
    for path, (ring_id, ring, slot) in places.items():
        for value in [*(other for key, other in values.items() if key != path), swap_case(values[path])]:
            overwrite(engine, path, value)
            with pytest.raises(DecryptionFailedError):
                read_all(engine, ring_id, ring, slot)
        for value in ("", "other/1\n" + values[path].partition("\n")[2], values[path] + "\n", values[path][:90]):
            overwrite(engine, path, value)
            with pytest.raises((InvalidFormatError, DecryptionFailedError)):
                read_all(engine, ring_id, ring, slot)
        overwrite(engine, path, values[path])
        read_all(engine, ring_id, ring, slot)


def stored_text(engine: TransitEngine, path: str) -> str:
    entry = engine.get_state(path)
    assert entry is not None
    return entry.value


def read_all(engine: TransitEngine, ring_id: bytes, ring: LoadedRing, slot: int) -> None:
    everywhere = [(number << 55).to_bytes(8, "big") for number in range(256)]
    for _ in read_records_many(engine, ring_id, scope_id(slot), root_ref(ring.state, slot), everywhere):
        pass


def test_the_binding_names_ring_scope_epoch_and_entry() -> None:
    """Even where the key is right."""
    ring_id, scope = bytes(range(16)), b"a scope's own id"
    ref = record_sealing.new_ref(RecordKind.CHUNK, 7)
    value = record_sealing.seal(b"records", ref, ring_id=ring_id, scope_id=scope)
    assert record_sealing.unseal(value, ref, ring_id=ring_id, scope_id=scope) == b"records"
    assert record_sealing.claimed_scope_id(value) == scope
    others = (
        (EntryRef(epoch=8, name=ref.name, key=ref.key), ring_id, scope),
        (EntryRef(epoch=7, name=bytes(8), key=ref.key), ring_id, scope),
        (EntryRef(epoch=7, name=ref.name, key=bytearray(32)), ring_id, scope),
        (ref, bytes(16), scope),
        (ref, ring_id, bytes(16)),
    )
    for other, other_ring, other_scope in others:
        with pytest.raises(DecryptionFailedError):
            record_sealing.unseal(value, other, ring_id=other_ring, scope_id=other_scope)


@pytest.mark.parametrize("kind", [RecordKind.INDEX, RecordKind.CHUNK])
def test_an_entry_that_is_not_what_its_name_says_is_refused(engine: TransitEngine, kind: RecordKind) -> None:
    states, ring_id, _ = new_records_ring(engine)
    scope = ScopeRecords(engine=engine, ring_id=ring_id, scope_id=scope_id(SLOT))
    ref = scope.write(kind, 1, encode_frontier(new_records(bytes(range(32)))))
    with pytest.raises(InvalidFormatError, match="not of the kind"):
        read_records(engine, ring_id, scope_id(SLOT), ref, TAGS[0])
    assert states.load(ring_id).epoch == 0


def test_new_records_that_read_back_as_others_are_not_referred_to(
    engine: TransitEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, ring_id, seed = new_records_ring(engine)
    original = record_sealing.unseal

    def unseal(value: str, ref: EntryRef, *, ring_id: bytes, scope_id: bytes) -> bytearray:
        opened = original(value, ref, ring_id=ring_id, scope_id=scope_id)
        opened[-1] ^= 1  # as if the store had kept something else
        return opened

    with monkeypatch.context() as patch:
        patch.setattr(record_sealing, "unseal", unseal)
        with pytest.raises(NotProvenError, match="read back"):
            erase(states, ring_id, TAGS)
    check_records(states, ring_id, seed, gone=[], kept=TAGS)


# --- names and bytes --------------------------------------------------------------------------------------------------


def test_a_record_entry_lies_where_its_page_says(engine: TransitEngine) -> None:
    states, ring_id, _ = new_records_ring(engine)
    ref = root_ref(erase(states, ring_id, TAGS[:1]).state)
    name = f"r1-00{ref.name.hex()[2:]}"
    assert record_entry_path(ring_id, ref) == f"state/{ring_id.hex()}/{name}"
    assert record_entries(engine, ring_id) == {name}
    assert sealing.parse_record_entry(name) == (1, ref.name)
    assert not sealing.is_entry(name)


def test_the_record_entry_on_the_formats_page_opens() -> None:
    value = (
        "keyvault-ring-records/1\n"
        "101112131415161718191a1b1c1d1e1f\n"
        "QEFCQ0RFRkdISUpLiQL0gFB0+wtSMlAohUpQcHLs/ueQJsBe73wXhOVsSIpDmZSSu1IuttwFrhAIRiR3RwJyrCB0T8N+"
        "5MlgJqVUEDeR2vthVkp1Sr3zh5QnwMCg7YlFGR5WPPGAlCOU7dLAaKuvKYBGISCAMfEl6rX80T61XHJp6+to"
    )
    epoch, name = sealing.parse_record_entry("r1-0151525354555657")
    ref = EntryRef(epoch=epoch, name=name, key=bytearray(range(0x20, 0x40)))
    assert record_sealing.kind_of(name) is RecordKind.INDEX
    ring_id, scope = bytes(range(16)), record_sealing.claimed_scope_id(value)
    index = parse_index(record_sealing.unseal(value, ref, ring_id=ring_id, scope_id=scope))
    assert [chunk.ref.name[0] for chunk in index.chunks] == [RecordKind.CHUNK, RecordKind.CHUNK]
    assert [(chunk.first, chunk.height) for chunk in index.chunks] == [(0, 62), (1 << 62, 62)]


@pytest.mark.parametrize("name", ["0", f"1-{'a' * 32}", f"1-{'a' * 16}", "r1-", f"r01-{'a' * 16}", f"r1-{'A' * 16}"])
def test_other_names_are_no_record_entries(name: str) -> None:
    assert not sealing.is_record_entry(name)
    with pytest.raises(InvalidFormatError):
        sealing.parse_record_entry(name)


# --- with the roles' own rights ---------------------------------------------------------------------------------------


@pytest.fixture
def roles(vault_server: VaultServer, vault_settings: VaultSettings) -> Iterator[dict[str, HashicorpEngine]]:
    made = {
        role: HashicorpEngine(vault_settings, issue_credentials(vault_settings, vault_server.root_token, role))
        for role in ("issuer", "shredder", "restorer")
    }
    yield made
    for engine in made.values():
        engine.close()


def test_the_shredder_erases_records_that_the_issuer_reads(roles: dict[str, HashicorpEngine]) -> None:
    issuer, shredder = RingStates(roles["issuer"], 1), RingStates(roles["shredder"], 1)
    ring_id = secrets.token_bytes(16)
    issuer.create(ring_id, 8)
    seed = records_seed(issuer, ring_id)
    with pytest.raises(PermissionDeniedError):
        erase(issuer, ring_id, TAGS)
    erase(shredder, ring_id, TAGS)
    check_records(issuer, ring_id, seed, gone=TAGS, kept=OTHERS)
    erase(shredder, ring_id, OTHERS[:1])
    check_records(issuer, ring_id, seed, gone=[*TAGS, OTHERS[0]], kept=OTHERS[1:])
    assert RingStates(roles["restorer"], 2).adopt(ring_id, 1).epoch == 2
