from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.errors import InvalidFormatError, InvalidInputError, KeyVaultError, PuncturedError
from keyvault.puncture import Frontier, new_frontier
from keyvault.puncture_records import (
    CHUNK_BYTES,
    MAX_ENTRY_BYTES,
    Chunk,
    EntryRef,
    RecordIndex,
    encode_frontier,
    encode_index,
    encoded_size,
    new_records,
    parse_chunk,
    parse_frontier,
    parse_root,
    partition,
    puncture_records,
    record_share,
    record_shares,
    record_tag,
)
from keyvault.puncture_state import RingState, SlotEntry, encode_state, new_ring, parse_state, slot_height
from tests import puncture_oracle as oracle
from tests.vectors import load

SEED = bytes(range(1, 33))
SCOPE = b"a scope's own id"
TAGS = 1 << 63
tags = st.integers(0, TAGS - 1) | st.integers(0, 40) | st.integers(TAGS - 40, TAGS - 1)


def ref(number: int = 0) -> EntryRef:
    return EntryRef(epoch=number, name=b"%08d" % number, key=bytearray(b"%032d" % number))


def tag_of(leaf: int) -> bytes:
    return leaf.to_bytes(8, "big")


# --- a ring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("capacity", "levels"), [(1, 0), (2, 1), (3, 2), (4095, 12), (4096, 12), (8192, 13)])
def test_capacities(capacity: int, levels: int) -> None:
    assert slot_height(capacity) == levels == oracle.slot_levels(capacity)
    ring = new_ring(SEED, capacity=capacity)
    last = capacity - 1
    assert ring.derive(last).share(SCOPE) == oracle.scope_share(SEED, capacity, last, SCOPE)
    gone = ring.puncture_slots([last])
    assert gone.punctured == (last,)
    assert parse_state(encode_state(gone)) == gone
    for refused in (-1, capacity):
        with pytest.raises(InvalidInputError, match=f"slot {refused} is not one of this ring's {capacity}"):
            ring.derive(refused)
        with pytest.raises(InvalidInputError):
            ring.puncture_slots([refused])
        with pytest.raises(InvalidInputError):
            ring.move_records({refused: ref()})
    nothing = ring.puncture_slots(range(capacity))
    assert nothing.slots.nodes == len(oracle.frontier(SEED, levels, set(range(capacity))))
    with pytest.raises(PuncturedError):
        nothing.derive(0)


@pytest.mark.parametrize("capacity", [0, 8193, -1])
def test_other_capacities_are_refused(capacity: int) -> None:
    with pytest.raises(InvalidFormatError, match="1 to 8,192 slots"):
        new_ring(SEED, capacity=capacity)


slots = st.sampled_from(range(11))
steps = st.lists(
    st.tuples(st.just("destroy"), st.sets(slots)) | st.tuples(st.just("erase"), st.sets(slots)), max_size=8
)


@given(steps)
def test_any_sequence_of_changes_agrees_with_a_model(sequence: list[tuple[str, set[int]]]) -> None:
    ring, destroyed, erased = new_ring(SEED, capacity=11), set[int](), dict[int, EntryRef]()
    for number, (what, chosen) in enumerate(sequence):
        if what == "destroy":
            ring = ring.puncture_slots(chosen)
            destroyed |= chosen
        else:
            new = {slot: ref(number) for slot in chosen - destroyed}
            ring = ring.move_records(new)
            erased |= new
    entries = {slot: oracle.Ref(e.epoch, e.name, bytes(e.key)) for slot, e in erased.items() if slot not in destroyed}
    assert encode_state(ring) == oracle.state(SEED, 11, destroyed, entries)
    assert ring.punctured == tuple(sorted(destroyed))
    for slot in range(11):
        check_slot(ring, slot, destroyed, erased)


def check_slot(ring: RingState, slot: int, destroyed: set[int], erased: dict[int, EntryRef]) -> None:
    if slot in destroyed:
        with pytest.raises(PuncturedError):
            ring.derive(slot)
        with pytest.raises(PuncturedError):
            ring.move_records({slot: ref()})
        return
    node = ring.derive(slot)
    assert node.share(SCOPE) == oracle.scope_share(SEED, 11, slot, SCOPE)
    assert node.records == erased.get(slot, oracle.records_seed(SEED, 11, slot))


