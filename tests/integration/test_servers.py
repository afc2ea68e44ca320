"""The test servers are what the other tests take them for: real, verified, durable, and separate."""

import os
import select
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.servers import PostgresServer, ServerError, VaultError, VaultServer, places
from tests.servers.certificates import make_certificates
from tests.servers.description import VARIABLE, Servers
from tests.servers.postgres import libpq_url

NewVault = Callable[..., VaultServer]


def test_vault_runs_on_raft_unsealed_and_with_a_sealing_key(vault_server: VaultServer) -> None:
    status = vault_server.status()

    assert status["storage_type"] == "raft"  # dev mode keeps everything in memory
    assert status["type"] == "shamir"
    assert status["initialized"] is True
    assert status["sealed"] is False
    assert (vault_server.data_dir / "vault.db").stat().st_size > 0
    assert b"-dev" not in Path(f"/proc/{vault_server.pid}/cmdline").read_bytes()


def test_vault_is_refused_under_another_authority(vault_server: VaultServer, tmp_path: Path) -> None:
    stranger = replace(vault_server, ca_file=make_certificates(tmp_path).ca_file)

    with pytest.raises(urllib.error.URLError) as refused:
        stranger.status()

    assert isinstance(refused.value.reason, ssl.SSLCertVerificationError)


def test_only_whole_lines_of_the_audit_log_are_read(vault_server: VaultServer, tmp_path: Path) -> None:
    audit = tmp_path / "audit.log"
    audit.write_bytes(b"first\nsecond\nhalf wri")
    server = replace(vault_server, audit_file=audit)

    assert list(server.audited()) == [b"first\n", b"second\n"]
    assert list(server.audited(len("first\n"))) == [b"second\n"]
    assert list(server.audited(len("fir"))) == [b"second\n"]
    assert list(server.audited(audit.stat().st_size)) == []


def test_vault_is_verified_by_name_and_by_address(vault_server: VaultServer) -> None:
    by_name = replace(vault_server, addr=vault_server.addr.replace("127.0.0.1", "localhost"))

    assert by_name.addr != vault_server.addr
    assert by_name.status() == vault_server.status()


def test_vault_tells_a_wrong_token_by_its_status(vault_server: VaultServer) -> None:
    with pytest.raises(VaultError, match="sys/mounts: 403") as refused:
        vault_server.request("GET", "sys/mounts", token="hvs.wrong")

    assert refused.value.status == 403


def test_vault_keeps_its_data_over_seal_restart_and_kill(new_vault: NewVault) -> None:
    vault = new_vault()
    _mount(vault)
    _write(vault, "kept")

    vault.seal()
    assert vault.status()["sealed"] is True
    with pytest.raises(VaultError) as sealed:
        _read(vault)
    assert sealed.value.status == 503
    vault.unseal()
    assert _read(vault) == "kept"

    vault.restart()
    assert _read(vault) == "kept"

    vault.kill()
    with pytest.raises(urllib.error.URLError):
        vault.status()
    vault.start()
    assert vault.status()["sealed"] is True
    vault.unseal()
    assert _read(vault) == "kept"


def test_vault_returns_to_a_snapshot(new_vault: NewVault, tmp_path: Path) -> None:
    vault = new_vault()
    _mount(vault)
    _write(vault, "before")
    vault.snapshot(tmp_path / "snapshot")
    _write(vault, "after")

    vault.restore(tmp_path / "snapshot")

    assert _read(vault) == "before"
    _write(vault, "later")
    assert _read(vault) == "later"


def test_another_vault_takes_over_from_a_snapshot(new_vault: NewVault, tmp_path: Path) -> None:
    vault, other = new_vault(), new_vault()
    _mount(vault)
    _write(vault, "moved")
    vault.snapshot(tmp_path / "snapshot")

    other.restore(tmp_path / "snapshot", of=vault)

    assert _read(other) == "moved"
    assert other.root_token == vault.root_token
    other.restart()
    assert _read(other) == "moved"


