"""The life of keys as a state machine against a model: G1, G2, G4 and G6 hold after every step, whatever fails on the way."""

from __future__ import annotations

import itertools
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from keyvault import (
    DataKey,
    KeyRequest,
    KeyState,
    KeyVault,
    OpenRequest,
    RewrapRequest,
    ScopeInfo,
    SealRequest,
    UnwrapRequest,
    WrapRequest,
)
from keyvault.custody.ring_reading import RingReader
from keyvault.custody.ring_sealing import key_name
from keyvault.errors import (
    DestructionPausedError,
    KeyMissingError,
    KeyVaultError,
    LogError,
    ScopeDestroyedError,
    ScopeFencedError,
    Unavailable,
    UnknownScopeError,
)
from keyvault.home import Home, assemble
from keyvault.results import values_of
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from keyvault.testing import FaultyDatabase, faulty_engine
from shredder.destroy import Destroyer
from tests.homes import TestHome
from tests.property.model import AFTER_A_FENCE, Item, Model, ModelScope, refusal

NUMBERS = range(4)

numbers = st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3, unique=True)
steps = st.integers(1, 24)
deaths = st.booleans()
examples = itertools.count()


class Died(BaseException):
    """The process is gone: no handler of errors runs."""


class Fault:
    """Fails at step `fatal` of engine calls and commits, once; `died` ends the run, otherwise the engine is down."""

    def __init__(self, fatal: int, *, died: bool) -> None:
        self._left = fatal
        self._died = died

    def __call__(self, step: str) -> None:
        self._left -= 1
        if self._left == 0:
            raise Died if self._died else Unavailable(f"nothing answers {step}")


