"""The log of a home: what waits for it, what refuses to go on, and what rival sequencers may not do to it."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from keyvault import KeyRequest, KeyVault
from keyvault.errors import LogError, RestoreDetected, Unavailable
from keyvault.events import Event, EventType
from keyvault.home import Home
from keyvault.log import HomeLog
from keyvault.log_head import head_path, read_head
from keyvault.results import value_of, values_of
from keyvault.states import KeyState
from keyvault.store import log as log_store
from keyvault.store import outbox as outbox_store
from keyvault.store.tables import outbox, system
from keyvault.testing import faulty_engine
from keyvault.transit.base import TransitEngine
from shredder.destroy import Destroyer
from shredder.log import note, sequencer, sequencing
from shredder.log.checkpoint import parse_text
from shredder.log.directory import LogDirectory
from shredder.log.merkle import tree_root
from shredder.log.sequencer import Sequencer
from shredder.log.tiles import Tile
from tests.homes import TestHome, in_dedicated_custody
from tests.logs import check_log

pytestmark = in_dedicated_custody
ANN, BOB, CARL = (f"consumer/acct-001/{name}" for name in ("ann", "bob", "carl"))


@pytest.fixture
def opened(home: TestHome) -> Iterator[Home]:
    with home.opened() as made:
        yield made


@pytest.fixture
def issuing(home: TestHome) -> Iterator[Home]:
    with home.opened("issuer") as made:
        yield made


def create(home: Home, *names: str) -> None:
    values_of(KeyVault(home).ensure_scopes(names))


def suspend_and_resume(home: Home, name: str) -> None:
    """Add two events."""
    vault = KeyVault(home)
    values_of(vault.suspend([name]))
    values_of(vault.resume([name]))


def sequencer_engine(home: Home) -> TransitEngine:
    engine = home.log.context.open_engine()
    assert engine is not None
    return engine


def with_engine(home: Home, engine: TransitEngine | None) -> Home:
    """Return the home with a log that this engine, or none, writes."""
    return replace(home, log=HomeLog(replace(home.log.context, open_engine=lambda: engine)))


# --- the gate ------------------------------------------------------------------------------------------------------------


def test_the_first_key_of_a_scope_waits_for_its_creation_and_later_ones_do_not(issuing: Home) -> None:
    create(issuing, ANN)
    (row,) = KeyVault(issuing).describe([ANN])
    assert issuing.database.read(lambda c: log_store.held(c, [value_of(row).id])) == {value_of(row).id}
    KeyVault(issuing).seal(b"x", [ANN])
    assert issuing.database.read(lambda c: log_store.held(c, [value_of(row).id])) == set()
    size = check_log(issuing).size
    KeyVault(issuing).seal(b"x", [ANN])
    assert check_log(issuing).size == size


@pytest.mark.parametrize("home", ["vault+postgresql"], indirect=True)
def test_a_creation_that_commits_beside_a_checkpoint_without_it_is_still_held(
    opened: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row ids are not given out in the order of commits: what another has committed since may be covered first."""
    create(opened, CARL)
    inserted, commit = threading.Event(), threading.Event()
    append = outbox_store.append

    def appended(connection: sa.Connection, events: Sequence[Event]) -> int | None:
        last = append(connection, events)
        if events[0].type is EventType.SCOPE_CREATED:
            inserted.set()
            assert commit.wait(30)
        return last

    hook = Pausing("before sign")
    with ThreadPoolExecutor(2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(outbox_store, "append", appended)
            creating = pool.submit(create, opened, ANN)
            assert inserted.wait(30)
        suspend_and_resume(opened, CARL)
        sequencing_ = pool.submit(Sequencer(opened.log.context, faulty_engine(sequencer_engine(opened), hook)).advance)
        assert hook.reached.wait(30)
        commit.set()
        creating.result(30)
        hook.go_on.set()
        sequencing_.result(30)
    (ann,) = values_of(KeyVault(opened).describe([ANN]))
    assert opened.database.read(lambda c: log_store.held(c, [ann.id])) == {ann.id}
    opened.log.settle()
    assert opened.database.read(lambda c: log_store.held(c, [ann.id])) == set()
    check_log(opened)


def test_without_a_sequencer_new_scopes_get_no_key_and_others_do(
    issuing: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(issuing, ANN)
    issuing.log.settle()
    create(issuing, BOB)
    monkeypatch.setattr(sequencing, "PATIENCE", 0.05)
    vault = KeyVault(with_engine(issuing, None))
    new, both, old = vault.generate_data_keys([KeyRequest(scopes=names) for names in ((BOB,), (ANN, BOB), (ANN,))])
    assert isinstance(new, Unavailable)
    assert "no credentials of the role sequencer" in str(new)
    assert isinstance(both, Unavailable)
    value_of(old).wipe()
    value_of(KeyVault(issuing).generate_data_keys([KeyRequest(scopes=(BOB,))])[0]).wipe()


def test_a_destruction_is_acknowledged_once_its_evidence_is_in_the_log(
    opened: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(opened, ANN)
    monkeypatch.setattr(sequencing, "PATIENCE", 0.05)
    with pytest.raises(Unavailable, match="done, but not acknowledged"):
        Destroyer(with_engine(opened, None)).destroy([ANN], ticket="T-1", requested_by="ada")
    assert value_of(KeyVault(opened).describe([ANN])[0]).state is KeyState.DESTROYED
    with pytest.raises(
        Unavailable, match="done, but not acknowledged"
    ):  # nor by a second run, which finds nothing to do
        Destroyer(with_engine(opened, None)).destroy([ANN], ticket="T-1", requested_by="ada")
    Destroyer(opened).destroy([ANN], ticket="T-1", requested_by="ada")
    assert b'"type":"key.destroyed"' in list(LogDirectory(opened.log_directory).entries(0, check_log(opened).size))[-1]


def test_many_that_wait_share_a_checkpoint(issuing: Home) -> None:
    create(issuing, ANN)
    issuing.log.settle()
    before = check_log(issuing).size
    names = [f"consumer/acct-002/{number}" for number in range(20)]

    def one(name: str) -> bytes:
        return KeyVault(issuing).seal(b"x", [name])

    create(issuing, *names)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(one, names))) == len(names)
    assert check_log(issuing).size == before + len(names)


def test_partial_tiles_go_when_theirs_is_full(opened: Home) -> None:
    create(opened, ANN)
    for _ in range(130):
        suspend_and_resume(opened, ANN)
        if check := opened.database.read(log_store.last_unlogged):
            assert check
            opened.log.settle()
    assert check_log(opened).size > 256
    assert not (opened.log_directory / f"{Tile(0, 0).path}.p").exists()
    assert not (opened.log_directory / f"{Tile(None, 0).path}.p").exists()


# --- what is from different moments, or damaged ----------------------------------------------------------------------------


def test_an_older_database_is_noticed(opened: Home) -> None:
    create(opened, ANN)
    opened.log.settle()
    before = opened.database.read(log_store.recorded)
    suspend_and_resume(opened, ANN)
    opened.log.settle()

    def go_back(connection: sa.Connection) -> None:
        connection.execute(sa.delete(outbox).where(outbox.c.leaf_index >= before.size))
        connection.execute(sa.update(system).values(log_size=before.size, checkpoint=before.note))

    opened.database.write(go_back)
    with pytest.raises(RestoreDetected, match="misses events"):
        Sequencer(opened.log.context, sequencer_engine(opened)).advance()
    suspend_and_resume(opened, ANN)
    with pytest.raises(RestoreDetected, match="misses events"):
        opened.log.settle()


def test_other_events_under_the_same_indices_are_noticed(opened: Home) -> None:
    create(opened, ANN)
    opened.log.settle()
    before = opened.database.read(log_store.recorded)
    suspend_and_resume(opened, ANN)
    opened.log.settle()
    size = opened.database.read(log_store.recorded).size

    def replace_two(connection: sa.Connection) -> None:
        connection.execute(sa.delete(outbox).where(outbox.c.leaf_index >= before.size))
        connection.execute(sa.update(system).values(log_size=before.size, checkpoint=before.note))

    opened.database.write(replace_two)
    suspend_and_resume(opened, ANN)
    opened.database.write(lambda c: log_store.assign(c, entries=10, size=10_000))
    with pytest.raises(RestoreDetected, match="not those in the log"):
        opened.log.settle()
    assert read_head(opened.engine, 1).size == size


def test_an_older_engine_is_noticed(opened: Home) -> None:
    create(opened, ANN)
    opened.log.settle()
    engine = sequencer_engine(opened)
    older = engine.get_state(head_path(1))
    suspend_and_resume(opened, ANN)
    opened.log.settle()
    newest = engine.get_state(head_path(1))
    assert older is not None
    assert newest is not None
    engine.put_state(head_path(1), older.value, expected_version=newest.version)
    suspend_and_resume(opened, ANN)
    with pytest.raises(RestoreDetected, match="restored from another moment"):
        opened.log.settle()


def test_a_lost_or_altered_directory_is_noticed(home: TestHome) -> None:
    def damaged(change: Callable[[Home], object], message: str) -> None:
        with home.opened() as opened:  # as a new process, with nothing in memory
            kept = opened.log_directory.with_name("kept")
            shutil.copytree(opened.log_directory, kept)
            change(opened)
            suspend_and_resume(opened, ANN)
            checkpoint = opened.database.read(log_store.recorded)
            with pytest.raises(LogError, match=message):
                opened.log.settle()
            assert opened.database.read(log_store.recorded) == checkpoint
            shutil.rmtree(opened.log_directory, ignore_errors=True)
            kept.rename(opened.log_directory)
            opened.log.settle()
            check_log(opened)

    def flip(level: int | None) -> Callable[[Home], object]:
        def change(opened: Home) -> None:
            size = opened.database.read(log_store.recorded).size
            path = opened.log_directory / Tile(level, 0, size).path
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)

        return change

    with home.opened() as opened:
        create(opened, ANN, BOB)
        opened.log.settle()
    damaged(lambda opened: shutil.rmtree(opened.log_directory), "is missing")
    damaged(flip(0), "is not this log")
    damaged(flip(None), "not what its tile says")


