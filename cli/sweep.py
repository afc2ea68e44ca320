"""`sweep` and `forecast`: what the retention policy makes due by itself, now and in the months to come."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.app import Advance, App, json_option
from cli.destruction import answer_of, say_notices
from cli.failures import EXIT_REFUSED
from cli.waiting import wait_for_leases

if TYPE_CHECKING:
    from keyvault.home import Home
    from shredder.forecast import Forecast
    from shredder.plan import Plan
    from shredder.policy import Policy
    from shredder.sweep import Step, SweepReport


def _standing(home: Home, policy: Policy) -> Sequence[str]:
    """Suspend and resume what facts say."""
    from shredder.standing import apply_standing

    apply_standing(home, policy_version=policy.version)
    return ()


def _requests(home: Home, policy: Policy) -> Sequence[str]:
    """Carry out requests that were approved, or waited for billing; say which could not be."""
    from shredder.request_execution import execute_approved

    return [
        f"request {done.request.hex()} is not carried out: {done.error or 'its destructions are pending'}"
        for done in execute_approved(home, policy)
        if done.error is not None or str(done.state) == "approved"
    ]


STEPS: tuple[Step, ...] = (_standing, _requests)
"""What a sweep does before it counts."""


class _Instant(click.ParamType[datetime]):
    """An ISO 8601 time with a time zone, or a date: its first instant in UTC."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read what was typed."""
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not an ISO 8601 time or date, such as 2026-11-24 or 2026-11-24T12:00Z", param, ctx)
        if len(value) == len("2026-11-24"):
            return moment.replace(tzinfo=UTC)
        if moment.tzinfo is None:
            self.fail(f"{value!r} needs a time zone, for example {value}Z", param, ctx)
        return moment.astimezone(UTC)


@click.command()
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be destroyed, and change nothing.")
@click.option(
    "--at", type=_Instant(), metavar="TIME", help="With --plan: what will be due then, as far as is known now."
)
@click.option(
    "--confirm",
    type=click.IntRange(min=0),
    metavar="COUNT",
    help="Go beyond the policy's limits: the plan's exact count.",
)
@click.option(
    "--trust-clock",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DATE",
    help="The clock is right although it is far ahead of the last sweep: today's date (UTC).",
)
@click.option(
    "--wait", is_flag=True, help="Return when no client can still hold what was destroyed: one lease after the end."
)
@json_option
@click.pass_obj
def sweep(
    app: App,
    *,
    plan_only: bool,
    at: datetime | None,
    confirm: int | None,
    trust_clock: datetime | None,
    wait: bool,
) -> int:
    """Destroy all that the retention policy makes due by itself.

    Made for a timer: it asks nothing, one sweep runs at a time, and the next goes on where one was stopped. Scopes are suspended and
    requests executed first, as facts and approvals say. More than the policy's limits needs --confirm with the exact count. Exit code 0
    only if nothing that is due is left.
    """
    if at is not None and not plan_only:
        raise click.UsageError("--at goes with --plan: nothing is destroyed before it is due")
    if plan_only and (confirm is not None or trust_clock is not None or wait):
        raise click.UsageError("--plan changes nothing: leave out --confirm, --trust-clock and --wait")
    with app.opened(role="shredder") as home:
        from shredder.fence import lease_allowance

        if plan_only:
            from shredder.policy_file import load_policy, policy_path
            from shredder.sweep import plan_sweep

            policy = load_policy(policy_path(home.path))  # not recorded: a plan changes nothing
            return _print_plan(app, plan_sweep(home, policy, at or home.clock.now()))
        report = _swept(app, home, confirm, None if trust_clock is None else trust_clock.date())
        allowance, now = lease_allowance(home), home.clock.now()
    code = _print_report(app, report)
    if not wait or code != 0:
        return code
    return wait_for_leases(app, allowance.total_seconds(), (now + allowance).isoformat())


def _swept(app: App, home: Home, confirm: int | None, trust_clock: date | None) -> SweepReport:
    from shredder.policy_file import home_policy
    from shredder.sweep import sweep as run

    with ExitStack() as shown:

        def progress(count: int) -> Advance:
            return shown.enter_context(app.progress("destroying", count))

        return run(home, home_policy(home), steps=STEPS, confirm=confirm, trust_clock=trust_clock, progress=progress)


def _print_plan(app: App, plan: Plan) -> int:
    app.emit({"plan": True, **_plan(plan)})
    _say_plan(app, plan)
    app.say("This is a plan: nothing was changed.")
    return 0


def _print_report(app: App, report: SweepReport) -> int:
    given = report.notices
    app.emit(
        {
            "plan": False,
            **_plan(report.plan),
            "destroyed": report.destroyed,
            "spared": report.spared,
            "problems": list(report.problems),
            "failed": [answer_of(outcome) for outcome in report.failed],
            "finished_earlier": [answer_of(outcome) for outcome in report.finished],
            "unused_slots": {"rings": report.slots.rings, "problems": list(report.slots.problems)},
            "notices": {"given": given.given, "left": given.left, "error": given.error},
        }
    )
    _say_plan(app, report.plan)
    finished = sum(outcome.error is None for outcome in report.finished)
    app.say(
        f"destroyed {report.destroyed}, spared {report.spared}, failed {len(report.failed)}; finished of earlier runs {finished}"
    )
    if report.slots.rings:
        app.say(f"slots that no scope sits in are gone from {report.slots.rings} rings that take no more")
    for problem in (*report.problems, *report.slots.problems):
        app.note(f"keyvault: error: {problem}")
    for outcome in [*report.failed, *(outcome for outcome in report.finished if outcome.error)]:
        app.note(f"keyvault: error: scope {outcome.scope_id.hex()} is pending: {outcome.error}")
    say_notices(app, given)
    return 0 if report.complete else EXIT_REFUSED


def _plan(plan: Plan) -> dict[str, object]:
    entries = [
        {
            "kind": str(entry.kind),
            "month": entry.month,
            "reason": entry.reason,
            "scopes": entry.scopes,
            "records": entry.records,
        }
        for entry in plan.entries
    ]
    return {"at": plan.at.isoformat(), "count": plan.count, "due": entries}


def _say_plan(app: App, plan: Plan) -> None:
    rows = [
        [str(entry.kind), entry.month, entry.reason, str(entry.scopes), str(entry.records)] for entry in plan.entries
    ]
    if rows:
        app.table(["kind", "due since", "reason", "scopes", "records"], rows)
    app.say(f"due at {plan.at.isoformat()}: {plan.count}")


@click.command()
@click.option(
    "--svg", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw it into a file, too."
)
@json_option
@click.pass_obj
def forecast(app: App, *, svg: Path | None) -> None:
    """Show what falls due in the rest of this month and in the 25 next.

    As facts are known now: what accounts, users and contacts will do is not in it.
    """
    with app.opened(role="shredder") as home:
        from shredder.forecast import bars, draw, make_forecast
        from shredder.policy_file import load_policy, policy_path

        found = make_forecast(home, load_policy(policy_path(home.path)))
    if svg is not None:
        svg.write_text(draw(found))
    app.emit(_forecast(found))
    app.say(f"due already: {sum(found.overdue.values())}")
    for month, count, bar in bars(found):
        app.say(f"{month} {count:>9,} {bar}".rstrip())


def _forecast(found: Forecast) -> dict[str, object]:
    return {
        "at": found.at.isoformat(),
        "overdue": {str(kind): count for kind, count in found.overdue.items()},
        "months": [
            {"month": month, "due": {str(kind): count for kind, count in kinds.items()}}
            for month, kinds in found.months.items()
        ],
    }