class KeyLife(RuleBasedStateMachine):
    """One home for all runs, and names of its own for each."""

    def __init__(self, home: TestHome) -> None:
        super().__init__()
        tag = next(examples)
        self.home = home
        self.on_sqlite = home.store_url.startswith("sqlite")
        self.model = Model(names={f"consumer/acct-{tag}/{number}": [] for number in NUMBERS})
        self.copies: list[tuple[TestHome, dict[bytes, KeyState]]] = []
        self.folder = tempfile.TemporaryDirectory(prefix="keyvault-copies-")
        self.opened = ExitStack()
        self.enter()

    def enter(self) -> None:
        """Open the home as its two users do."""
        self.issuing = self.opened.enter_context(self.home.opened("issuer"))
        self.shredding = self.opened.enter_context(self.home.opened("shredder"))
        self.vault, self.destroyer = KeyVault(self.issuing), Destroyer(self.shredding)

    def teardown(self) -> None:
        """Leave the home as the next run expects it."""
        self.destroyer.unpause()
        self.destroyer.finish_pending()
        self.opened.close()
        self.folder.cleanup()

    def named(self, chosen: Sequence[int]) -> list[str]:
        """Return the names of these numbers."""
        names = list(self.model.names)
        return [names[number] for number in chosen]

    @initialize()
    def begin(self) -> None:
        """Have something to lose from the start, and one name that is unknown."""
        self.ensure([0, 1, 2], renew=False)
        self.seal([0])
        self.seal([1, 2])

    # --- scopes --------------------------------------------------------------------------------------------------

    @rule(chosen=numbers, renew=st.booleans())
    def ensure(self, chosen: list[int], *, renew: bool) -> None:
        """Create what is missing, and renew what is destroyed where that is asked for."""
        names = self.named(chosen)
        for name, result in zip(names, self.vault.ensure_scopes(names, renew=renew), strict=True):
            scope = self.model.newest(name)
            if scope is not None and scope.state is KeyState.DEACTIVATED:
                assert isinstance(result, ScopeFencedError)
            elif scope is not None and scope.state is KeyState.DESTROYED and not renew:
                assert isinstance(result, ScopeDestroyedError)
            else:
                assert isinstance(result, ScopeInfo)
                if scope is None or scope.state is KeyState.DESTROYED:
                    self.created(name, result)
                assert (result.id, result.generation, result.state) == self.told(name)

    @rule(chosen=numbers, fatal=steps, died=deaths)
    def ensure_and_fail(self, chosen: list[int], fatal: int, *, died: bool) -> None:
        """Create with a fault on the way; whatever came to be is whole."""
        names = self.named(chosen)
        self.faulty(self.issuing, Fault(fatal, died=died), lambda home: KeyVault(home).ensure_scopes(names, renew=True))
        for name, found in zip(names, self.vault.describe(names), strict=True):
            scope = self.model.newest(name)
            if isinstance(found, ScopeInfo) and (scope is None or found.id != scope.id):
                self.created(name, found)

    @rule(chosen=numbers, resume=st.booleans())
    def suspend_or_resume(self, chosen: list[int], *, resume: bool) -> None:
        """Suspend or resume; what is fenced stays so."""
        names = self.named(chosen)
        results = self.vault.resume(names) if resume else self.vault.suspend(names)
        for name, result in zip(names, results, strict=True):
            scope = self.model.newest(name)
            if scope is None or scope.state in AFTER_A_FENCE:
                assert type(result) is self.model.refusal([name])
                continue
            scope.state = KeyState.ACTIVE if resume else KeyState.SUSPENDED
            assert isinstance(result, ScopeInfo)
            assert (result.id, result.generation, result.state) == self.told(name)

    # --- keys and data -------------------------------------------------------------------------------------------

    @rule(chosen=numbers)
    def seal(self, chosen: list[int]) -> None:
        """Seal data under one to three scopes."""
        names, content = self.named(chosen), secrets.token_bytes(8)
        result = self.vault.seal_many([SealRequest(plaintext=content, scopes=tuple(names))])[0]
        self.made(names, result, content, envelope=True)

    @rule(chosen=numbers, wrap=st.booleans())
    def issue(self, chosen: list[int], *, wrap: bool) -> None:
        """Generate a data key, or wrap one that exists."""
        names, mine = self.named(chosen), secrets.token_bytes(16)
        if wrap:
            result = self.vault.wrap_data_keys([WrapRequest(data_key=mine, scopes=tuple(names))])[0]
        else:
            result = self.vault.generate_data_keys([KeyRequest(scopes=tuple(names))])[0]
        assert isinstance(result, DataKey | KeyVaultError)
        if isinstance(result, DataKey):
            assert not wrap or bytes(result.plaintext) == mine
            self.made(names, result.wrapped, bytes(result.plaintext), envelope=False)
        else:
            self.made(names, result, b"", envelope=False)

    @precondition(lambda self: any(not item.envelope for item in self.model.items))
    @rule(chosen=numbers, index=st.integers(0, 100))
    def rewrap(self, chosen: list[int], index: int) -> None:
        """Move a wrapped key under other scopes: both the old and the new ones must let it."""
        wrapped = [item for item in self.model.items if not item.envelope]
        item, names = wrapped[index % len(wrapped)], self.named(chosen)
        moved = self.vault.rewrap_data_keys([RewrapRequest(wrapped=item.data, scopes=tuple(names))])[0]
        why = refusal(item.scopes)
        if why is not None:
            assert type(moved) is why
        else:
            self.made(names, moved, item.content, envelope=False)

    # --- destruction ---------------------------------------------------------------------------------------------

    @rule(chosen=numbers)
    def shred(self, chosen: list[int]) -> None:
        """Destroy: all of the names, or none where one is unknown or destructions are paused."""
        names = self.named(chosen)
        try:
            outcomes = self.destroyer.destroy(names, ticket="T-1", requested_by="tester")
        except UnknownScopeError:
            assert any(self.model.newest(name) is None for name in names)
        except DestructionPausedError:
            assert self.model.paused
            assert any(self.model.live(name) for name in names)
        else:
            for name, outcome in zip(names, outcomes, strict=True):
                scope = self.model.newest(name)
                assert scope is not None
                assert (outcome.scope_id, outcome.error) == (scope.id, None)
                assert outcome.at is not None
                assert not self.model.paused or scope.state in AFTER_A_FENCE
                scope.state = KeyState.DESTROYED

    @rule(chosen=numbers, fatal=steps, died=deaths)
    def shred_and_fail(self, chosen: list[int], fatal: int, *, died: bool) -> None:
        """Destroy with a fault on the way: afterwards each scope is as it was, fenced, or destroyed."""
        names = self.named(chosen)
        self.faulty(self.shredding, Fault(fatal, died=died), lambda home: destroy(home, names))
        for name, found in zip(names, self.vault.describe(names), strict=True):
            scope = self.model.newest(name)
            if isinstance(found, ScopeInfo) and found.state in AFTER_A_FENCE:
                assert scope is not None
                assert not self.model.paused or scope.state in AFTER_A_FENCE
                assert scope.state is not KeyState.DESTROYED or found.state is KeyState.DESTROYED
                scope.state = found.state

    @rule()
    def finish(self) -> None:
        """Finish what earlier runs left, paused or not: it is behind the fence."""
        pending = {scope.id for scope in self.model.scopes() if scope.state is KeyState.DEACTIVATED}
        outcomes = self.destroyer.finish_pending()
        assert {outcome.scope_id for outcome in outcomes} == pending
        assert all(outcome.error is None for outcome in outcomes)
        for scope in self.model.scopes():
            if scope.state is KeyState.DEACTIVATED:
                scope.state = KeyState.DESTROYED

    @rule(on=st.booleans())
    def pause(self, *, on: bool) -> None:
        """Pause or go on."""
        changed = self.destroyer.pause() if on else self.destroyer.unpause()
        assert changed is (self.model.paused is not on)
        self.model.paused = on

    # --- the home ------------------------------------------------------------------------------------------------

    @rule()
    def reopen(self) -> None:
        """Close the home and open it again: nothing rests on what a process remembers."""
        self.opened.close()
        self.enter()

    @precondition(lambda self: self.on_sqlite and len(self.copies) < 3)
    @rule()
    def back_up(self) -> None:
        """Take a copy of the store."""
        place = Path(self.folder.name) / str(len(self.copies))
        store = place.with_suffix(".db")
        with (
            closing(sqlite3.connect(self.home.store_url.removeprefix("sqlite:///"))) as source,
            closing(sqlite3.connect(store)) as target,
        ):
            source.backup(target)
        copy = self.home.copy(place, f"sqlite:///{store}")
        self.copies.append((copy, {scope.id: scope.state for scope in self.model.scopes()}))

    @precondition(lambda self: self.copies)
    @rule(index=st.integers(0, 2))
    def look_at_a_copy(self, index: int) -> None:
        """Open everything with an older store beside the current engine: the destroyed stays shut, the rest opens (G5, G6)."""
        copy, known = self.copies[index % len(self.copies)]
        names = list(self.model.names)
        with copy.vault() as vault:
            results = opened(vault, self.model.items)
            issued = vault.generate_data_keys([KeyRequest(scopes=(name,)) for name in names])
        for item, result in zip(self.model.items, results, strict=True):
            if any(scope.state is KeyState.DESTROYED for scope in item.scopes):
                assert isinstance(result, KeyVaultError)
            elif any(scope.id not in known for scope in item.scopes):
                assert isinstance(result, UnknownScopeError)
            elif all(known[scope.id] is KeyState.ACTIVE for scope in item.scopes):
                # A fenced scope's key may be gone already, whatever the copy thinks of it.
                fenced = any(scope.state is KeyState.DEACTIVATED for scope in item.scopes)
                assert result == item.content or (fenced and isinstance(result, KeyMissingError))
            else:
                assert isinstance(result, KeyVaultError)
        for name, key in zip(names, issued, strict=True):
            old = [scope for scope in self.model.names[name] if scope.id in known]
            if not old or old[-1].state is KeyState.DESTROYED:
                assert isinstance(key, KeyVaultError)

    # --- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def the_store_agrees(self) -> None:
        """Every scope is what the model says, and no two share a key (G1)."""
        names = list(self.model.names)
        for name, found in zip(names, self.vault.describe(names), strict=True):
            if self.model.newest(name) is None:
                assert isinstance(found, UnknownScopeError)
            else:
                assert isinstance(found, ScopeInfo)
                assert (found.id, found.generation, found.state) == self.told(name)
        scopes = self.model.scopes()
        rows = self.issuing.database.read(lambda c: scope_store.by_id(c, [scope.id for scope in scopes]))
        assert {scope.id: scope.state for scope in scopes} == {row.id: row.state for row in rows.values()}
        assert len({row.key_ref or (row.ring_id, row.slot) for row in rows.values()}) == len(scopes)
        for row, there in zip(rows.values(), keys_there(self.shredding, list(rows.values())), strict=True):
            assert there or row.state in AFTER_A_FENCE, "a key is missing"
            assert not (there and row.state is KeyState.DESTROYED), "a destroyed scope has a key"

    @invariant()
    def keys_are_issued_for_active_scopes_alone(self) -> None:
        """One bad scope never fails the others of a batch (G2, G6)."""
        names = list(self.model.names)
        results = self.vault.generate_data_keys([KeyRequest(scopes=(name,)) for name in names])
        for name, result in zip(names, results, strict=True):
            assert type(result) is (self.model.refusal([name]) or DataKey)

    @invariant()
    def what_is_active_opens_and_nothing_else(self) -> None:
        """Nothing destroyed ever opens again, under any name or generation; everything else does (G4, G6)."""
        for item, result in zip(self.model.items, opened(self.vault, self.model.items), strict=True):
            why = refusal(item.scopes)
            if why is None:
                assert result == item.content
            else:
                assert type(result) is why

    # --- within --------------------------------------------------------------------------------------------------

    def created(self, name: str, info: ScopeInfo) -> None:
        """Take a new generation into the model."""
        scope = self.model.newest(name)
        assert scope is None or scope.state is KeyState.DESTROYED
        assert info.generation == len(self.model.names[name]) + 1
        assert info.state is KeyState.ACTIVE
        assert info.id not in {known.id for known in self.model.scopes()}
        self.model.names[name].append(ModelScope(id=info.id, generation=info.generation))

    def told(self, name: str) -> tuple[bytes, int, KeyState]:
        """Return what the vault must say of a name that exists."""
        scope = self.model.newest(name)
        assert scope is not None
        return scope.id, scope.generation, scope.state

    def made(self, names: Sequence[str], result: bytes | KeyVaultError, content: bytes, *, envelope: bool) -> None:
        """Keep what was sealed, or hold the refusal to the model."""
        why = self.model.refusal(names)
        if why is not None:
            assert type(result) is why
            return
        assert isinstance(result, bytes)
        scopes = tuple(self.model.names[name][-1] for name in names)
        self.model.items.append(Item(data=result, content=content, scopes=scopes, envelope=envelope))

    @staticmethod
    def faulty(home: Home, fault: Fault, action: Callable[[Home], Any]) -> None:
        """Run on a home where `fault` strikes; the errors it leads to are the ones that are documented."""
        armed = False

        def hook(step: str) -> None:
            if armed:
                fault(step)

        database = FaultyDatabase(home.settings.store, hook)
        try:
            broken = assemble(home.settings, database, faulty_engine(home.engine, hook), path=home.path)
            armed = True
            action(broken)
        except (Died, Unavailable, LogError, UnknownScopeError, DestructionPausedError):
            return
        finally:
            database.close()