@pytest.mark.parametrize(("raw_storage", "status"), [(True, 200), (False, 404)])
def test_raw_storage_is_open_only_where_asked_for(new_vault: NewVault, *, raw_storage: bool, status: int) -> None:
    vault = new_vault(raw_storage=raw_storage)

    assert vault._status_of("sys/raw/core/mounts") == status


def test_vault_accepts_the_audit_device_of_the_handle(new_vault: NewVault) -> None:
    vault = new_vault()

    vault.request("PUT", "sys/audit/file", {"type": "file", "options": {"file_path": str(vault.audit_file)}})
    vault.request("GET", "sys/mounts")

    assert '"path":"sys/mounts"' in vault.audit_file.read_text()


def test_postgres_does_not_run_as_root(postgres_server: PostgresServer) -> None:
    lines = Path(f"/proc/{postgres_server.pid}/status").read_text().splitlines()
    users, groups = (next(line for line in lines if line.startswith(start)).split()[1:] for start in ("Uid:", "Gid:"))

    assert "0" not in users
    assert "0" not in groups


def test_postgres_wants_the_password(postgres_server: PostgresServer) -> None:
    wrong = replace(postgres_server, password="wrong")

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(libpq_url(wrong.url))


def test_postgres_sorts_by_bytes_and_stores_utf8(postgres_url: str) -> None:
    with psycopg.connect(libpq_url(postgres_url)) as connection:
        row = connection.execute(
            "SELECT datcollate, pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
        ).fetchone()

    assert row == ("C.UTF-8", "UTF8")


def test_fresh_databases_are_separate_and_can_be_dropped(postgres_server: PostgresServer, postgres_url: str) -> None:
    other = postgres_server.create_database()
    _execute(postgres_url, "CREATE TABLE things (name text)")

    assert _tables(postgres_url) == ["things"]
    assert _tables(other) == []

    with psycopg.connect(libpq_url(other)):
        postgres_server.drop_database(other)  # somebody is still connected
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(libpq_url(other))


