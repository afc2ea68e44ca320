"""`token`: who may call the service, and as what."""

from __future__ import annotations

from datetime import timedelta

import click

from cli.app import App, json_option
from cli.failures import Refused
from keyvault.tokens import Role


@click.group()
def token() -> None:
    """Tokens of the service: issue, revoke and list them."""


@token.command()
@click.option(
    "--role", type=click.Choice([str(role) for role in Role]), required=True, help="What it lets its bearer do."
)
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long it is good for.")
@json_option
@click.argument("name")
@click.pass_obj
def issue(app: App, *, role: str, days: int, name: str) -> None:
    """Issue a token called NAME, and print it: it is shown once."""
    with app.opened() as home:
        from keyvault.persons import Duty, identify
        from keyvault.store import tokens
        from keyvault.store.tokens import TokenRow
        from keyvault.tokens import new_token

        person = identify(home.settings, Duty.APPROVE)
        now = home.clock.now()
        made = new_token()
        row = TokenRow(
            id=made.id,
            name=name,
            role=role,
            secret_hash=made.secret_hash,
            owner=home.keys.pseudonym_of("person", person.identity),
            limits=None,
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        home.database.write(lambda connection: tokens.insert(connection, row))
    app.emit({"id": made.id.hex(), "token": made.text, "role": role, "expires_at": row.expires_at.isoformat()})
    app.say(made.text)


@token.command()
@json_option
@click.argument("identity", metavar="ID")
@click.pass_obj
def revoke(app: App, *, identity: str) -> None:
    """Revoke the token of an ID, as `token list` shows it."""
    with app.opened() as home:
        from keyvault.store import tokens

        try:
            wanted = bytes.fromhex(identity)
        except ValueError as error:
            raise Refused("a token's ID is 32 hexadecimal digits: `keyvault token list` shows it") from error
        if not home.database.write(lambda connection: tokens.revoke(connection, wanted, at=home.clock.now())):
            raise Refused(f"no token {identity} is in force: `keyvault token list` shows which are")
    app.emit({"id": identity, "revoked": True})
    app.say(f"token {identity} is revoked")


@token.command("list")
@json_option
@click.pass_obj
def list_(app: App) -> None:
    """List the tokens, without their secrets."""
    with app.database() as (_, database):
        from keyvault.store import tokens

        rows = database.read(tokens.every)
    listed = [
        {
            "id": row.id.hex(),
            "name": row.name,
            "role": row.role,
            "expires_at": row.expires_at.isoformat(),
            "revoked_at": None if row.revoked_at is None else row.revoked_at.isoformat(),
        }
        for row in rows
    ]
    app.emit({"tokens": listed})
    app.table(
        ["id", "name", "role", "expires", "revoked"],
        [[one["id"], one["name"], one["role"], one["expires_at"], one["revoked_at"] or ""] for one in listed],  # type: ignore[list-item]
    )
