"""Nodes of a cluster: how new ones join, how a log is compacted, and what is on a disk once its node is stopped."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from dataclasses import dataclass, field

from tests.forensics.barrier import Opened, open_all
from tests.forensics.carving import entries_in_folder
from tests.servers import VaultServer
from tests.servers.process import wait_until

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


def join(node: VaultServer, leader: VaultServer) -> str:
    """Wipe a node's disk, let it join a leader, wait until it holds what the leader holds; return its name in the cluster."""
    name = _wipe(node)
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
    return name


def leave(name: str, leader: VaultServer) -> None:
    """Take a node out of the cluster, so that the leader does not wait for it."""
    leader.request("POST", "sys/storage/raft/remove-peer", {"server_id": name})


def start_compacted(node: VaultServer) -> None:
    """Start a stopped node and let raft drop its log up to the last four operations, which it does as part of a snapshot."""
    _configure_raft(node, trailing_logs="4")
    node.start()
    node.unseal()
    node.snapshot(node.data_dir.parent / "compacting.snap")


def _wipe(node: VaultServer) -> str:
    """Start a node again on an empty disk, under a new name."""
    node.stop()
    shutil.rmtree(node.data_dir)
    node.data_dir.mkdir()
    name = f"node-{secrets.token_hex(4)}"
    _configure_raft(node, node_id=name)
    node.start()
    return name


def _configure_raft(node: VaultServer, **settings: str) -> None:
    configuration = json.loads(node.config_file.read_text())
    configuration["storage"]["raft"] |= settings
    node.config_file.write_text(json.dumps(configuration))