def test_a_database_made_like_another_has_its_tables_and_is_separate(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    _execute(postgres_url, "CREATE TABLE things (name text)")
    copy = postgres_server.create_database(like=postgres_url)
    _execute(postgres_url, "DROP TABLE things")

    assert (_tables(postgres_url), _tables(copy)) == ([], ["things"])
    postgres_server.drop_database(copy)


def test_data_is_in_memory_only_where_there_is_room_and_nobody_wants_it_durable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Path(tempfile.gettempdir())
    monkeypatch.setattr(places, "_MEMORY", tmp_path)
    monkeypatch.setattr(places, "_ENOUGH_BYTES", 1)
    assert places.data_root(durable=False) == tmp_path
    assert places.data_root(durable=True) == disk

    monkeypatch.setattr(places, "_ENOUGH_BYTES", 1 << 60)
    assert places.data_root(durable=False) == disk
    monkeypatch.setattr(places, "_MEMORY", tmp_path / "missing")
    assert places.data_root(durable=False) == disk


def test_a_dump_is_restored_into_a_database_of_its_own(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    _execute(postgres_url, "CREATE TABLE things (name text PRIMARY KEY, value bytea)")
    _execute(postgres_url, r"INSERT INTO things VALUES ('a', '\x00ff0a5c'), ('ü', NULL)")
    postgres_server.dump(postgres_url, tmp_path / "dump.sql")
    _execute(postgres_url, "DELETE FROM things")

    restored = postgres_server.restore(tmp_path / "dump.sql")

    assert _rows(restored) == [("a", b"\x00\xff\n\\"), ("ü", None)]
    assert _rows(postgres_url) == []
    postgres_server.drop_database(restored)


def test_a_broken_dump_is_refused(postgres_server: PostgresServer, tmp_path: Path) -> None:
    (tmp_path / "dump.sql").write_text("CREATE TABLE things (name text); SELECT nonsense;")

    with pytest.raises(ServerError, match=r'psql ended with status 3.*column "nonsense" does not exist'):
        postgres_server.restore(tmp_path / "dump.sql")


@pytest.mark.parametrize("fsync", [True, False])
def test_postgres_keeps_its_data_over_a_crash_of_the_server(
    new_postgres: Callable[..., PostgresServer], *, fsync: bool
) -> None:
    server = new_postgres(fsync=fsync)
    url = server.create_database()
    _execute(url, "CREATE TABLE things (name text)")

    server.stop("immediate")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(libpq_url(url))
    server.start()

    assert _tables(url) == ["things"]
    with psycopg.connect(libpq_url(url)) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on" if fsync else "off",)


def test_servers_that_another_process_owns_can_be_used_but_not_stopped(
    vault_server: VaultServer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    Servers(vault=vault_server, postgres=postgres_server).save(tmp_path / "servers.json")

    attached = Servers.load(tmp_path / "servers.json")

    assert (tmp_path / "servers.json").stat().st_mode & 0o777 == 0o600
    assert attached.vault.status() == vault_server.status()
    assert attached.vault == replace(vault_server, process=None)
    assert attached.postgres == replace(postgres_server, process=None)
    for stop in (attached.vault.stop, attached.vault.kill, attached.postgres.stop):
        with pytest.raises(ServerError, match="shared"):
            stop()


def test_no_secret_is_shown_with_a_handle(vault_server: VaultServer, postgres_server: PostgresServer) -> None:
    shown = repr((vault_server, postgres_server))

    assert vault_server.root_token not in shown
    assert vault_server.unseal_key not in shown
    assert postgres_server.password not in shown


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("raise SystemExit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("os.kill(os.getppid(), signal.SIGTERM); signal.pause()", 143),
        ("os.kill(os.getppid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT); signal.pause()", 130),
    ],
)
def test_servers_end_with_the_command_that_runs_beside_them(command: str, expected: int, tmp_path: Path) -> None:
    status, servers = _run_beside_servers(command, tmp_path)

    assert status == expected
    _assert_ended(servers)
    assert not servers.vault.data_dir.parent.exists()
    assert not servers.postgres.data_dir.parent.exists()


def test_servers_end_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    tidy = f"shutil.rmtree(os.path.dirname(os.environ['{VARIABLE}']))"

    status, servers = _run_beside_servers(f"{tidy}; os.kill(os.getppid(), signal.SIGKILL); signal.pause()", tmp_path)

    assert status == -signal.SIGKILL
    _assert_ended(servers)
    shutil.rmtree(servers.vault.data_dir.parent)
    shutil.rmtree(servers.postgres.data_dir.parent)


def _run_beside_servers(command: str, directory: Path) -> tuple[int, Servers]:
    """Run Python statements under `python -m tests.servers`; return its status and what it told the command."""
    note = directory / "note"
    program = f"import os, shutil, signal; shutil.copy(os.environ['{VARIABLE}'], {str(note)!r}); {command}"
    done = subprocess.run([sys.executable, "-m", "tests.servers", "--", sys.executable, "-c", program], check=False)
    return done.returncode, Servers.load(note)


def _assert_ended(servers: Servers) -> None:
    for pid in (servers.vault.pid, servers.postgres.pid):
        _wait_for_end(pid)


def _wait_for_end(pid: int) -> None:
    """Return when a process that is no child of ours has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([descriptor], [], [], 30)
    finally:
        os.close(descriptor)
    assert ready, f"process {pid} outlived its parent"


def _mount(vault: VaultServer) -> None:
    vault.request("POST", "sys/mounts/things", {"type": "kv", "options": {"version": "1"}})


def _write(vault: VaultServer, value: str) -> None:
    vault.request("POST", "things/one", {"value": value})


def _read(vault: VaultServer) -> Any:
    return vault.request("GET", "things/one")["data"]["value"]


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(libpq_url(url)) as connection:
        connection.execute(statement.encode())


def _rows(url: str) -> list[Any]:
    with psycopg.connect(libpq_url(url)) as connection:
        return connection.execute("SELECT name, value FROM things ORDER BY name").fetchall()


def _tables(url: str) -> list[str]:
    with psycopg.connect(libpq_url(url)) as connection:
        return [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
