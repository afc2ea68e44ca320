"""`token`: who may call the service, and as what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from cli.app import App, json_option
from cli.failures import Refused
from keyvault.scopes import ScopeKind
from keyvault.tokens import CALLS_PER_SECOND, TOKEN_ID_BYTES, Role

if TYPE_CHECKING:
    from keyvault.store.tokens import TokenRow

DAYS = 90


@click.group()
def token() -> None:
    """Tokens of the service: issue, revoke and list them.

    In a home on Vault a token is issued by a person with the approver's policy, who answers for it: what is handed in with the token
    counts as handed in by that person, and another must approve it.
    """


def _moment(_context: click.Context, _parameter: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter("an ISO 8601 time is needed, for example 2027-01-31T00:00:00Z") from error
    if moment.tzinfo is None:
        raise click.BadParameter("the time needs a zone: end it with Z for UTC")
    return moment.astimezone(UTC)


@token.command()
@click.option(
    "--role", type=click.Choice([str(role) for role in Role]), required=True, help="What it lets its bearer do."
)
@click.option("--account", "accounts", multiple=True, metavar="A", help="Only scopes of this account; repeatable.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([str(kind) for kind in ScopeKind]),
    help="Only scopes of this kind; repeatable.",
)
@click.option("--purpose", "purposes", multiple=True, metavar="P", help="Only keys for this purpose; repeatable.")
@click.option("--rate", type=click.IntRange(1, 1_000_000), help="Calls per second of each worker.")
@click.option("--days", type=click.IntRange(1, 3650), help=f"How long it is good for.  [default: {DAYS}]")
@click.option("--expires", callback=_moment, metavar="TIME", help="Until when it is good, in place of --days.")
@json_option
@click.argument("name")
@click.pass_obj
def issue(
    app: App,
    *,
    role: str,
    accounts: tuple[str, ...],
    kinds: tuple[str, ...],
    purposes: tuple[str, ...],
    rate: int | None,
    days: int | None,
    expires: datetime | None,
    name: str,
) -> None:
    """Issue a token called NAME, and print it: it is shown once, when its event is in the log.

    NAME says which system uses it: lower-case letters, digits, dots, hyphens, underscores.
    """
    if days is not None and expires is not None:
        raise click.UsageError("--days and --expires say the same: give one")
    with app.opened() as home:
        from keyvault.persons import Duty, identify
        from keyvault.token_desk import TokenDesk

        desk, person = TokenDesk(home), identify(home.settings, Duty.APPROVE)
        made, row = desk.issue(
            name,
            Role(role),
            person,
            expires_at=expires or home.clock.now() + timedelta(days=days or DAYS),
            limits=desk.limits(accounts=accounts, kinds=kinds, purposes=purposes),
            rate=rate,
        )
    app.emit({**_described(row), "token": made.text})
    app.say(made.text)


@token.command()
@json_option
@click.argument("identity", metavar="ID")
@click.pass_obj
def revoke(app: App, *, identity: str) -> None:
    """Revoke the token of an ID, as `token list` shows it. Every worker refuses it within a second.

    Exit code 0 once the log has it, so that no older database brings the token back. Revoking again is safe.
    """
    wanted = _parse_id(identity)
    with app.opened() as home:
        from keyvault.persons import Duty, identify
        from keyvault.token_desk import TokenDesk

        person = identify(home.settings, Duty.APPROVE, others=(Duty.REQUEST, Duty.BREAK_GLASS))
        since = TokenDesk(home).revoke(wanted, person)
    app.emit({"id": wanted.hex(), "revoked_at": since.isoformat()})
    app.say(f"token {wanted.hex()} is revoked since {since.isoformat()}")


@token.command("list")
@json_option
@click.pass_obj
def list_(app: App) -> None:
    """List the tokens, without their secrets. Which accounts a token is limited to is not kept; how many there are is shown."""
    with app.database() as (_, database):
        from keyvault.store import tokens

        rows = database.read(tokens.every)
    listed = [_described(row) for row in rows]
    app.emit({"tokens": listed})
    headings = ["id", "name", "role", "kinds", "purposes", "accounts", "rate", "expires", "revoked"]
    app.table(headings, [[_cell(one[heading]) for heading in _COLUMNS] for one in listed])


_COLUMNS = ("id", "name", "role", "kinds", "purposes", "accounts", "rate", "expires_at", "revoked_at")


def _described(row: TokenRow) -> dict[str, object]:
    """Return a token as JSON has it."""
    from keyvault.limits import decode_limits

    limits = decode_limits(row.limits)
    return {
        "id": row.id.hex(),
        "name": row.name,
        "role": row.role,
        "kinds": None if limits.kinds is None else sorted(map(str, limits.kinds)),
        "purposes": None if limits.purposes is None else sorted(limits.purposes),
        "accounts": None if limits.accounts is None else len(limits.accounts),
        "rate": CALLS_PER_SECOND[Role(row.role)] if row.rate is None else row.rate,
        "created_at": row.created_at.isoformat(),
        "expires_at": row.expires_at.isoformat(),
        "revoked_at": None if row.revoked_at is None else row.revoked_at.isoformat(),
    }


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _parse_id(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != TOKEN_ID_BYTES or len(text) != 2 * TOKEN_ID_BYTES:
        raise Refused("a token's ID is 32 hexadecimal digits: `keyvault token list` shows it")
    return found
