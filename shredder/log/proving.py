"""Proofs of single events: where one stands in the log, and what shows a stranger that it does."""

from __future__ import annotations

from dataclasses import dataclass

from keyvault.errors import InvalidInputError, LogError, UnknownScopeError
from keyvault.events import EventType, b64
from keyvault.home import Home
from keyvault.scopes import Scope
from keyvault.states import KeyState
from keyvault.store import outbox
from keyvault.store import scopes as scope_store
from shredder.log.checkpoint import open_checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.merkle import inclusion_proof
from shredder.log.note import ED25519, VerifierKey
from shredder.log.proof import Proof, verify_proof


@dataclass(frozen=True, kw_only=True, slots=True)
class ProvenEntry:
    """An entry's exact bytes, its index, the proof, and the size of the log whose checkpoint the proof leads to."""

    entry: bytes
    index: int
    proof: Proof
    size: int


def log_key(home: Home) -> VerifierKey:
    """Return the key that verifies the home's log."""
    return VerifierKey(name=home.log.context.origin, type=ED25519, public=home.log.context.public_key)


def index_of_scope(home: Home, name: str) -> int:
    """Return the index of the newest generation's destruction, or of its creation while it is not destroyed.

    Raises `InvalidScopeError`, `UnknownScopeError`, and `LogError` where the log does not have the event yet.
    """
    lookup = home.keys.lookup(Scope.parse(name).canonical)
    row = home.database.read(lambda connection: scope_store.newest_by_lookup(connection, [lookup])).get(lookup)
    if row is None:
        raise UnknownScopeError("there is no such scope, or what it named was forgotten after its backup horizon")
    kind = EventType.KEY_DESTROYED if row.state is KeyState.DESTROYED else EventType.SCOPE_CREATED
    found = home.database.read(lambda connection: outbox.indices_naming(connection, kind, f'"{b64(row.commitment)}"'))
    if not found:
        raise LogError(f"the event {kind} of scope {row.id.hex()} is not in the log yet: try again")
    return found[0]


def index_of_event(home: Home, event_id: str) -> int:
    """Return the index of an event. `InvalidInputError` where the log has none of that id."""
    index = home.database.read(lambda connection: outbox.index_of(connection, event_id))
    if index is None:
        raise InvalidInputError(
            "the log has no event of that id: `keyvault log tail --json` shows events with their ids"
        )
    return index


def prove(directory: LogDirectory, key: VerifierKey, index: int) -> ProvenEntry:
    """Return an entry with the proof that the newest checkpoint covers it, verified.

    Raises `LogError` where the directory lacks something, `VerificationError` where it was altered.
    """
    note = directory.checkpoint()
    if note is None:
        raise LogError(f"the log's directory {directory.path} has no checkpoint: nothing can be proved yet")
    size = open_checkpoint(note, key).size
    if index >= size:
        raise LogError(f"the log's checkpoint covers {size} entries, and not yet entry {index}: try again")
    entry = next(directory.entries(index, size))
    proof = Proof(index=index, hashes=inclusion_proof(index, size, directory.node(size)), checkpoint=note)
    verify_proof(proof, entry, key)
    return ProvenEntry(entry=entry, index=index, proof=proof, size=size)
