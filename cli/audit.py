"""For auditors: a pack of evidence, and its verification, which needs nothing but the pack."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.app import App, json_option
from cli.failures import EXIT_UNVERIFIED

if TYPE_CHECKING:
    from shredder.audit.fold import Ledger
    from shredder.audit.population import Reconciliation
    from shredder.log.note import VerifierKey
    from shredder.verify import Evidence, Sampled, Verified


@click.group()
def audit() -> None:
    """Make and verify evidence for auditors."""


@audit.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def pack(app: App, directory: Path) -> None:
    """Make an audit pack in DIR: the whole log as it stands now, and what verifies it without this program, too.

    DIR must not exist, be empty, or be an older pack of the same log, which is replaced. README.txt in it has the commands.
    """
    from shredder.audit.home_pack import pack_home

    with app.opened() as home, ExitStack() as bars:
        packed = pack_home(home, directory, lambda size: bars.enter_context(app.progress("entries", size)))
    checkpoint = packed.checkpoint
    app.emit(
        {
            "directory": str(directory),
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "proofs": packed.proofs,
            "account_months": packed.account_months,
        }
    )
    app.say(f"log             {checkpoint.origin}")
    app.say(f"entries         {checkpoint.size}")
    app.say(f"root            {checkpoint.root.hex()}")
    app.say(f"proofs          {packed.proofs}")
    app.say(f"account-months  {packed.account_months}")
    app.say(f"The pack is in {directory}; README.txt in it says how to verify it.")


@audit.command()
@click.argument("billing", metavar="CSV", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@json_option
@click.pass_obj
def population(app: App, billing: Path, out: str, force: bool) -> None:
    """Write billing's CSV to OUT with a column more: the commitment of each account-month's scope, where there is one.

    `audit verify --population OUT` then finds each row at once, where it has to try a month's rows on each other otherwise. It believes none of
    it: what it finds there is verified as if it had searched.
    """
    from cli.files import STANDARD, check_pair, output
    from shredder.audit.locating import locate

    if app.as_json and out == STANDARD:
        raise click.UsageError("with --json OUT must be a file: standard output holds the JSON object")
    check_pair(str(billing), out, force=force)
    with app.opened() as home:
        located = locate(home, _read_text(billing), billing.name)
    with output(out, force=force) as sink:
        sink.write(located.text.encode())
    app.emit({"rows": located.rows, "found": located.found})
    app.note(f"{located.found} of {located.rows} rows have a scope")


@audit.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--log-key", type=click.Path(path_type=Path), help="File with the log's key, had on another way than the pack."
)
@click.option(
    "--previous",
    type=click.Path(path_type=Path),
    help="Checkpoint kept from the last audit: nothing was removed since.",
)
@click.option(
    "--population", type=click.Path(path_type=Path), help="CSV of billing, with columns account and month (2026-11)."
)
@click.option(
    "--sample", type=click.IntRange(1, 100_000), help="Verify and show only so many entries, which the seed chooses."
)
@click.option("--seed", help="With --sample: any text; the same seed chooses the same entries.")
@click.option("--at", metavar="TIME", help="When everything due must be destroyed by, ISO 8601; now by default.")
@json_option
@click.pass_obj
def verify(  # noqa: PLR0917 - click hands them over
    app: App,
    directory: Path,
    log_key: Path | None,
    previous: Path | None,
    population: Path | None,
    sample: int | None,
    seed: str | None,
    at: str | None,
) -> int:
    """Verify the audit pack in DIR, offline: no home, no network, no database, no Vault.

    Everything is worked out again: signature, tree, every file, and that each destruction has its cause and its proof. One line says what is
    wrong and where, and the exit code is then 3. Without --log-key the pack is verified by its own key, and proves only that it is
    consistent with itself.
    """
    if (sample is None) != (seed is None):
        raise click.UsageError("--sample and --seed go together")
    if sample is not None and (population is not None or at is not None):
        raise click.UsageError("a sample says nothing of all: leave out --population and --at, or --sample")
    from shredder.verify import verify_pack, verify_sample

    moment = _moment(at)
    evidence = _evidence(log_key, previous, population)
    if sample is not None and seed is not None:
        verified, sampled = verify_sample(directory, evidence, seed=seed, count=sample)
        _show_sample(app, verified, sampled)
        return _outcome(verified)
    with app.progress("entries", None) as advance:
        verified = verify_pack(directory, evidence, at=moment, progress=advance)
    _show(app, verified)
    return _outcome(verified)


def _outcome(verified: Verified) -> int:
    return EXIT_UNVERIFIED if verified.findings else 0


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"--at is not an ISO 8601 time: {text}") from error
    if moment.tzinfo is None:
        raise click.UsageError(f"--at needs a time zone, for example {text}Z")
    return moment.astimezone(UTC)


def _evidence(log_key: Path | None, previous: Path | None, population: Path | None) -> Evidence:
    from shredder.verify import Evidence

    return Evidence(
        log_key=None if log_key is None else _read_key(log_key),
        previous=None if previous is None else previous.read_bytes(),
        billing=None if population is None else _read_text(population),
        billing_name="billing" if population is None else population.name,
    )


def _read_key(path: Path) -> VerifierKey:
    from keyvault.errors import VerificationError
    from shredder.log.note import parse_verifier_key

    try:
        return parse_verifier_key(_read_text(path))
    except VerificationError as error:
        raise click.UsageError(f"{path} is not the key of a log: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is not UTF-8") from error


# --- what was found -------------------------------------------------------------------------------------------------


def _show(app: App, verified: Verified) -> None:
    ledger = verified.ledger
    population = verified.reconciliation
    app.emit(
        {
            **_as_json(verified),
            **({} if ledger is None else _ledger_as_json(ledger)),
            "last_destroyed": verified.last_destroyed,
            "last_backup_ends": verified.last_horizon,
            "population": None if population is None else _population_as_json(population),
        }
    )
    _show_checkpoint(app, verified)
    if ledger is not None:
        _show_ledger(app, ledger, verified)
    if population is not None:
        counts = f"{len(population.matched)} matched, {len(population.missing)} missing, {len(population.extra)} extra"
        app.say(f"population      {counts}")
    _show_findings(app, verified, "Everything in this pack was verified")


def _show_ledger(app: App, ledger: Ledger, verified: Verified) -> None:
    attested = ledger.attested
    room = "not known: the engine's own inventory was never attested"
    if attested is not None:
        room = f"{attested.room} slots, as of {attested.at.isoformat()}"
    app.say(f"created         {ledger.created} scopes")
    app.say(f"destroyed       {ledger.destroyed}; and {ledger.records_destroyed} single records")
    app.say(f"pending         {len(ledger.pending)}: fenced, and not proven gone yet")
    app.say(f"live            {ledger.live}")
    app.say(f"no request      {ledger.without_request} destructions that somebody ran without one")
    app.say(f"owed            {len(ledger.owed)} approvals of what was done under break-glass")
    app.say(f"unlogged        room for {room}")
    if verified.last_destroyed is not None:
        app.say(f"last destroyed  {verified.last_destroyed}")
        app.say(f"last backup     ends by {verified.last_horizon}")


def _ledger_as_json(ledger: Ledger) -> dict[str, object]:
    attested = ledger.attested
    return {
        "at": ledger.at.isoformat(),
        "created": ledger.created,
        "destroyed": ledger.destroyed,
        "records_destroyed": ledger.records_destroyed,
        "pending": len(ledger.pending),
        "live": ledger.live,
        "without_request": ledger.without_request,
        "owed": list(ledger.owed),
        "unlogged_room": None if attested is None else attested.room,
        "attested_at": None if attested is None else attested.at.isoformat(),
        "policy": ledger.policy,
    }


def _show_sample(app: App, verified: Verified, sampled: Sequence[Sampled]) -> None:
    app.emit({**_as_json(verified), "sample": [_sampled_as_json(item) for item in sampled]})
    _show_checkpoint(app, verified)
    for item in sampled:
        app.say(f"entry {item.index}: {item.entry.decode(errors='backslashreplace')}")
    _show_findings(
        app, verified, f"These {len(sampled)} entries were verified, and nothing else; without --sample, all are"
    )


def _show_checkpoint(app: App, verified: Verified) -> None:
    if verified.checkpoint is None:
        return
    app.say(f"log             {verified.checkpoint.origin}")
    app.say(f"entries         {verified.checkpoint.size}")
    app.say(f"root            {verified.checkpoint.root.hex()}")
    app.say(f"signature       {_signed(verified)}")
    app.say(f"previous        {_previous(verified)}")


def _signed(verified: Verified) -> str:
    if any(finding.code == "signature" for finding in verified.findings):
        return "does not hold"
    if verified.trusted:
        return "by the key that you gave"
    return "by the pack's own key: consistent with itself only; give the key with --log-key"


def _previous(verified: Verified) -> str:
    if verified.previous is None:
        return "none given: that nothing was removed since an earlier audit was not verified"
    if any(finding.code == "previous-checkpoint" for finding in verified.findings):
        return f"of size {verified.previous}: this pack does not continue it"
    return f"of size {verified.previous}: this pack continues it"


def _show_findings(app: App, verified: Verified, done: str) -> None:
    for finding in verified.findings:
        app.say(str(finding))
    if verified.findings:
        app.note(f"keyvault: error: verification failed: {len(verified.findings)} findings; do not rely on this pack")
    else:
        app.say(f"{done}, and nothing is wrong.")


def _as_json(verified: Verified) -> dict[str, object]:
    checkpoint = verified.checkpoint
    return {
        "verified": not verified.findings,
        "trusted_key": verified.trusted,
        "origin": None if checkpoint is None else checkpoint.origin,
        "size": None if checkpoint is None else checkpoint.size,
        "root": None if checkpoint is None else checkpoint.root.hex(),
        "previous": verified.previous,
        "findings": [
            {"code": finding.code, "where": finding.where, "message": finding.message} for finding in verified.findings
        ],
    }


def _population_as_json(population: Reconciliation) -> dict[str, object]:
    from keyvault.events import b64

    return {
        "matched": [{"row": row, "scope": b64(scope)} for row, scope in population.matched],
        "missing": [{"row": item.row, "month": item.month} for item in population.missing],
        "extra": [{"scope": b64(item.scope), "month": item.period} for item in population.extra],
    }


def _sampled_as_json(item: Sampled) -> dict[str, object]:
    from base64 import b64encode

    return {
        "index": item.index,
        "entry": item.entry.decode(errors="backslashreplace"),
        "proof": [b64encode(value).decode() for value in item.proof],
    }