@pytest.mark.parametrize(
    ("height", "punctured", "entries", "message"),
    [
        (1, (), (), "another size"),
        (2, (3,), (), "beyond the ring"),
        (2, (), (0,), "slot entries"),
        (2, (0, 1), (1, 0), "slot entries"),
        (2, (0, 1), (1, 1), "slot entries"),
    ],
)
def test_states_that_cannot_be(height: int, punctured: tuple[int, ...], entries: tuple[int, ...], message: str) -> None:
    tree = new_frontier(height, SEED).puncture(punctured)
    rows = tuple(SlotEntry(slot=slot, scope_seed=bytearray(SEED), records=ref()) for slot in entries)
    with pytest.raises(InvalidFormatError, match=message):
        RingState(capacity=3, slots=tree, entries=rows)


def test_a_slot_entry_has_a_whole_seed_and_key() -> None:
    entry = SlotEntry(slot=0, scope_seed=bytearray(31), records=ref())
    with pytest.raises(InvalidFormatError, match="slot entries"):
        RingState(capacity=2, slots=new_frontier(1, SEED).puncture([0]), entries=(entry,))
    for fields in ({"epoch": -1}, {"epoch": 2**64}, {"name": bytes(7)}, {"key": bytearray(31)}):
        with pytest.raises(InvalidFormatError, match="a key of 32"):
            EntryRef(**{"epoch": 1, "name": bytes(8), "key": bytearray(32), **fields})  # type: ignore[arg-type]


def test_the_records_of_a_slot_with_an_entry_cannot_be_derived_from_the_ring() -> None:
    ring = new_ring(SEED, capacity=8).move_records({5: ref()})
    held = bytes(encode_state(ring))
    for gone in (oracle.leaf(SEED, 3, 5), oracle.records_seed(SEED, 8, 5), SEED):
        assert gone not in held
    assert oracle.scope_seed(SEED, 8, 5) in held
    assert oracle.scope_seed(SEED, 8, 5) not in encode_state(ring.puncture_slots([5]))


def test_a_scopes_keys_differ_by_purpose_and_by_its_id() -> None:
    node = new_ring(SEED).derive(7)
    keys = {bytes(key) for key in (node.share(SCOPE), node.share(b"i" * 16), node.identity_key(SCOPE), node.scope_seed)}
    assert len(keys) == 4
    for wrong in (b"", b"i" * 15, b"i" * 17):
        with pytest.raises(InvalidInputError, match="16 bytes"):
            node.share(wrong)


def test_states_are_as_small_as_planned() -> None:
    random = Random(5)
    for count, limit in [(100, 20_000), (400, 40_000)]:
        sizes = [len(encode_state(new_ring(SEED).puncture_slots(random.sample(range(4096), count)))) for _ in range(5)]
        assert max(sizes) < limit
    full = new_ring(SEED).move_records({slot: ref(slot) for slot in range(4096)})
    assert len(encode_state(full)) == 10 + 4096 * 82 <= MAX_ENTRY_BYTES
    too_many = new_ring(SEED, capacity=8192).move_records({slot: ref(slot) for slot in range(8192)})
    with pytest.raises(InvalidInputError, match="use smaller rings"):
        encode_state(too_many)


# --- records -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", load("puncture")["tags"], ids=lambda vector: str(vector["tag"]))
def test_record_tags(vector: dict[str, str]) -> None:
    index_key, scope_id, record_id = (bytes.fromhex(vector[name]) for name in ("index_key", "scope_id", "record_id"))
    tag = record_tag(index_key, scope_id, record_id)
    assert tag.hex() == vector["tag"]
    digest = hmac.digest(index_key, scope_id + record_id, "sha256")
    assert int.from_bytes(tag, "big") == int.from_bytes(digest[:8], "big") % TAGS
    with pytest.raises(InvalidInputError, match="16 bytes"):
        record_tag(index_key, scope_id[1:], record_id)


def test_an_erased_record_is_refused_and_its_neighbours_are_not() -> None:
    node = new_ring(SEED, capacity=4).derive(2)
    assert isinstance(node.records, bytearray)
    records = puncture_records(new_records(node.records), [tag_of(9), tag_of(TAGS - 1)])
    for leaf in (8, 10, TAGS - 2, 12345):
        tag = tag_of(leaf)
        assert record_share(records, SCOPE, tag) == oracle.record_share(bytes(node.records), SCOPE, tag)
    for leaf in (9, TAGS - 1):
        with pytest.raises(PuncturedError):
            record_share(records, SCOPE, tag_of(leaf))


