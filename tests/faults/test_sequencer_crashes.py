"""SIGKILL at every step of the sequencer: no event is lost, none is logged twice, and no checkpoint is ever taken back."""

from __future__ import annotations

from keyvault import KeyVault
from keyvault.home import Home
from keyvault.results import values_of
from shredder.log.checkpoint import Checkpoint, open_checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.merkle import tree_root
from tests.faults.killing import survives
from tests.homes import TestHome, in_dedicated_custody
from tests.logs import check_log, log_key

MOST_STEPS = 200


def settle(home: Home) -> None:
    home.log.settle()


@in_dedicated_custody
def test_a_sequencer_killed_at_a_step_is_finished_by_the_next(home: TestHome) -> None:
    seen: list[Checkpoint] = []
    for step in range(1, MOST_STEPS):
        with home.opened() as opened:
            values_of(KeyVault(opened).ensure_scopes([f"consumer/acct-001/{step}"]))
        finished = survives(home, "shredder", settle, step, sequencing=True)
        with home.opened() as opened:
            note = LogDirectory(opened.log_directory).checkpoint()
            if note is not None:
                seen.append(open_checkpoint(note, log_key(opened)))
            settle(opened)
            final = check_log(opened)
        if finished:
            break
    assert 10 < step < MOST_STEPS - 1
    with home.opened() as opened:
        node = LogDirectory(opened.log_directory).node(final.size)
        assert [checkpoint.size for checkpoint in seen] == sorted(checkpoint.size for checkpoint in seen)
        for checkpoint in seen:
            assert checkpoint.root == tree_root(checkpoint.size, node)


@in_dedicated_custody
def test_what_is_logged_is_all_that_was_created_and_its_first_key_is_issued_after_a_kill(home: TestHome) -> None:
    """A creator that dies right after its transaction leaves a scope whose first key another process waits for."""
    name = "consumer/acct-001/ann"

    def create(opened: Home) -> None:
        values_of(KeyVault(opened).ensure_scopes([name]))

    assert survives(home, "issuer", create, MOST_STEPS)
    with home.opened("issuer") as opened:
        assert LogDirectory(opened.log_directory).checkpoint() is None
        KeyVault(opened).seal(b"x", [name])
        check_log(opened)
