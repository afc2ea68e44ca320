"""`request`: what customers and people ask for, judged by the policy, and approved by a second person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.app import App, json_option
from cli.confirming import confirm_option, typed_count
from cli.failures import EXIT_REFUSED, EXIT_USAGE, message_of
from keyvault.errors import InvalidInputError

if TYPE_CHECKING:
    from keyvault.home import Home
    from keyvault.persons import Duty, Person
    from shredder.policy import Policy
    from shredder.request_execution import Execution
    from shredder.requests import Requests, RequestView
    from shredder.submission import Submission

REQUESTERS = ("customer", "consumer", "individual", "company", "user")
KINDS = ("anonymize", "delete", "extend", "hold", "restore", "undelete")
ID_CHARACTERS = 32

_id = click.argument("request_id", metavar="ID")


@click.group()
def request() -> None:
    """Hand in, approve and look at requests: to anonymize, to delete, to undelete, and those that the policy refuses.

    In a home on Vault the person is who the token in KEYVAULT_PERSON_TOKEN, VAULT_TOKEN or ~/.vault-token belongs to.
    """


@request.command()
@click.option("--ticket", metavar="T", help="The ticket that it came with; the store gets a pseudonym of it.")
@click.option("--from", "requester", type=click.Choice(REQUESTERS), help="On whose behalf.")
@click.option("--kind", type=click.Choice(KINDS), help="What is asked for.")
@click.option("--scope", "scopes", multiple=True, metavar="NAME", help="A scope; repeat for several.")
@click.option(
    "--record",
    "records",
    multiple=True,
    metavar="ID",
    help="Only this record of the one account-month; repeat for several.",
)
@click.option("--account", metavar="A", help="Everything of an account, instead of scopes.")
@click.option("--reason", metavar="CODE", help="A reason code: lower-case letters, digits, hyphens.")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Many requests, a row each: CSV with the columns ticket, from, kind, scope, record, account, reason.",
)
@json_option
@click.pass_obj
def submit(
    app: App,
    *,
    ticket: str | None,
    requester: str | None,
    kind: str | None,
    scopes: Sequence[str],
    records: Sequence[str],
    account: str | None,
    reason: str | None,
    file: Path | None,
) -> int:
    """Hand in a request, and get the policy's answer: what happens next, or why not and the sentence to send back.

    The same again, with the same ticket, gets the same answer. Exit code 1 when it is refused.
    """
    single = [ticket, requester, kind, account, reason, *scopes, *records]
    if file is not None:
        if any(value is not None for value in single):
            raise click.UsageError("--file stands alone: its rows say the rest")
        return _submit_file(app, file)
    if ticket is None or requester is None or kind is None:
        raise click.UsageError("a request needs --ticket, --from and --kind, or --file")
    from shredder.policy import Requester, RequestKind
    from shredder.submission import Submission

    asked = Submission(
        ticket=ticket,
        requester=Requester(requester),
        kind=RequestKind(kind),
        scopes=tuple(scopes),
        records=tuple(records),
        account=account,
        reason=reason,
    )
    return _submit_one(app, asked)


def _submit_one(app: App, asked: Submission) -> int:
    from keyvault.persons import Duty

    with app.opened(role="shredder") as home:
        policy, requests, person = _desk(home, Duty.REQUEST)
        view = requests.submit(asked, person)
    app.emit(described(policy, view))
    _say(app, policy, view)
    return EXIT_REFUSED if _is_refused(view) else 0


def _submit_file(app: App, file: Path) -> int:
    from keyvault.persons import Duty
    from shredder.submission import read_table

    try:
        rows = list(read_table(file.read_bytes().decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise InvalidInputError("the file is not UTF-8: save it so, and hand it in again") from error
    outcomes: list[dict[str, object]] = []
    with app.opened(role="shredder") as home, app.progress("requests", len(rows)) as advance:
        policy, requests, person = _desk(home, Duty.REQUEST)
        for number, asked in rows:
            outcomes.append({"row": number, **_row_outcome(policy, requests, person, asked)})
            advance(1)
    return _print_rows(app, outcomes)


def _row_outcome(
    policy: Policy, requests: Requests, person: Person, asked: Submission | InvalidInputError
) -> dict[str, object]:
    from keyvault.errors import ScopeError

    try:
        if isinstance(asked, InvalidInputError):
            raise asked
        return described(policy, requests.submit(asked, person))
    except (
        InvalidInputError,
        ScopeError,
    ) as error:  # this row's own fault; anything else ends the run, which can be repeated
        return {"state": "malformed", "error": {"type": type(error).__name__, "message": message_of(error)}}


def _print_rows(app: App, outcomes: Sequence[dict[str, object]]) -> int:
    malformed = sum("error" in outcome for outcome in outcomes)
    refused = sum(outcome["state"] == "refused" for outcome in outcomes)
    app.emit({"requests": list(outcomes), "refused": refused, "malformed": malformed})
    for outcome in outcomes:
        error = outcome.get("error")
        detail = error["message"] if isinstance(error, dict) else (outcome.get("reason") or "")
        app.say(f"row {outcome['row']}: {outcome['state']} {outcome.get('id', '')} {detail}".rstrip())
    app.say(f"{len(outcomes)} rows: {refused} refused, {malformed} malformed")
    if malformed:
        return EXIT_USAGE
    return EXIT_REFUSED if refused else 0


@request.command()
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be destroyed, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal to ask on.")
@confirm_option
@json_option
@_id
@click.pass_obj
def approve(app: App, *, request_id: str, plan_only: bool, yes: bool, confirmed: int | None) -> int:
    """Approve a request as a second person, and carry it out. What is destroyed never comes back.

    An approval is for the list that was shown: when that has changed, it must be looked at once more. An approval that a crash
    interrupted is carried out to its end. Exit code 0 only if it is done, or waits for billing.
    """
    from keyvault.persons import Duty

    identity = _parse_id(request_id)
    with app.opened(role="shredder") as home:
        from shredder.request_execution import execute
        from shredder.requests import RequestState

        if plan_only:
            return _show(app, home, identity)
        policy, requests, person = _desk(home, Duty.APPROVE)
        before = requests.show(identity)
        _say_radius(app, before)
        typed = None if confirmed is not None else typed_count(app, before.radius.count, what="key", yes=yes)
        view = requests.approve(identity, person, confirmed=typed if confirmed is None else confirmed)
        execution = None
        if view.state is RequestState.APPROVED:
            with app.progress("destroying", view.radius.count) as advance:
                execution = execute(home, policy, identity, advance)
            view = requests.show(identity)
    return _print_approved(app, policy, view, execution)


def _print_approved(app: App, policy: Policy, view: RequestView, execution: Execution | None) -> int:
    from shredder.requests import RequestState

    pending = [] if execution is None else [done for done in execution.outcomes if done.error is not None]
    errors = [{"scope": done.scope_id.hex(), "error": str(done.error)} for done in pending]
    app.emit({**described(policy, view), "pending": errors})
    _say(app, policy, view)
    if pending:
        app.note(f"keyvault: error: {len(pending)} destructions are pending; run `keyvault destroy resume`")
    return 0 if view.state in {RequestState.DONE, RequestState.AWAITING_BILLING} else EXIT_REFUSED


@request.command()
@json_option
@_id
@click.pass_obj
def reject(app: App, request_id: str) -> int:
    """Refuse a request that nobody has approved, as an approver."""
    from keyvault.persons import Duty

    with app.opened(role="shredder") as home:
        policy, requests, person = _desk(home, Duty.APPROVE)
        view = requests.reject(_parse_id(request_id), person)
    return _print_one(app, policy, view)


@request.command()
@json_option
@_id
@click.pass_obj
def cancel(app: App, request_id: str) -> int:
    """Take a request back that is not carried out yet."""
    from keyvault.persons import Duty

    with app.opened(role="shredder") as home:
        policy, requests, person = _desk(home, Duty.REQUEST)
        view = requests.cancel(_parse_id(request_id), person)
    return _print_one(app, policy, view)


@request.command()
@json_option
@_id
@click.pass_obj
def show(app: App, request_id: str) -> int:
    """Show a request, and what carrying it out takes away."""
    with app.opened(role="shredder") as home:
        return _show(app, home, _parse_id(request_id))


@request.command("list")
@click.option("--all", "every", is_flag=True, help="Those that are over, too.")
@click.option("--overdue", is_flag=True, help="Only those that should be answered by now.")
@json_option
@click.pass_obj
def list_(app: App, *, every: bool, overdue: bool) -> None:
    """List the requests that are open, and those that owe an approval, the first due in front."""
    with app.opened(role="shredder") as home:
        from shredder.policy_file import home_policy
        from shredder.requests import OPEN, Requests, RequestState

        policy = home_policy(home)
        views = Requests(home, policy).listed(tuple(RequestState) if every else OPEN, overdue=overdue)
    app.emit({"requests": [described(policy, view) for view in views]})
    headings = ["request", "state", "kind", "from", "due by", "scopes", "records", "approval"]
    app.table(headings, [_line(view) for view in views])


def _line(view: RequestView) -> list[str]:
    row, radius = view.row, view.radius
    due = row.due_by.date().isoformat()
    owed = "OWED" if view.owes_approval else ("given" if row.approved_by else "-")
    return [row.id.hex(), row.state, row.kind, row.requester, due, str(radius.scopes), str(radius.records), owed]


# --- shared -----------------------------------------------------------------------------------------------------------


def _desk(home: Home, duty: Duty) -> tuple[Policy, Requests, Person]:
    from keyvault.persons import identify
    from shredder.policy_file import home_policy
    from shredder.requests import Requests

    person = identify(home.settings, duty)
    policy = home_policy(home)
    return policy, Requests(home, policy), person


def _parse_id(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(text) != ID_CHARACTERS or len(found) * 2 != ID_CHARACTERS:
        raise InvalidInputError(
            f"a request's id has {ID_CHARACTERS} hexadecimal digits: `keyvault request list` shows them"
        )
    return found


def _show(app: App, home: Home, request_id: bytes) -> int:
    from shredder.policy_file import home_policy
    from shredder.requests import Requests

    policy = home_policy(home)
    return _print_one(app, policy, Requests(home, policy).show(request_id))


def _print_one(app: App, policy: Policy, view: RequestView) -> int:
    app.emit(described(policy, view))
    _say(app, policy, view)
    return 0


def described(policy: Policy, view: RequestView) -> dict[str, object]:
    """Return a request as JSON has it."""
    from shredder.answers import words_of

    row, radius = view.row, view.radius
    words = words_of(policy, row.refusal)
    return {
        "id": row.id.hex(),
        "state": row.state,
        "kind": row.kind,
        "from": row.requester,
        "reason": row.refusal,
        "text": words.text,
        "reply": words.reply,
        "destroy_id": view.destroyed_by.hex() if view.destroyed_by else None,
        "code": row.code,
        "scopes": radius.scopes,
        "records": radius.records,
        "accounts": radius.accounts,
        "kinds": {str(kind): count for kind, count in radius.kinds.items()},
        "irreversible": row.kind != "undelete",
        "received_at": row.received_at.isoformat(),
        "due_by": row.due_by.isoformat(),
        "approved_at": None if row.approved_at is None else row.approved_at.isoformat(),
        "ended_at": None if row.ended_at is None else row.ended_at.isoformat(),
        "break_glass": row.break_glass,
        "owes_approval": view.owes_approval,
    }


def refusal_text(policy: Policy, view: RequestView) -> str:
    """Return the code of a refusal with the policy's words for it."""
    from shredder.answers import words_of

    return f"{view.row.refusal}: {words_of(policy, view.row.refusal).text}"


