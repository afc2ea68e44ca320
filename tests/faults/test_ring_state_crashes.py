"""SIGKILL at every engine call of creating, replacing and destroying a ring: the next run finishes, and no ring is ever lost."""

import os
import secrets
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyvault.custody import ring_sealing as sealing
from keyvault.custody.ring_state import RingStates
from keyvault.errors import CiphertextRefusedError, KeyMissingError
from keyvault.testing import faulty_engine
from keyvault.transit.base import KeyInfo, TransitEngine
from keyvault.transit.embedded import EmbeddedEngine
from keyvault.transit.hashicorp import HashicorpEngine, VaultSettings
from keyvault.vault_setup import issue_credentials, set_up_vault
from tests.faults.killing import FINISHED, PATIENCE_SECONDS, Countdown
from tests.forking import fork
from tests.homes import own_mounts
from tests.rings import (
    CAPACITY,
    History,
    Shares,
    entries,
    new_ring,
    shares,
    shred,
    stored_shares,
    without,
)
from tests.servers import VaultServer

LATER = 4
"""A slot that the next run takes besides."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """An engine to work in, and how another process opens it as the role that does a thing in production."""

    engine: TransitEngine
    open_as: Callable[[str], TransitEngine]

    def survives(self, role: str, action: Callable[[RingStates], object], fatal: int) -> bool:
        """Run `action` in a process of its own that dies at step `fatal`; return whether it came to its end before."""
        child = fork()
        if child == 0:
            self._run(role, action, Countdown(fatal))
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return False
        assert os.WEXITSTATUS(status) == FINISHED, "the action failed by itself; its traceback is above"
        return True

    def _run(self, role: str, action: Callable[[RingStates], object], hook: Countdown) -> None:
        code = 1
        signal.alarm(PATIENCE_SECONDS)
        try:
            action(RingStates(faulty_engine(self.open_as(role), hook), 1))
            code = FINISHED
        except BaseException:  # noqa: BLE001 - whatever it was must not run on into pytest
            traceback.print_exc()
        finally:
            os._exit(code)


@pytest.fixture(params=["embedded", "hashicorp"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "embedded":
        path = tmp_path / "engine" / "keys.db"
        with closing(EmbeddedEngine(path, create=True)) as engine:
            yield Place(engine=engine, open_as=lambda _role: EmbeddedEngine(path))
        return
    server: VaultServer = request.getfixturevalue("vault_server")
    settings: VaultSettings = own_mounts(server)
    set_up_vault(settings, server.root_token, server.audit_file)
    given = {role: issue_credentials(settings, server.root_token, role) for role in ("issuer", "shredder")}
    with closing(HashicorpEngine(settings, issue_credentials(settings, server.root_token, "restorer"))) as engine:
        yield Place(engine=engine, open_as=lambda role: HashicorpEngine(settings, given[role]))


def creating(ring_id: bytes) -> Callable[[RingStates], object]:
    return lambda states: states.create(ring_id, CAPACITY)


def shredding(ring_id: bytes) -> Callable[[RingStates], object]:
    return lambda states: shred(states, ring_id, 3)


def destroying(ring_id: bytes) -> Callable[[RingStates], object]:
    return lambda states: states.destroy(ring_id)


def test_a_creator_killed_at_any_step_is_finished_by_the_next(place: Place) -> None:
    fatal, survived = 0, False
    while not survived:
        fatal += 1
        ring_id = secrets.token_bytes(16)
        survived = place.survives("issuer", creating(ring_id), fatal)
        states = RingStates(place.engine, 1)
        found = _found(states, ring_id)
        assert states.create(ring_id, CAPACITY).epoch == 0
        made = stored_shares(states, ring_id)
        assert None not in made.values()
        assert found in (None, made), "a ring that could be read once is still the same"
        assert found is not None or not survived
    assert fatal > 20


def _found(states: RingStates, ring_id: bytes) -> Shares | None:
    try:
        return stored_shares(states, ring_id)
    except KeyMissingError:
        return None


def test_a_replacement_killed_at_any_step_leaves_the_old_state_or_the_new_and_the_next_run_finishes(
    place: Place,
) -> None:
    history = History(place.engine)
    fatal, survived, flipped = 0, False, set()
    while not survived:
        fatal += 1
        states, ring_id, before = new_ring(place.engine)
        survived = place.survives("shredder", shredding(ring_id), fatal)
        found = stored_shares(states, ring_id)
        assert found in (before, without(before, 3))
        flipped.add(found == without(before, 3))
        if survived:
            _check_dead(place.engine, history, states, ring_id, before)
        stored = shred(states, ring_id, 3, LATER)
        assert shares(stored.state) == stored_shares(states, ring_id) == without(before, 3, LATER)
        assert not {before[3], before[LATER]} & history.derivable(ring_id)
        assert len(entries(place.engine, ring_id)) <= 2, "no more than one that may be under way"
        assert len(entries(place.engine, shred(states, ring_id, 3).ring_id)) == 1
    assert flipped == {False, True}
    assert fatal > 36


def _check_dead(engine: TransitEngine, history: History, states: RingStates, ring_id: bytes, before: Shares) -> None:
    stored = states.load(ring_id)
    (key,) = engine.read_keys([sealing.key_name(ring_id)])
    assert isinstance(key, KeyInfo)
    assert key.min_available_version == stored.key_version
    assert entries(engine, ring_id) == [stored.current.entry]
    assert before[3] not in history.derivable(ring_id)


def test_resuming_finishes_what_was_flipped_and_changes_nothing_else(place: Place) -> None:
    fatal, survived = 0, False
    while not survived:
        fatal += 1
        states, ring_id, before = new_ring(place.engine)
        survived = place.survives("shredder", shredding(ring_id), fatal)
        found = stored_shares(states, ring_id)
        dead = states.load(ring_id).previous
        resumed = states.resume(ring_id)
        assert shares(resumed.state) == stored_shares(states, ring_id) == found
        (key,) = place.engine.read_keys([sealing.key_name(ring_id)])
        assert isinstance(key, KeyInfo)
        assert max(key.min_available_version, 1) == resumed.key_version
        assert (dead is None) == (found == before)
        current = {name for name in entries(place.engine, ring_id) if sealing.epoch_of(name) <= resumed.epoch}
        assert current == {resumed.current.entry}


def test_a_destruction_killed_at_any_step_is_finished_by_the_next(place: Place) -> None:
    history = History(place.engine)
    fatal, survived = 0, False
    while not survived:
        fatal += 1
        states, ring_id, before = new_ring(place.engine)
        after = shares(shred(states, ring_id, 3).state)
        survived = place.survives("shredder", destroying(ring_id), fatal)
        try:
            assert stored_shares(states, ring_id) == after, "all of it, or nothing"
        except (KeyMissingError, CiphertextRefusedError):
            assert fatal > 1
        else:
            assert not survived
        states.destroy(ring_id)
        assert place.engine.read_keys([sealing.key_name(ring_id)]) == [None]
        assert place.engine.get_state(sealing.pointer_path(ring_id, 1)) is None
        assert entries(place.engine, ring_id) == []
        assert history.derivable(ring_id) == set()
        assert None not in before.values()
    assert fatal > 10