def test_a_damaged_checkpoint_is_replaced_by_the_next(opened: Home) -> None:
    create(opened, ANN)
    opened.log.settle()
    (opened.log_directory / "checkpoint").write_bytes(b"nothing that anybody signed\n")
    suspend_and_resume(opened, ANN)
    opened.log.settle()
    check_log(opened)


def test_a_full_disk_signs_nothing_and_is_over_when_there_is_room(
    opened: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(opened, ANN)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LogDirectory, "_put", full)
        with pytest.raises(LogError, match="No space left on device"):
            opened.log.settle()
    assert read_head(opened.engine, 1).size == 0
    opened.log.settle()
    check_log(opened)


# --- rivals -------------------------------------------------------------------------------------------------------------


class Pausing:
    """A hook that waits at one step until it is let go on, and writes down what was signed."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, step: str) -> None:
        if step == self.step and not self.reached.is_set():
            self.reached.set()
            assert self.go_on.wait(30)


@pytest.mark.parametrize(
    "step", [f"{when} {call}" for call in ("get_state", "put_state", "sign") for when in ("before", "after")]
)
def test_a_sequencer_that_pauses_while_another_takes_over_does_no_harm(
    opened: Home, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = recorded_signatures(monkeypatch)
    create(opened, ANN)
    hook = Pausing(step)
    slow = Sequencer(opened.log.context, faulty_engine(sequencer_engine(opened), hook))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(slow.advance)
        assert hook.reached.wait(30)
        suspend_and_resume(opened, ANN)
        rival = Sequencer(opened.log.context, sequencer_engine(opened))
        for _ in range(2):
            rival.advance()
        between = check_log(opened)
        suspend_and_resume(opened, ANN)
        hook.go_on.set()
        running.result(30)
    assert check_log_covers(opened, between.size)
    opened.log.settle()
    final = check_log(opened)
    one_root_a_size(signed, opened, final.size)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("file", ["tile", "checkpoint"])
def test_a_sequencer_that_pauses_at_a_file_leaves_the_newest_checkpoint(
    opened: Home, monkeypatch: pytest.MonkeyPatch, file: str, when: str
) -> None:
    signed = recorded_signatures(monkeypatch)
    create(opened, ANN)
    hook = Pausing(f"{when} {file}")
    original = LogDirectory._put
    slow = Sequencer(opened.log.context, sequencer_engine(opened))

    def put(self: LogDirectory, path: Any, data: bytes) -> Any:
        mine = self is slow._directory
        name = "checkpoint" if path.name == "checkpoint" else "tile"
        if mine:
            hook(f"before {name}")
        result = original(self, path, data)
        if mine:
            hook(f"after {name}")
        return result

    monkeypatch.setattr(LogDirectory, "_put", put)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(slow.advance)
        assert hook.reached.wait(30)
        suspend_and_resume(opened, ANN)
        rival = Sequencer(opened.log.context, sequencer_engine(opened))
        for _ in range(2):
            rival.advance()
        hook.go_on.set()
        running.result(30)
    final = check_log(opened)
    one_root_a_size(signed, opened, final.size)


def test_rivals_that_sequence_at_once_make_one_log(opened: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = recorded_signatures(monkeypatch)
    create(opened, ANN)
    ended = threading.Event()

    def write(_number: int) -> None:
        sequencer = Sequencer(opened.log.context, sequencer_engine(opened))
        while not ended.is_set():
            sequencer.advance()

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(write, number) for number in range(3)]
        for _ in range(20):
            suspend_and_resume(opened, ANN)
        ended.set()
        for each in running:
            each.result(60)
    opened.log.settle()
    final = check_log(opened)
    one_root_a_size(signed, opened, final.size)


def test_a_lost_answer_to_the_heads_move_is_asked_for(opened: Home) -> None:
    create(opened, ANN)

    def hook(step: str) -> None:
        if step == "after put_state":
            raise Unavailable("the answer was lost")

    Sequencer(opened.log.context, faulty_engine(sequencer_engine(opened), hook)).advance()
    check_log(opened)


def recorded_signatures(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Write down every text that is given to the log key."""
    signed: list[bytes] = []
    original = note.sign_note

    def sign_note(text: str, key: Any, sign: Callable[[bytes], bytes]) -> bytes:
        signed.append(text.encode())
        return original(text, key, sign)

    monkeypatch.setattr(sequencer, "sign_note", sign_note)
    return signed


def check_log_covers(home: Home, size: int) -> bool:
    """Tell whether the checkpoint in the directory is at least of this size."""
    return (
        parse_text((LogDirectory(home.log_directory).checkpoint() or b"").decode().split("\n\n")[0] + "\n").size >= size
    )


def one_root_a_size(signed: list[bytes], home: Home, size: int) -> None:
    """Check that every checkpoint that was signed is a prefix of the log."""
    node = LogDirectory(home.log_directory).node(size)
    assert signed
    for text in signed:
        checkpoint = parse_text(text.decode())
        assert checkpoint.root == tree_root(checkpoint.size, node)