@given(st.sets(tags, max_size=8), st.sets(tags, max_size=3))
def test_many_records_have_the_shares_that_each_has_alone(wanted: set[int], erased: set[int]) -> None:
    records = puncture_records(new_records(SEED), map(tag_of, erased))
    shares = record_shares(records, SCOPE, map(tag_of, wanted))
    assert shares == {tag_of(leaf): record_share(records, SCOPE, tag_of(leaf)) for leaf in wanted - erased}


def test_shares_of_many_records_are_of_one_scope_with_an_id() -> None:
    with pytest.raises(InvalidInputError, match="16 bytes"):
        record_shares(new_records(SEED), SCOPE[1:], [tag_of(1)])


@pytest.mark.parametrize("tag", [b"", bytes(7), bytes(9), b"\x80" + bytes(7), b"\xff" * 8])
def test_what_is_no_tag_is_refused(tag: bytes) -> None:
    records = new_records(SEED)
    index = RecordIndex(chunks=chunks_of([62, 62]))
    for use in (
        lambda: record_share(records, SCOPE, tag),
        lambda: record_shares(records, SCOPE, [tag_of(1), tag]),
        lambda: puncture_records(records, [tag]),
        lambda: index.find(tag),
    ):
        with pytest.raises(InvalidInputError, match="8 bytes"):
            use()


def chunks_of(heights: list[int]) -> tuple[Chunk, ...]:
    firsts = [sum(1 << height for height in heights[:position]) for position in range(len(heights))]
    return tuple(
        Chunk(first=first, height=height, ref=ref(first % 97)) for first, height in zip(firsts, heights, strict=True)
    )


@given(st.sets(tags, max_size=60), st.sampled_from([2041, 2500, 5000, 20_000, CHUNK_BYTES]))
def test_chunks_make_up_the_frontier(punctured: set[int], limit: int) -> None:
    whole = new_records(SEED).puncture(punctured)
    chunks = partition(whole, limit=limit)
    assert all(len(encode_frontier(chunk)) == encoded_size(chunk) <= limit for chunk in chunks)
    assert b"".join(chunk.seeds for chunk in chunks) == whole.seeds
    assert tuple(leaf for chunk in chunks for leaf in chunk.punctured) == whole.punctured
    assert (len(chunks) == 1) == (encoded_size(whole) <= limit)
    for chunk in chunks:
        assert encode_frontier(chunk) == oracle.records(SEED, set(chunk.punctured), chunk.first, chunk.height)
        assert parse_frontier(encode_frontier(chunk)) == chunk
    if len(chunks) > 1:
        check_index(chunks)


def check_index(chunks: list[Frontier]) -> None:
    held = tuple(Chunk(first=chunk.first, height=chunk.height, ref=ref(n)) for n, chunk in enumerate(chunks))
    index = RecordIndex(chunks=held)
    assert parse_root(encode_index(index)) == index
    for chunk, frontier in zip(held, chunks, strict=True):
        assert parse_chunk(encode_frontier(frontier), chunk) == frontier
        assert index.find(tag_of(frontier.first)) == index.find(tag_of(frontier.end - 1)) == chunk
        with pytest.raises(InvalidFormatError, match="another part"):
            parse_root(encode_frontier(frontier))
    with pytest.raises(InvalidFormatError, match="another part"):
        parse_chunk(encode_frontier(chunks[0]), held[1])


def test_erasing_in_one_chunk_changes_no_other() -> None:
    random = Random(3)
    first, more = ([random.randrange(TAGS) for _ in range(count)] for count in (200, 40))
    frontiers = {chunk.first: chunk for chunk in partition(new_records(SEED).puncture(first), limit=40_000)}
    index = RecordIndex(
        chunks=tuple(Chunk(first=start, height=chunk.height, ref=ref(start % 89)) for start, chunk in frontiers.items())
    )
    start = index.find(tag_of(more[0])).first
    here = [leaf for leaf in more if index.find(tag_of(leaf)).first == start]
    parts = partition(puncture_records(frontiers[start], map(tag_of, here)), limit=30_000)
    new = index.replace({start: [Chunk(first=part.first, height=part.height, ref=ref(1)) for part in parts]})
    assert len(parts) > 1
    assert [chunk for chunk in new.chunks if chunk.ref != ref(1)] == [c for c in index.chunks if c.first != start]
    assert all(new.find(tag_of(part.first)).height == part.height for part in parts)
    index.wipe()
    assert encode_index(new)


@pytest.mark.parametrize("heights", [[], [63], [62], [62, 61], [61, 62, 61], [62, 62, 0]])
def test_chunks_that_do_not_make_up_the_tree(heights: list[int]) -> None:
    with pytest.raises(InvalidFormatError, match="whole tree"):
        RecordIndex(chunks=chunks_of(heights))