def opened(vault: KeyVault, items: Sequence[Item]) -> list[bytes | KeyVaultError]:
    """Open all items, in their order."""
    envelopes = iter(vault.open_many([OpenRequest(envelope=item.data) for item in items if item.envelope]))
    keys = iter(vault.unwrap_data_keys([UnwrapRequest(wrapped=item.data) for item in items if not item.envelope]))
    results = [next(envelopes) if item.envelope else next(keys) for item in items]
    return [bytes(result) if isinstance(result, bytearray) else result for result in results]


def keys_there(home: Home, rows: Sequence[ScopeRow]) -> list[bool]:
    """Say of each scope whether the engine has its key: one of its own, or a node of its ring."""
    names = [row.key_ref or key_name(row.ring_id or b"") for row in rows]
    found = [info is not None for info in values_of(home.engine.read_keys(names))]
    reader = RingReader(home.engine, 1)
    rings = {row.ring_id for row, there in zip(rows, found, strict=True) if there and row.ring_id is not None}
    punctured = {ring_id: set(reader.load(ring_id).state.punctured) for ring_id in rings}
    return [
        there and (row.ring_id is None or row.slot not in punctured[row.ring_id])
        for row, there in zip(rows, found, strict=True)
    ]


def destroy(home: Home, names: Sequence[str]) -> object:
    """Destroy these names."""
    return Destroyer(home).destroy(names, ticket="T-1", requested_by="tester")
