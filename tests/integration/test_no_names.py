"""No account and no consumer of the real input is anywhere but where it belongs: not in the log, in Vault, in its audit log, or in errors."""

from __future__ import annotations

import io
import json
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.main import run as run_command
from cli.sweep import STEPS
from keyvault.errors import KeyVaultError
from keyvault.home import AUDITOR, Home, open_engine, vault_settings
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.transit.base import TransitEngine
from keyvault.transit.hashicorp import HashicorpEngine, TokenCredentials
from shredder.attest import attest
from shredder.destroy import Destroyer
from shredder.log.directory import LogDirectory
from shredder.log.publish import publish
from shredder.policy import Requester, RequestKind
from shredder.policy_file import home_policy
from shredder.reporting import record_facts
from shredder.request_execution import execute
from shredder.requests import Requests
from shredder.submission import Submission
from shredder.sweep import sweep
from tests.facts import report
from tests.homes import TestHome
from tests.integration.test_main_job import consumer_of, is_past_due, messages, month_of
from tests.logs import log_key
from tests.names import Names, spellings
from tests.policies import UNLIMITED, built_in
from tests.servers import PostgresServer, VaultServer

ADA, GRACE = (Person(identity=name, display=name) for name in ("ada", "grace"))
SEALED = 40


@pytest.fixture(scope="module")
def names() -> Names:
    """Every account and every consumer of the input."""
    given = messages()
    return Names({message[field] for message in given for field in ("account", "consumer")})


def people_and_months() -> tuple[list[str], list[str]]:
    """Return a scope of each consumer, of each account, and the account-months that are not past due."""
    given = messages()
    people = {message["consumer"]: consumer_of(message) for message in given}
    people |= {message["account"]: consumer_of(message) for message in given}
    return sorted(set(people.values())), sorted({month_of(message) for message in given if not is_past_due(message)})


def live(home: TestHome, tmp_path: Path) -> str:
    """Let all that can happen happen; return what was said on standard error, and tracebacks."""
    people, months = people_and_months()
    this_month = f"communications/{people[0].split('/')[1]}/{datetime.now(UTC):%Y-%m}"
    with home.vault() as vault:
        values_of(vault.ensure_scopes([*people, *months, this_month]))
        for person in people[:SEALED]:
            vault.seal(b"x", [person, this_month])
        values_of(vault.suspend(people[:9]))
        values_of(vault.resume(people[:5]))
    errors = decide(home, people, this_month)
    with home.opened() as opened:
        policy = built_in(limits=UNLIMITED)
        report_ = sweep(opened, policy, steps=STEPS)
        assert (report_.complete, report_.destroyed > 0) == (True, True)
        with closing(open_engine(opened.path, opened.settings, role=AUDITOR)) as auditor:
            assert attest(opened, auditor, ADA).agrees
        opened.log.settle()
    return errors + failing_calls(home, people) + failing_commands(home, people, months, tmp_path)


def decide(home: TestHome, people: list[str], month: str) -> str:
    """Report facts, ask, approve, refuse, and destroy."""
    account = people[-1].split("/")[1]
    with home.opened() as opened:
        policy, now = home_policy(opened), datetime.now(UTC)
        facts = [report("account.opened", now - timedelta(days=400), account=account)]
        facts += [report("account.closed", now - timedelta(days=300), account=account)]
        facts += [report("access.granted", now, user="user-of-" + account, account=account)]
        record_facts(opened, policy, facts, timedelta())
        requests = Requests(opened, policy)

        def ask(ticket: str, kind: RequestKind, *scopes: str) -> bytes:
            asked = Submission(ticket=ticket, requester=Requester.CUSTOMER, kind=kind, scopes=scopes)
            return requests.submit(asked, ADA).row.id

        first = ask("T-" + people[0], RequestKind.ANONYMIZE, *people[:3])
        requests.approve(first, GRACE)
        execute(opened, policy, first)
        ask("T-2", RequestKind.HOLD, people[4])
        requests.cancel(ask("T-3", RequestKind.ANONYMIZE, people[5]), ADA)
        outcomes = Destroyer(opened).destroy([people[6], month], ticket="T-4", requested_by="ada")
        assert [outcome.error for outcome in outcomes] == [None, None]
        return traced(lambda: ask("T-3", RequestKind.ANONYMIZE, people[7]))


def failing_calls(home: TestHome, people: list[str]) -> str:
    """Return the tracebacks of library calls that fail, with those of what they were raised from."""
    with home.vault() as vault:
        results = vault.ensure_scopes([people[0], people[1], people[0] + "/more", people[0].upper()])
        tried = "".join("".join(traceback.format_exception(error)) for error in results if isinstance(error, Exception))
        calls: list[Callable[[], object]] = [
            lambda: vault.seal(b"x", [people[0]]),
            lambda: vault.seal(b"x", [people[0] + "-unknown"]),
            lambda: vault.seal(b"x", [people[8]]),
            lambda: vault.open(b"not an envelope of " + people[0].encode()),
            lambda: vault.suspend_records(people[9], ["r-1"]),
        ]
        tried += "".join(map(traced, calls))
    with home.opened() as opened:
        destroyer = Destroyer(opened)
        tried += traced(lambda: destroyer.destroy([people[0] + "-unknown"], ticket="T", requested_by="ada"))
    return tried


