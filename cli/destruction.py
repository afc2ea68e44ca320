"""`shred` and `destroy`: the security team's commands. What they destroy never comes back."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cli.app import App, json_option
from cli.failures import EXIT_REFUSED, Refused, message_of, values_or_first_error
from keyvault.errors import DestructionPausedError, KeyVaultError

if TYPE_CHECKING:
    from keyvault.home import Home
    from keyvault.store.scopes import ScopeRow
    from shredder.destroy import Destroyer, PlanItem
    from shredder.erase import Outcome
    from shredder.notices import Delivery

APPROVALS = 1
PAUSED = "destructions are paused, and nothing was destroyed: run `keyvault destroy resume` when they may go on"


@click.command()
@click.option(
    "--ticket", required=True, metavar="T", help="The ticket that asks for it; the log gets a pseudonym of it."
)
@click.option(
    "--reason", metavar="CODE", help="A reason code: lower-case letters, digits, hyphens.  [default: customer-request]"
)
@click.option(
    "--record",
    "records",
    multiple=True,
    metavar="ID",
    help="Only this record of the one account-month named; repeat for several.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Show what would happen, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal to ask on.")
@json_option
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_obj
def shred(
    app: App,
    *,
    ticket: str,
    reason: str | None,
    names: Sequence[str],
    records: Sequence[str],
    plan_only: bool,
    yes: bool,
) -> int:
    """Destroy the keys of scopes, or of single records, for good.

    Live data and every copy in every backup become unreadable. All named scopes are destroyed or, when one of them cannot be, none.
    With --record only those records of the one account-month named are, and the rest of it stays readable. Destructions that an
    earlier run began are finished first. Exit code 0 only if all that was named is destroyed.
    """
    if records and len(names) != 1:
        raise click.UsageError("--record goes with the name of one account-month")
    names, records = list(dict.fromkeys(names)), list(dict.fromkeys(records))
    cause = _checked_cause(ticket, reason)
    with app.opened(role="shredder") as home:
        from shredder.destroy import Destroyer

        destroyer = Destroyer(home)
        plan = destroyer.plan_records(names[0], records) if records else destroyer.plan(names)
        if plan_only:
            return _print_plan(app, records or names, plan)
        items = values_or_first_error(plan)
        if destroyer.status().paused:
            raise DestructionPausedError(PAUSED)
        if records:
            _tell_of_former(app, items[0].row)
        _confirm(app, items, what="record" if records else "scope", yes=yes)
        earlier = _finish_earlier(app, destroyer)
        with app.progress("destroying", len(items)) as advance:
            details = {"ticket": ticket, "requested_by": getpass.getuser(), "reason": cause}
            if records:
                outcomes = destroyer.destroy_records(names[0], records, **details, progress=advance)
            else:
                outcomes = destroyer.destroy(names, **details, progress=advance)
        give_notices(app, home)
    return _print_outcomes(app, items, outcomes, earlier)


def _tell_of_former(app: App, row: ScopeRow) -> None:
    """Say what erasing records of an account-month that was moved does not reach."""
    from keyvault.custody.former import former

    if former(row) is not None:
        app.note(
            "This account-month was moved from dedicated custody: what was sealed in it before has no keys for single records, and "
            "stays readable until the whole month is destroyed."
        )


def _checked_cause(ticket: str, reason: str | None) -> str:
    """Refuse a malformed ticket or reason before anything is asked or done; return the reason."""
    from shredder.destroy import DEFAULT_REASON, check_cause

    check_cause(ticket, reason or DEFAULT_REASON)
    return reason or DEFAULT_REASON


def _print_plan(app: App, names: Sequence[str], plan: Sequence[PlanItem | KeyVaultError]) -> int:
    rows = [_planned(name, item) for name, item in zip(names, plan, strict=True)]
    app.emit({"plan": True, "approvals": APPROVALS, "scopes": rows})
    for row in rows:
        app.say(f"{row['name']}: {row['action'] or row['error']}")
    _say_approvals(app)
    app.say("This is a plan: nothing was changed.")
    return EXIT_REFUSED if any(isinstance(item, KeyVaultError) for item in plan) else 0


def _planned(name: str, item: PlanItem | KeyVaultError) -> dict[str, object]:
    if isinstance(item, KeyVaultError):
        return {"name": name, "action": None, "error": message_of(item)}
    return {"name": name, "action": str(item.action), "id": item.row.id.hex(), "state": str(item.row.state)}


def _say_approvals(app: App) -> None:
    app.say(f"approvals: {APPROVALS} (this home requires one)")


def _confirm(app: App, items: Sequence[PlanItem], *, what: str, yes: bool) -> None:
    """Show what will happen, and have the count typed."""
    from shredder.destroy import PlannedAction

    count = sum(item.action is not PlannedAction.NOTHING for item in items)
    if count == 0 or (yes and app.as_json):
        return
    for item in items:
        app.note(f"{item.name}: {item.action}")
    app.note("This cannot be undone: no copy and no backup of this data will be readable again.")
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("there is no terminal to confirm on, and nothing was destroyed: give --yes, or --plan to look")
    click.echo(f"Destroy {count} {what}{'s'[: count != 1]} for good? Type {count} to go on: ", nl=False, err=True)
    if sys.stdin.readline().strip() != str(count):
        raise Refused("not confirmed, and nothing was destroyed")


def _finish_earlier(app: App, destroyer: Destroyer) -> list[Outcome]:
    """Finish what earlier runs fenced, the named scopes among it, and say so; clean up behind creators that failed."""
    status = destroyer.status()
    pending = status.pending + status.pending_records
    if pending:
        app.note(f"First finishing {pending} destruction{'s'[: pending != 1]} that an earlier run began.")
    with app.progress("finishing", pending) as advance:
        return destroyer.finish_pending(advance)


def give_notices(app: App, home: Home) -> None:
    """Tell the storage layer what was destroyed, and say what it could not be told: the destructions stand."""
    from shredder.notices import deliver

    say_notices(app, deliver(home))


def say_notices(app: App, delivery: Delivery) -> None:
    """Say which notices are left."""
    if delivery.left:
        app.note(
            f"keyvault: error: {delivery.left} notices of destructions are not given yet, and the next run tries again: {delivery.error}"
        )


def _print_outcomes(
    app: App, items: Sequence[PlanItem], outcomes: Sequence[Outcome], earlier: Sequence[Outcome]
) -> int:
    by_key = {(outcome.scope_id, outcome.record_tag): outcome for outcome in outcomes}
    rows = [_outcome(item, by_key[item.row.id, item.record_tag]) for item in items]
    left = sum(outcome.error is not None for outcome in outcomes)
    app.emit(
        {
            "plan": False,
            "approvals": APPROVALS,
            "scopes": rows,
            "finished_earlier": [answer_of(outcome) for outcome in earlier],
        }
    )
    for row in rows:
        app.say(f"{row['name']}: {row['outcome']}{_when(row)}")
    _say_approvals(app)
    if left:
        app.note(f"keyvault: error: {left} of {len(rows)} destructions are pending; run `keyvault destroy resume`")
    return EXIT_REFUSED if left else 0


def _outcome(item: PlanItem, outcome: Outcome) -> dict[str, object]:
    from shredder.destroy import PlannedAction

    facts: dict[str, object] = {"name": item.name, "id": item.row.id.hex()}
    if outcome.error is not None or outcome.at is None:
        error = "" if outcome.error is None else message_of(outcome.error)
        return {**facts, "outcome": "pending", "destroyed_at": None, "error": error}
    done = "already destroyed" if item.action is PlannedAction.NOTHING else "destroyed"
    return {**facts, "outcome": done, "destroyed_at": outcome.at.isoformat()}


def _when(row: dict[str, object]) -> str:
    return f": {row['error']}" if row["destroyed_at"] is None else f" at {row['destroyed_at']}"


def answer_of(outcome: Outcome) -> dict[str, object]:
    """Return what the answer says of a destruction that no name of this run stands for."""
    return {
        "id": outcome.scope_id.hex(),
        "destroyed_at": outcome.at.isoformat() if outcome.at else None,
        "error": None if outcome.error is None else message_of(outcome.error),
    }


@click.group()
def destroy() -> None:
    """Pause and resume destructions, and see which are pending."""


@destroy.command()
@json_option
@click.pass_obj
def pause(app: App) -> None:
    """Stop every destruction before its fence, at once, for everybody. Asks the database only."""
    from keyvault.store import system

    with app.database() as (_, database):
        changed = database.write(lambda connection: system.set_paused(connection, paused=True))
    app.emit({"paused": True, "changed": changed})
    app.say("Destructions are paused." if changed else "Destructions were paused already.")


@destroy.command()
@json_option
@click.pass_obj
def resume(app: App) -> int:
    """Let destructions run again, and finish every one that is pending."""
    with app.opened(role="shredder") as home:
        from shredder.destroy import Destroyer

        destroyer = Destroyer(home)
        changed = destroyer.unpause()
        app.say("Destructions run again." if changed else "Destructions were not paused.")
        status = destroyer.status()
        with app.progress("finishing", status.pending + status.pending_records) as advance:
            outcomes = destroyer.finish_pending(advance)
        give_notices(app, home)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    app.emit({"paused": False, "changed": changed, "finished": [answer_of(outcome) for outcome in outcomes]})
    app.say(f"{len(outcomes) - len(failed)} pending destructions finished, {len(failed)} left")
    for outcome in failed:
        app.note(f"keyvault: error: scope {outcome.scope_id.hex()}: {outcome.error}")
    return EXIT_REFUSED if failed else 0


@destroy.command("status")
@json_option
@click.pass_obj
def status_(app: App) -> None:
    """Show which destructions are pending, and whether they are paused. Asks the database only."""
    from keyvault.states import KeyState
    from keyvault.store import fenced_records, intents, system
    from keyvault.store import scopes as scope_store

    with app.database() as (_, database):
        counts, records, rows, unused, paused = database.read(
            lambda c: (
                scope_store.count_by_state(c),
                fenced_records.count_by_state(c),
                scope_store.by_id(c, scope_store.awaiting_destruction(c, limit=100)).values(),
                intents.count(c),
                system.is_paused(c),
            )
        )
    pending = counts[KeyState.DEACTIVATED]
    scopes = [_pending(row) for row in rows]
    pending_records = records[KeyState.DEACTIVATED]
    app.emit(
        {
            "paused": paused,
            "pending": pending,
            "pending_records": pending_records,
            "unused_keys": unused,
            "scopes": scopes,
        }
    )
    app.say(f"destructions  {'PAUSED' if paused else 'running'}")
    app.say(f"pending       {pending}")
    app.say(f"  records     {pending_records}")
    app.say(f"unused keys   {unused}")
    for scope in scopes:
        app.say(f"  {scope['kind']} scope {scope['id']}, fenced at {scope['fenced_at'] or '(being fenced)'}")
    if pending > len(scopes):
        app.say(f"  and {pending - len(scopes)} more")


def _pending(row: ScopeRow) -> dict[str, object]:
    return {
        "id": row.id.hex(),
        "kind": str(row.kind),
        "fenced_at": row.fenced_at.isoformat() if row.fenced_at else None,
    }
