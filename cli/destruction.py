"""`shred` and `destroy`: the security team's commands. What they destroy never comes back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from cli.app import App, json_option
from cli.confirming import confirm_option, typed_count
from cli.failures import EXIT_REFUSED, message_of, values_or_first_error
from cli.shredding import Shredding, submission_of_customer
from cli.waiting import wait_for_leases
from keyvault.errors import DestructionPausedError, KeyVaultError

if TYPE_CHECKING:
    from keyvault.home import Home
    from keyvault.store.requests import RequestRow
    from keyvault.store.scopes import ScopeRow
    from shredder.destroy import Destroyer, PlanItem
    from shredder.erase import Outcome
    from shredder.lease_bounds import LeaseBound
    from shredder.notices import Delivery
    from shredder.requests import RequestView

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
@confirm_option
@click.option("--wait", is_flag=True, help="Return when no client can still hold the keys: one lease after the fence.")
@click.option("--break-glass", is_flag=True, help="Destroy at once, and owe the approval; for the role break-glass.")
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
    confirmed: int | None,
    wait: bool,
    break_glass: bool,
) -> int:
    """Destroy the keys of scopes, or of single records, for good, as a customer asks.

    A request, its approval and its execution in one call, where the home requires one approval. Where it requires two, this hands the
    request in and says who must approve it; with --break-glass it is executed first, and signed afterwards.

    Live data and every copy in every backup become unreadable. All named scopes are destroyed or, when one of them cannot be, none.
    With --record only those records of the one account-month named are, and the rest of it stays readable. Destructions that an
    earlier run began are finished first. Exit code 0 only if all that was named is destroyed. Clients may hold keys until their leases
    end, and evidence states that instant: --wait waits for it. Ctrl-C ends the waiting, and not what was done.
    """
    if records and len(names) != 1:
        raise click.UsageError("--record goes with the name of one account-month")
    names, records = list(dict.fromkeys(names)), list(dict.fromkeys(records))
    _checked_cause(ticket, reason)
    with app.opened(role="shredder") as home:
        from keyvault.persons import Duty, identify
        from shredder.destroy import Destroyer
        from shredder.lease_bounds import bound_of
        from shredder.policy_file import home_policy

        destroyer = Destroyer(home)
        plan = destroyer.plan_records(names[0], records) if records else destroyer.plan(names)
        if plan_only:
            return _print_plan(app, home, records or names, plan, wait=wait)
        items = values_or_first_error(plan)
        if destroyer.status().paused:
            raise DestructionPausedError(PAUSED)
        if records:
            _tell_of_former(app, items[0].row)
        person = identify(home.settings, Duty.BREAK_GLASS if break_glass else Duty.REQUEST)
        typed = _confirm(app, items, what="record" if records else "scope", yes=yes)
        earlier = _finish_earlier(app, destroyer)
        job = Shredding(app, home, home_policy(home), person)
        asked = partial(submission_of_customer, ticket=ticket, reason=reason, month=names[0] if records else None)
        view = job.submit(items, asked, typed or confirmed, break_glass=break_glass)
        if view is not None and home.settings.approvals > 1 and not break_glass:
            return _print_submitted(app, view)
        outcomes = job.carry_out(items, view, typed or confirmed, break_glass=break_glass)
        give_notices(app, home)
        bound = bound_of(home, [(item.row.id, item.record_tag) for item in items])
        code = _print_outcomes(app, home, items, outcomes, earlier, view=view, bound=bound)
    if not wait or code != 0 or bound is None:
        return code
    return wait_for_leases(app, bound.seconds, bound.until.isoformat())


def _print_submitted(app: App, view: RequestView) -> int:
    """Say who must approve. Nothing is destroyed yet, and so the exit code is not that of a destruction."""
    request_id = view.row.id.hex()
    app.emit({"plan": False, "approvals": 2, "request": request_id, "state": str(view.state), "scopes": []})
    app.say(f"request {request_id}: {view.state}")
    app.say("Nothing is destroyed yet: another person with the role approver must approve it,")
    app.say(f"with `keyvault request approve {request_id}`.")
    return EXIT_REFUSED


def _tell_of_former(app: App, row: ScopeRow) -> None:
    """Say what erasing records of an account-month that was moved does not reach."""
    from keyvault.custody.former import former

    if former(row) is not None:
        app.note(
            "This account-month was moved from dedicated custody: what was sealed in it before has no keys for single records, and "
            "stays readable until the whole month is destroyed."
        )


def _checked_cause(ticket: str, reason: str | None) -> None:
    """Refuse a malformed ticket or reason before anything is asked or done."""
    from shredder.destroy import DEFAULT_REASON, check_cause

    check_cause(ticket, reason or DEFAULT_REASON)


def _print_plan(
    app: App, home: Home, names: Sequence[str], plan: Sequence[PlanItem | KeyVaultError], *, wait: bool
) -> int:
    from shredder.fence import lease_allowance

    rows = [_planned(name, item) for name, item in zip(names, plan, strict=True)]
    seconds = lease_allowance(home).total_seconds()
    app.emit(
        {"plan": True, "approvals": home.settings.approvals, "scopes": rows, "wait_seconds": seconds if wait else None}
    )
    for row in rows:
        app.say(f"{row['name']}: {row['action'] or row['error']}")
    _say_approvals(app, home)
    if wait:
        app.say(f"would wait {seconds:g} s after that: one lease, and what clocks may differ by")
    app.say("This is a plan: nothing was changed.")
    return EXIT_REFUSED if any(isinstance(item, KeyVaultError) for item in plan) else 0


def _planned(name: str, item: PlanItem | KeyVaultError) -> dict[str, object]:
    if isinstance(item, KeyVaultError):
        return {"name": name, "action": None, "error": message_of(item)}
    return {"name": name, "action": str(item.action), "id": item.row.id.hex(), "state": str(item.row.state)}


def _say_approvals(app: App, home: Home) -> None:
    count = home.settings.approvals
    app.say(f"approvals: {count} (this home requires {'one' if count == 1 else 'two'})")


def _confirm(app: App, items: Sequence[PlanItem], *, what: str, yes: bool) -> int | None:
    """Show what will happen, and have the count typed; return it, or None where it was not asked for."""
    from shredder.destroy import PlannedAction

    count = sum(item.action is not PlannedAction.NOTHING for item in items)
    if count == 0 or (yes and app.as_json):
        return None
    for item in items:
        app.note(f"{item.name}: {item.action}")
    return typed_count(app, count, what=what, yes=yes)


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
    app: App,
    home: Home,
    items: Sequence[PlanItem],
    outcomes: Sequence[Outcome],
    earlier: Sequence[Outcome],
    *,
    view: RequestView | None,
    bound: LeaseBound | None,
) -> int:
    by_key = {(outcome.scope_id, outcome.record_tag): outcome for outcome in outcomes}
    rows = [_outcome(item, by_key[item.row.id, item.record_tag]) for item in items]
    left = sum(outcome.error is not None for outcome in outcomes)
    app.emit(
        {
            "plan": False,
            "approvals": home.settings.approvals,
            "request": None if view is None else view.row.id.hex(),
            "scopes": rows,
            "finished_earlier": [answer_of(outcome) for outcome in earlier],
            "lease_bound": None if bound is None else bound.lease_bound.isoformat(),
            "held_until": None if bound is None else bound.until.isoformat(),
        }
    )
    for row in rows:
        app.say(f"{row['name']}: {row['outcome']}{_when(row)}")
    if view is not None and view.row.break_glass:
        app.say(f"approvals: 1, and one is owed: `keyvault request approve {view.row.id.hex()}` by another person")
    else:
        _say_approvals(app, home)
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
        requests = _execute_requests(app, home)
        give_notices(app, home)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    app.emit(
        {
            "paused": False,
            "changed": changed,
            "finished": [answer_of(outcome) for outcome in outcomes],
            "requests": requests,
        }
    )
    app.say(f"{len(outcomes) - len(failed)} pending destructions finished, {len(failed)} left")
    for outcome in failed:
        app.note(f"keyvault: error: scope {outcome.scope_id.hex()}: {outcome.error}")
    for request in requests:
        app.say(f"request {request['request']}: {request['state']}")
        if request["error"] is not None:
            app.note(f"keyvault: error: request {request['request']}: {request['error']}")
    stuck = any(request["error"] is not None or request["state"] == "approved" for request in requests)
    return EXIT_REFUSED if failed or stuck else 0


def _execute_requests(app: App, home: Home) -> list[dict[str, str | None]]:
    """Carry out what was approved before destructions were paused, or a run broke off; and what is billed by now."""
    from shredder.policy_file import home_policy
    from shredder.request_execution import execute_approved

    with app.progress("carrying out requests", None) as advance:
        executions = execute_approved(home, home_policy(home), advance)
    return [
        {
            "request": done.request.hex(),
            "state": str(done.state),
            "reason": done.refusal,
            "error": None if done.error is None else message_of(done.error),
        }
        for done in executions
    ]


@destroy.command("status")
@json_option
@click.pass_obj
def status_(app: App) -> None:
    """Show which destructions are pending, and whether they are paused. Asks the database only."""
    from keyvault.states import KeyState
    from keyvault.store import fenced_records, intents, notices, system
    from keyvault.store import requests as request_store
    from keyvault.store import scopes as scope_store

    with app.database() as (_, database):
        owed = database.read(request_store.unsigned)
        counts, records, rows, unused, waiting, paused = database.read(
            lambda c: (
                scope_store.count_by_state(c),
                fenced_records.count_by_state(c),
                scope_store.by_id(c, scope_store.awaiting_destruction(c, limit=100)).values(),
                intents.count(c),
                notices.count(c),
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
            "notices": waiting,
            "scopes": scopes,
            "approvals_owed": [_owed(row) for row in owed],
        }
    )
    app.say(f"destructions  {'PAUSED' if paused else 'running'}")
    app.say(f"pending       {pending}")
    app.say(f"  records     {pending_records}")
    app.say(f"unused keys   {unused}")
    app.say(f"notices       {waiting}")
    for scope in scopes:
        app.say(f"  {scope['kind']} scope {scope['id']}, fenced at {scope['fenced_at'] or '(being fenced)'}")
    if pending > len(scopes):
        app.say(f"  and {pending - len(scopes)} more")
    for row in owed:
        app.say(
            f"OWED          the approval of request {row.id.hex()}, executed under break-glass at {row.received_at}"
        )


def _pending(row: ScopeRow) -> dict[str, object]:
    return {
        "id": row.id.hex(),
        "kind": str(row.kind),
        "fenced_at": row.fenced_at.isoformat() if row.fenced_at else None,
    }


def _owed(row: RequestRow) -> dict[str, object]:
    return {"request": row.id.hex(), "executed_at": row.received_at.isoformat(), "due_by": row.due_by.isoformat()}
