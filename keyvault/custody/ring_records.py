"""How single records of ring scopes are erased in the store: copy-on-write entries, which the ring's state reaches or nobody.

What is left of a scope's record tree lies in entries of its own, each under a key that only the ring's state, or the scope's index,
holds (`keyvault.puncture_records`). Entries are never changed. Erasing writes new ones, for the epoch of the state that will
refer to them; replacing the state (`keyvault.custody.ring_state`) makes them the scope's, and kills those before: their keys were
in the state that is dead then. What a worker wrote and never came to refer to has no key anywhere.

Of a large scope only the chunks with newly erased records and the index are written anew:

    old state ─→ index ─┬→ chunk  0…          new state ─→ index' ─┬→ chunk  0…       the same entry
                        └→ chunk  8…                               └→ chunk' 8…       the old one cannot be opened any more
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from keyvault.custody.ring_record_entries import ScopeRecords, chunk_names, wiping
from keyvault.custody.ring_record_sealing import RecordKind, kind_of
from keyvault.custody.ring_sealing import (
    entry_path,
    folder,
    is_record_entry,
    parse_record_entry,
    record_entry,
    record_entry_path,
)
from keyvault.errors import DecryptionFailedError, InvalidFormatError, InvalidInputError, KeyMissingError
from keyvault.formats import wipe
from keyvault.puncture import Frontier
from keyvault.puncture_records import (
    Chunk,
    EntryRef,
    RecordIndex,
    encode_frontier,
    encode_index,
    leaf_of,
    new_records,
    partition,
)
from keyvault.puncture_state import RingState, ScopeNode
from keyvault.transit.base import TransitEngine

__all__ = [
    "collect_records",
    "erase_records",
    "read_records",
    "read_records_many",
    "record_entry_path",
    "require_records",
]

# --- reading --------------------------------------------------------------------------------------------------------


def read_records(engine: TransitEngine, ring_id: bytes, scope_id: bytes, ref: EntryRef, tag: bytes) -> Frontier:
    """Return the frontier, or the chunk of it, with the record at `tag` (8 bytes). The caller wipes it.

    `ref` is the scope's, from the ring's state. Raises `KeyMissingError` when an entry is gone: the state was replaced since it was
    loaded, to be loaded again, or it was lost. Raises `DecryptionFailedError` and `InvalidFormatError` when an entry was altered or
    belongs elsewhere, `InvalidInputError` for what is no tag.
    """
    leaf_of(tag)
    scope = ScopeRecords(engine=engine, ring_id=ring_id, scope_id=scope_id)
    root = scope.read_root(ref)
    if isinstance(root, Frontier):
        return root
    with wiping(root):
        return scope.read_chunk(root.find(tag))


def read_records_many(
    engine: TransitEngine, ring_id: bytes, scope_id: bytes, ref: EntryRef, tags: Iterable[bytes]
) -> Iterator[tuple[Frontier, list[bytes]]]:
    """Give the frontier, or each chunk of it with some of these tags, and those tags; each entry is read once.

    What was given is wiped when the next is asked for, and at the end. Raises as `read_records`.
    """
    wanted = sorted(set(tags), key=leaf_of)
    scope = ScopeRecords(engine=engine, ring_id=ring_id, scope_id=scope_id)
    with wiping(scope.read_root(ref)) as root:
        if isinstance(root, Frontier):
            yield root, wanted
            return
        for chunk, its_tags in _by_chunk(root, wanted):
            with wiping(scope.read_chunk(chunk)) as records:
                yield records, its_tags


def _by_chunk(index: RecordIndex, tags: Iterable[bytes]) -> Iterator[tuple[Chunk, list[bytes]]]:
    groups: dict[int, tuple[Chunk, list[bytes]]] = {}
    for tag in tags:
        chunk = index.find(tag)
        groups.setdefault(chunk.first, (chunk, []))[1].append(tag)
    yield from groups.values()


# --- erasing --------------------------------------------------------------------------------------------------------


def erase_records(  # noqa: PLR0917 - from the outermost place to what is done there
    engine: TransitEngine, ring_id: bytes, scope_id: bytes, epoch: int, node: ScopeNode, tags: Iterable[bytes]
) -> EntryRef:
    """Write what is left of a scope's records without those at `tags`, and return the reference for `RingState.move_records`.

    `node` is the scope's; `epoch` is that of the state about to be written. Nothing is erased until that state took the place of
    the one before and that one is dead. Each new entry was read back and opened. When all tags were erased before, nothing is written
    and the reference stays as it is. The caller wipes the reference and `node`.

    Raises `KeyMissingError` when an entry is gone, old or new: another worker replaced the state; load it again. Raises
    `NotProvenError` when a new entry reads back as another, `InvalidInputError` for what is no tag, for no tags of a scope of
    which none is erased, and beyond some 300,000 erased records; else as `read_records`.
    """
    wanted = sorted(set(tags), key=leaf_of)
    scope = ScopeRecords(engine=engine, ring_id=ring_id, scope_id=scope_id)
    old = node.records
    with wiping(scope.read_root(old) if isinstance(old, EntryRef) else new_records(old)) as root:
        if isinstance(root, Frontier):
            new = _erase_in_frontier(scope, epoch, root, wanted)
        else:
            new = _erase_in_index(scope, epoch, root, wanted)
    if new is not None:
        return new
    if isinstance(old, EntryRef):
        return old.copy()
    raise InvalidInputError("name at least one record to erase")


def _erase_in_frontier(scope: ScopeRecords, epoch: int, records: Frontier, tags: list[bytes]) -> EntryRef | None:
    """Return the reference of the new root, or None when there is nothing to erase."""
    with ExitStack() as secrets:
        parts = _punctured(records, tags, secrets)
        if not parts:
            return None
        if len(parts) == 1:
            return scope.write(RecordKind.FRONTIER, epoch, encode_frontier(parts[0]))
        index = RecordIndex(chunks=tuple(_write_chunks(scope, epoch, parts, secrets)))
        return scope.write(RecordKind.INDEX, epoch, encode_index(index))


def _erase_in_index(scope: ScopeRecords, epoch: int, index: RecordIndex, tags: list[bytes]) -> EntryRef | None:
    """Return the reference of the new index, or None when there is nothing to erase. The other chunks keep their entries."""
    new: dict[int, list[Chunk]] = {}
    with ExitStack() as secrets:
        for chunk, its_tags in _by_chunk(index, tags):
            with wiping(scope.read_chunk(chunk)) as records:
                parts = _punctured(records, its_tags, secrets)
            if parts:
                new[chunk.first] = _write_chunks(scope, epoch, parts, secrets)
        if not new:
            return None
        with wiping(index.replace(new)) as changed:
            return scope.write(RecordKind.INDEX, epoch, encode_index(changed))


def _punctured(records: Frontier, tags: list[bytes], secrets: ExitStack) -> list[Frontier]:
    """Return the parts of a frontier without these records, which `secrets` wipes; none when all were erased before."""
    gone = {leaf_of(tag) for tag in tags}.difference(records.punctured)
    if not gone:
        return []
    with wiping(records.puncture(gone)) as punctured:
        parts = partition(punctured)
    for part in parts:
        secrets.callback(part.wipe)
    return parts


def _write_chunks(scope: ScopeRecords, epoch: int, parts: list[Frontier], secrets: ExitStack) -> list[Chunk]:
    """Write an entry for each part; `secrets` wipes their keys."""
    chunks = []
    for part in parts:
        ref = scope.write(RecordKind.CHUNK, epoch, encode_frontier(part))
        secrets.callback(wipe, ref.key)
        chunks.append(Chunk(first=part.first, height=part.height, ref=ref))
    return chunks


# --- what a state reaches --------------------------------------------------------------------------------------------


def require_records(engine: TransitEngine, ring_id: bytes, state: RingState, epoch: int) -> None:
    """Raise `KeyMissingError` unless the entries that were written for this state, of this epoch, are there.

    Each was opened when it was written, and none is ever overwritten. What can take them away before the state is in its place is a
    restored engine; then the state before must not be killed. Older entries were checked so when their own states took over.
    """
    roots = [entry.records for entry in state.entries if entry.records.epoch == epoch]
    if not roots:
        return
    written = {record_entry(ref) for ref in roots}
    for ref in roots:
        written.update(name for name in chunk_names(engine, ring_id, ref) if parse_record_entry(name)[0] == epoch)
    if not written <= set(engine.list_state(folder(ring_id))):
        raise KeyMissingError(f"ring {ring_id.hex()}: entries with records of its state of epoch {epoch} are missing")


def collect_records(engine: TransitEngine, ring_id: bytes, state: RingState, epoch: int) -> None:
    """Delete the record entries of this epoch and before that the ring's state of this epoch does not reach.

    `state` is, or was, the one that the pointer names. Deleting is safe whatever other workers do: each state of a ring grows out of
    the one before, and refers to entries that this one referred to, or to such as were written for it, of its own later epoch. So an
    entry of `epoch` or before that this state does not reach is reached by no later one. Entries of later epochs may be about to be
    reached; they are left to a later collection, and so is what lies here for good when its worker died.

    Where an index cannot be read, another worker has come further and collects, or it is lost, which its readers report. Nothing can
    be told of chunks then, and none is deleted.
    """
    roots = {record_entry(entry.records): entry.records for entry in state.entries}
    idle = {}
    for name in engine.list_state(folder(ring_id)):
        if is_record_entry(name) and name not in roots:
            written, rest = parse_record_entry(name)
            if written <= epoch:
                idle[name] = kind_of(rest)
    chunks = {name for name, kind in idle.items() if kind is RecordKind.CHUNK}
    kept = _reached(engine, ring_id, roots.values(), chunks) if chunks else chunks
    for name in idle.keys() - kept:
        engine.delete_state(entry_path(ring_id, name))


def _reached(engine: TransitEngine, ring_id: bytes, roots: Iterable[EntryRef], chunks: set[str]) -> set[str]:
    """Return the names of the chunks that some root refers to; all of `chunks` where that cannot be told."""
    try:
        return {name for ref in roots for name in chunk_names(engine, ring_id, ref)}
    except (KeyMissingError, DecryptionFailedError, InvalidFormatError):
        return chunks