def traced(call: Callable[[], object]) -> str:
    try:
        call()
    except KeyVaultError as error:
        return "".join(traceback.format_exception(error))
    raise AssertionError("the call was to fail")


def failing_commands(home: TestHome, people: list[str], months: list[str], tmp_path: Path) -> str:
    """Return what commands that fail say on standard error."""
    (tmp_path / "in").write_text("x")
    facts = tmp_path / "facts.jsonl"
    facts.write_text(
        json.dumps({"type": "account.mislaid", "account": people[0].split("/")[1], "at": "2026-01-01"}) + "\n"
    )
    source, sink = str(tmp_path / "in"), str(tmp_path / "out")
    commands = [
        ["seal", "--scope", people[0], source, sink],
        ["seal", "--scope", people[8], "--scope", months[0], source, sink],
        ["seal", "--scope", people[9] + "/x/y", source, sink],
        ["open", source, sink],
        ["scope", "show", people[0] + "0"],
        ["scope", "suspend", people[0], people[10] + "0"],
        ["scope", "resume", people[0]],
        ["shred", people[0] + "0", "--ticket", "T-9", "--yes"],
        ["shred", people[0], "--ticket", "T-9", "--yes", "--record", "r-1"],
        ["facts", "import", str(facts)],
        ["log", "prove", people[0] + "0", sink],
        ["log", "prove", people[0], str(tmp_path)],
    ]
    said = ""
    for command in commands:
        err = io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(err):
            assert run_command(["--home", str(home.path), *command]) != 0, command
        assert err.getvalue(), command
        said += err.getvalue()
    return said


def paths(engine: TransitEngine, folder: str = "") -> Iterator[str]:
    """Give every path of the engine's key-value store."""
    for name in engine.list_state(folder):
        path = f"{folder}/{name}" if folder else name
        if name.endswith("/"):
            yield from paths(engine, path.removesuffix("/"))
        else:
            yield path


def listed(home: Home, request: pytest.FixtureRequest) -> bytes:
    """Return the names of all keys and paths of the engine."""
    if home.engine.kind == "embedded":
        return "\n".join([*home.engine.list_keys(), *paths(home.engine)]).encode()
    server: VaultServer = request.getfixturevalue("vault_server")
    token = TokenCredentials(token=server.root_token)
    with closing(HashicorpEngine(vault_settings(home.settings), token)) as admin:
        return "\n".join([*admin.list_keys(), *paths(admin)]).encode()


def stored(home: TestHome, request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    """Return the whole database."""
    if home.store_url.startswith("sqlite"):
        return b"".join(path.read_bytes() for path in home.path.glob("store.db*"))
    dump = tmp_path / "dump.sql"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    server.dump(home.store_url, dump)
    return dump.read_bytes()


def audited(home: Home, request: pytest.FixtureRequest, since: int) -> bytes:
    """Return the lines of Vault's audit log that are about this home's mounts; of an embedded home, its engine's file."""
    if home.engine.kind == "embedded":
        return b"".join(path.read_bytes() for path in Path(str(home.settings.engine_dir)).iterdir())
    server: VaultServer = request.getfixturevalue("vault_server")
    mark = vault_settings(home.settings).prefix.partition("-")[2].encode()
    return b"".join(line for line in server.audited(since) if mark in line)


def test_no_name_of_the_input_is_found_anywhere(
    home: TestHome, names: Names, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    since = audit_size(home, request)
    errors = live(home, tmp_path)
    with home.opened() as opened:
        publish_to = tmp_path / "www"
        publish(LogDirectory(opened.log_directory), publish_to, log_key(opened))
        places = {
            "errors": errors.encode(),
            "log": b"".join(path.read_bytes() for path in opened.log_directory.rglob("*") if path.is_file()),
            "published": b"".join(path.read_bytes() for path in publish_to.rglob("*") if path.is_file()),
            "paths of the log": b"\n".join(str(path).encode() for path in publish_to.rglob("*")),
            "keys and paths": listed(opened, request),
            "audit": audited(opened, request, since),
            "database": stored(home, request, tmp_path),
        }
    for place, content in places.items():
        assert content, f"there is something to look at: {place}"
        assert names.found_in(content) == set(), place


def audit_size(home: TestHome, request: pytest.FixtureRequest) -> int:
    if home.store_url.startswith("sqlite"):
        return 0
    server: VaultServer = request.getfixturevalue("vault_server")
    return server.audit_file.stat().st_size


def test_the_scan_finds_a_name_however_it_is_written(names: Names) -> None:
    for name in ("acct-037", "+15551000862"):
        for before in range(4):
            text = b"." * before + name.encode() + b".."
            for content in (text, b64encode(text), text.hex().encode(), json.dumps(text.decode()).encode()):
                assert len(names.found_in(b"\0" + content)) == 1
        assert all(len(names.found_in(spelling)) == 1 for spelling in spellings(name))
    assert names.found_in(b"acct-03 7, acct-0, +1555100086") == set()