def test_an_index_is_replaced_chunk_by_chunk_only() -> None:
    index = RecordIndex(chunks=chunks_of([62, 62]))
    with pytest.raises(InvalidInputError, match="only chunks that it has"):
        index.replace({1: index.chunks})
    with pytest.raises(InvalidFormatError, match="whole tree"):
        index.replace({0: index.chunks})


def test_limits_of_entries() -> None:
    records = new_records(SEED)
    for limit in (2040, MAX_ENTRY_BYTES + 1):
        with pytest.raises(InvalidInputError, match="2041 to 380000"):
            partition(records, limit=limit)
    large = records.puncture(Random(1).randrange(TAGS) for _ in range(1))
    assert encoded_size(large) == 2041
    random = Random(2)
    with pytest.raises(InvalidInputError, match="partition it"):
        encode_frontier(records.puncture([random.randrange(TAGS) for _ in range(250)]))
    many = RecordIndex(chunks=tuple(Chunk(first=n << 50, height=50, ref=ref(n)) for n in range(8192)))
    with pytest.raises(InvalidInputError, match="destroy the whole scope"):
        encode_index(many)
    # nonce, tag and base64 of the sealed entry stay within the 512 kB of the store's values
    assert len(b64encode(bytes(MAX_ENTRY_BYTES + 64))) < 512_000


def test_a_thousand_records_in_one_batch() -> None:
    random = Random(4)
    leaves = [random.randrange(TAGS) for _ in range(1000)]
    chunks = partition(new_records(SEED).puncture(leaves))
    assert {leaf for chunk in chunks for leaf in chunk.punctured} == set(leaves)
    assert all(CHUNK_BYTES / 4 < encoded_size(chunk) <= CHUNK_BYTES for chunk in chunks)


# --- wiping ------------------------------------------------------------------------------------------------------


def test_nothing_can_be_had_from_wiped_values() -> None:
    ring, records = new_ring(SEED, capacity=4).move_records({1: ref(1)}), new_records(SEED)
    node, moved, index = ring.derive(0), ring.derive(1), RecordIndex(chunks=chunks_of([62, 62]))
    whole = new_ring(SEED, capacity=4)
    for value in (ring, whole, records, node, moved, index):
        value.wipe()
    uses: list[Callable[[], object]] = [
        lambda: ring.derive(0),
        lambda: ring.derive(1),
        lambda: ring.puncture_slots([0]),
        lambda: ring.move_records({0: ref(2)}),
        lambda: encode_state(ring),
        lambda: record_share(records, SCOPE, bytes(8)),
        lambda: record_shares(records, SCOPE, [bytes(8)]),
        lambda: records.puncture([]),
        lambda: records.puncture([1]),
        lambda: encode_state(whole),
        lambda: encode_frontier(records),
        lambda: node.share(SCOPE),
        lambda: moved.identity_key(SCOPE),
        lambda: encode_index(index),
        lambda: index.replace({}),
    ]
    for use in uses:
        with pytest.raises(KeyVaultError, match="wiped"):
            use()
    assert not any(ring.slots.seeds + records.seeds + node.scope_seed + moved.scope_seed)
    assert node.records == bytearray(32)


def test_wiping_a_ring_or_a_reference_leaves_later_rings_alone() -> None:
    moved_to = ref(1)
    ring = new_ring(SEED, capacity=4).move_records({1: moved_to})
    later = [ring.puncture_slots([0]), ring.move_records({2: ref(2)})]
    before = [encode_state(state) for state in later]
    moved_to.key[:] = bytes(32)
    assert encode_state(ring)
    ring.wipe()
    assert [encode_state(state) for state in later] == before


def test_wiping_a_node_leaves_the_ring_alone() -> None:
    ring = new_ring(SEED, capacity=4).move_records({1: ref(1)})
    before = encode_state(ring)
    for slot in (0, 1):
        ring.derive(slot).wipe()
    assert encode_state(ring) == before


def test_no_secret_is_shown() -> None:
    ring = new_ring(SEED, capacity=4).move_records(
        {1: EntryRef(epoch=1, name=bytes(8), key=bytearray(b"secret!!" * 4))}
    )
    shown = repr([ring, ring.slots, ring.entries, ring.derive(0), ring.derive(1), ring.entries[0].records])
    assert "secret!!" not in shown
    assert "bytearray" not in shown