def _is_refused(view: RequestView) -> bool:
    from shredder.requests import RequestState

    return view.state in {RequestState.REFUSED, RequestState.REJECTED}


def _say(app: App, policy: Policy, view: RequestView) -> None:
    from shredder.answers import words_of

    text, reply = words_of(policy, view.row.refusal)
    app.say(f"request   {view.row.id.hex()}")
    app.say(f"state     {view.state}{f' ({view.row.refusal})' if view.row.refusal else ''}")
    app.say(f"received  {view.row.received_at.isoformat()}, to be answered by {view.row.due_by.isoformat()}")
    if view.destroyed_by is not None:
        app.say(f"earlier   destruction {view.destroyed_by.hex()}")
    if text is not None and reply is not None:
        app.say(f"policy    {text}")
        app.say(f"reply     {reply}")
    if not _is_refused(view):
        _say_radius(app, view)
    if view.owes_approval:
        app.say("approval  OWED: it was executed under break-glass, and another person must approve it")


def _say_radius(app: App, view: RequestView) -> None:
    radius = view.radius
    kinds = ", ".join(f"{count} {kind}" for kind, count in radius.kinds.items())
    app.say(
        f"reaches   {radius.scopes} scopes{f' ({kinds})' if kinds else ''}, {radius.records} records, {radius.accounts} accounts"
    )
    if view.row.kind != "undelete":
        app.say("          Once executed this cannot be undone.")
