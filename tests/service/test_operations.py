"""Running the service: start, stop, restart, and what its processes survive."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from keyvault import connect
from keyvault.results import values_of
from tests.homes import TestHome, embedded_home, in_ring_custody
from tests.service.running import Load, command, eventually, get, running
from tests.serving import issue_token, keyvault

ADA, BOB = "consumer/acct-1/ada", "consumer/acct-1/bob"


@pytest.fixture
def embedded(tmp_path: Path) -> TestHome:
    return embedded_home(tmp_path, custody="ring")


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def load_on(*urls: str, token: str) -> Load:
    with connect(urls[0], token=token) as vault:
        values_of(vault.ensure_scopes([BOB]))
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    return Load(list(urls), "/v1/keys/generate", headers, b'{"keys":[{"scopes":["%s"]}]}' % BOB.encode())


def progress(load: Load) -> Callable[[], bool]:
    wanted = load.answered + 20
    return lambda: load.answered > wanted


def test_a_call_under_way_ends_before_the_service_does_and_idle_connections_close(
    embedded: TestHome, tmp_path: Path
) -> None:
    token = issue_token(embedded.path)
    with running(embedded.path, tmp_path / "log") as service:
        address = httpx2.URL(service.url)
        with socket.create_connection((address.host, address.port or 0)) as slow, httpx2.Client() as idle:
            assert idle.get(f"{service.url}/healthz").status_code == 204
            body = b'{"names":["%s"]}' % ADA.encode()
            head = f"POST /v1/scopes/ensure HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            slow.sendall(head.encode() + b"\r\n\r\n" + body[:5])
            eventually(lambda: b"keyvault_connections 2.0" in get(f"{service.url}/metrics").content)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(1)
            assert service.process.poll() is None
            slow.sendall(body[5:])
            answer = b""
            while part := slow.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer
        assert answer.endswith(b"]}")
        assert service.process.wait(60) == 0
        with pytest.raises(httpx2.ConnectError):
            get(f"{service.url}/healthz")


def test_ctrl_c_ends_the_service_and_all_its_workers(embedded: TestHome, tmp_path: Path) -> None:
    with running(embedded.path, tmp_path / "log", "--workers", "2") as service:
        workers = service.workers()
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(60) == 0
    assert len(workers) == 2
    assert not any(alive(worker) for worker in workers)


def test_a_worker_that_dies_is_replaced_and_none_outlives_its_parent(embedded: TestHome, tmp_path: Path) -> None:
    with running(embedded.path, tmp_path / "log") as service:
        (first,) = service.workers()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: service.workers() not in ([], [first]))
        eventually(lambda: get(f"{service.url}/readyz").status_code == 200)
        (second,) = service.workers()
        service.process.kill()
        eventually(lambda: not alive(second))
    assert any(line["event"].startswith("a worker ended by itself") for line in service.lines())


def test_a_worker_that_hangs_is_replaced(embedded: TestHome, tmp_path: Path) -> None:
    with running(embedded.path, tmp_path / "log", "--workers", "2") as service:
        hanging, other = service.workers()
        os.kill(hanging, signal.SIGSTOP)
        eventually(lambda: len(service.workers()) == 2 and hanging not in service.workers(), seconds=90)
        assert other in service.workers()
        eventually(lambda: get(f"{service.url}/readyz").status_code == 200)
        assert service.stop() == 0
        assert "a worker hangs, and is killed" in {line["event"] for line in service.lines()}


def test_new_workers_take_over_without_a_lost_call(embedded: TestHome, tmp_path: Path) -> None:
    token = issue_token(embedded.path)
    with running(embedded.path, tmp_path / "log", "--workers", "2") as service:
        old = service.workers()
        with load_on(service.url, token=token)() as load:
            eventually(lambda: load.answered > 20)
            service.process.send_signal(signal.SIGHUP)
            eventually(lambda: len(service.workers()) == 2 and not set(service.workers()) & set(old))
            eventually(progress(load))
    assert load.failures == []


@in_ring_custody
def test_nodes_are_restarted_one_after_the_other_without_a_failed_call(home: TestHome, tmp_path: Path) -> None:
    token = issue_token(home.path)
    with contextlib.ExitStack() as nodes:
        one = nodes.enter_context(running(home.path, tmp_path / "log-1"))
        two = nodes.enter_context(running(home.path, tmp_path / "log-2"))
        port = str(httpx2.URL(one.url).port)
        with load_on(one.url, two.url, token=token)() as load:
            eventually(lambda: load.answered > 20)
            assert one.stop() == 0
            again = nodes.enter_context(running(home.path, tmp_path / "log-3", "--port", port))
            assert again.url == one.url
            eventually(progress(load))
            assert two.stop() == 0
            eventually(progress(load))
    assert load.failures == []
    assert load.elsewhere > 0


def test_the_command_line_works_on_a_home_that_is_being_served(embedded: TestHome, tmp_path: Path) -> None:
    token = issue_token(embedded.path)
    month = "communications/acct-1/2026-10"
    (tmp_path / "plain").write_bytes(b"hello")
    with (
        running(embedded.path, tmp_path / "log", "--workers", "2") as service,
        load_on(service.url, token=token)() as load,
    ):
        with connect(service.url, token=token) as vault:
            values_of(vault.ensure_scopes([ADA, month]))
        keyvault(embedded.path, "seal", "--scope", month, str(tmp_path / "plain"), str(tmp_path / "sealed"))
        keyvault(embedded.path, "scope", "suspend", month)
        keyvault(embedded.path, "shred", ADA, "--ticket", "T-1", "--yes")
        eventually(progress(load))
        with connect(service.url, token=token) as vault:
            states = [str(info.state) for info in values_of(vault.describe([ADA, month]))]
    assert states == ["destroyed", "suspended"]
    assert load.failures == []


def test_a_home_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path / "nothing"), capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert b"there is no home" in done.stderr


def test_a_home_whose_store_is_missing_ends_the_start_and_says_why(embedded: TestHome) -> None:
    (embedded.path / "store.db").unlink()
    done = subprocess.run(command(embedded.path, "--port", "0"), capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"keyvault: error: the database " in done.stderr
    assert b"is missing" in done.stderr


def test_a_port_that_is_taken_is_refused(embedded: TestHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(command(embedded.path, "--port", port), capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert b"cannot be listened on" in done.stderr
