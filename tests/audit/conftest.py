"""A home in which a thousand keys were destroyed, and the pack of it, made once."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from keyvault.results import values_of
from shredder.destroy import Destroyer
from shredder.policy_file import home_policy
from shredder.reporting import record_facts
from shredder.sweep import sweep
from tests.audit.packs import NOW, Material, material, packed
from tests.facts import report
from tests.homes import embedded_home
from tests.sweeping import told_the_time

DESTROYED = 1_000
AT_ONCE = 10
MONTH = "communications/acct-001/2026-11"


@pytest.fixture(scope="session")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Events of a home: a thousand keys destroyed on tickets, ten at a time, two of records, and one because an account was closed."""
    with pytest.MonkeyPatch.context() as patch:
        clock = told_the_time(patch, NOW)
        patch.setattr(os, "fsync", lambda _: None)  # nothing here is to survive a crash
        home = embedded_home(tmp_path_factory.mktemp("thousand"), clock="simulated")
        people = [f"consumer/acct-{index // 50:03}/c{index}" for index in range(DESTROYED)]
        months = [f"communications/acct-{index:03}/2026-{month:02}" for index in range(30) for month in (9, 10, 11)]
        with home.vault() as vault:
            values_of(vault.ensure_scopes([*months, *people, "consumer/acct-900/ada", "user/eve"]))
        with home.opened() as opened:
            destroyer = Destroyer(opened)
            policy = home_policy(opened)
            closed = report("account.closed", NOW, account="acct-900")
            record_facts(opened, policy, [closed], timedelta(days=7))
            for start in range(0, DESTROYED, AT_ONCE):
                clock.advance(timedelta(seconds=1))
                destroyer.destroy(people[start : start + AT_ONCE], ticket="T-1", requested_by="ada")
            destroyer.destroy_records(MONTH, ["call-1", "call-2"], ticket="T-2", requested_by="ada")
            clock.advance(timedelta(days=8))
            assert sweep(opened, policy, trust_clock=clock.now().date()).destroyed == 1
            return material(opened)


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory, thousand: Material) -> Path:
    """The pack of those events. Leave it as it is."""
    return packed(tmp_path_factory.mktemp("pack"), thousand)
