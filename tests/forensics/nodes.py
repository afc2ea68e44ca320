"""New nodes: from a snapshot, or by joining a cluster; and what is on their disks once they are stopped."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.forensics.barrier import Opened, open_all
from tests.forensics.carving import entries_in_folder
from tests.servers import VaultServer
from tests.servers.process import wait_until

NewVault = Callable[[], VaultServer]

_LONG_RUN_OF_ZEROS = re.compile(rb"\x00{64,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """All files of a stopped node: their bytes, long runs of zeros left out, and what the node's unseal key opens in them."""

    content: bytes = field(repr=False)
    opened: Opened = field(repr=False)


def disk_of(node: VaultServer) -> Disk:
    """Stop a node and look into its files."""
    node.stop()
    files = [file for file in sorted(node.data_dir.rglob("*")) if file.is_file()]
    return Disk(
        content=b"".join(_LONG_RUN_OF_ZEROS.sub(b"", file.read_bytes()) for file in files),
        opened=open_all(entries_in_folder(node.data_dir), node.unseal_key),
    )


def rebuilt_node(new_vault: NewVault, snapshot: Path, *, of: VaultServer) -> VaultServer:
    """Return a node with a fresh disk that has restored a snapshot of another one."""
    node = new_vault()
    node.restore(snapshot, of=of)
    return node


def joined_node(new_vault: NewVault, leader: VaultServer) -> VaultServer:
    """Return a node with a fresh disk that has joined a leader and holds what the leader holds."""
    node = new_vault()
    name = _wiped(node)
    leadership = {"leader_api_addr": leader.addr, "leader_ca_cert": leader.ca_file.read_text()}
    node.request("POST", "sys/storage/raft/join", leadership)
    node.request("PUT", "sys/unseal", {"key": leader.unseal_key})
    node.unseal_key = leader.unseal_key

    def caught_up() -> bool:
        if node.status()["sealed"]:
            return False
        newest = leader.request("GET", "sys/leader")["raft_applied_index"]
        return bool(node.request("GET", "sys/leader").get("raft_applied_index", 0) >= newest)

    wait_until(caught_up, what="the new node has caught up", log=node.log_file, process=node.process)
    return node


def compact_log(node: VaultServer) -> None:
    """Let raft drop its log up to the last four operations, which it does as part of a snapshot; restarts the node."""
    configuration = json.loads(node.config_file.read_text())
    configuration["storage"]["raft"]["trailing_logs"] = "4"
    node.config_file.write_text(json.dumps(configuration))
    node.restart()
    node.snapshot(node.data_dir.parent / "compacting.snap")


def _wiped(node: VaultServer) -> str:
    """Start a node again on an empty disk, under a name of its own, which is returned."""
    node.stop()
    shutil.rmtree(node.data_dir)
    node.data_dir.mkdir()
    name = f"node-{secrets.token_hex(4)}"
    configuration = json.loads(node.config_file.read_text())
    configuration["storage"]["raft"]["node_id"] = name
    node.config_file.write_text(json.dumps(configuration))
    node.start()
    return name
