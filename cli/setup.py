"""`init`, `doctor` and `status`: making a home, checking it, and seeing where it stands."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import click

from cli.app import App, json_option
from cli.failures import EXIT_REFUSED
from keyvault.errors import ConfigurationError, HomeNotFoundError, KeyVaultError
from keyvault.settings import CLOCKS, CUSTODIES, ENGINES, FILE_NAME, Settings, load_settings
from keyvault.transit.vault_settings import VaultSettings

if TYPE_CHECKING:
    from keyvault.doctor import Check
    from keyvault.initialize import InitOptions, Step

STORE_VARIABLE = "KEYVAULT_STORE"
ENGINE_DIR_VARIABLE = "KEYVAULT_ENGINE_DIR"
TOKEN_VARIABLE = "VAULT_TOKEN"  # noqa: S105 - the variable's name

MARKS = {True: "ok", False: "FAILED", None: "not checked"}


def _without_password(context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and _split_password(value)[1] is not None:
        raise click.BadParameter(
            "a password does not belong on the command line, where every user of the machine sees it: "
            f"put it into ~/.pgpass or PGPASSWORD, or the whole URL into {STORE_VARIABLE}",
            ctx=context,
        )
    return value


def _split_password(url: str) -> tuple[str, str | None]:
    """Return a database URL without its password, and the password."""
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return url, None
    query = parse_qsl(parts.query, keep_blank_values=True)
    in_query = [value for name, value in query if name == "password"]
    if password is None and not in_query:
        return url, None
    user = f"{parts.username}@" if parts.username else ""
    netloc = user + parts.netloc.rpartition("@")[2]
    kept = urlencode([(name, value) for name, value in query if name != "password"])
    return urlunsplit(parts._replace(netloc=netloc, query=kept)), in_query[0] if in_query else unquote(password or "")


@click.command()
@click.option("--engine", type=click.Choice(ENGINES), help="Where keys live.  [default: embedded]")
@click.option(
    "--custody", type=click.Choice(CUSTODIES), help="How new scopes map to keys of the engine.  [default: ring]"
)
@click.option(
    "--store",
    metavar="URL",
    callback=_without_password,
    help="sqlite:///PATH or postgresql://USER@HOST/NAME.  [default: a SQLite file in the home]",
)
@click.option("--clock", type=click.Choice(CLOCKS), help="Simulated: time from KEYVAULT_NOW.  [default: real]")
@click.option(
    "--engine-dir", metavar="DIR", help="Directory of the embedded engine's file.  [default: the state directory]"
)
@click.option("--vault-addr", metavar="URL", envvar="VAULT_ADDR", help="Vault's address.  [env: VAULT_ADDR]")
@click.option(
    "--vault-ca-file",
    metavar="FILE",
    envvar="VAULT_CACERT",
    help="Certificates that Vault's is verified by.  [env: VAULT_CACERT]",
)
@click.option(
    "--vault-namespace", metavar="NS", envvar="VAULT_NAMESPACE", help="Vault's namespace.  [env: VAULT_NAMESPACE]"
)
@click.option("--transit-mount", metavar="NAME", help="Mount of the scopes' keys.  [default: transit]")
@click.option("--log-mount", metavar="NAME", help="Mount of the log key.  [default: log]")
@click.option("--kv-mount", metavar="NAME", help="Mount of the key-value store.  [default: kv]")
@click.option("--approle-mount", metavar="NAME", help="Mount of the roles' logins.  [default: approle]")
@click.option("--prefix", metavar="NAME", help="What policies and roles begin with.  [default: keyvault]")
@click.option(
    "--approvals",
    type=click.IntRange(1, 2),
    help="How many people stand behind a destruction.  [default: 1 with the embedded engine, 2 with vault]",
)
@click.option("--audit-file", metavar="PATH", help="Where Vault writes its audit log, if it has none yet.")
@json_option
@click.pass_obj
def init(app: App, /, custody: str | None, approvals: int | None, **given: str | None) -> None:
    """Make a home, or finish one that was begun. Running it again changes nothing.

    With `--engine vault` an administrator's token is taken from VAULT_TOKEN; it is not stored.
    """
    found = _existing(app.home)
    options = replace(_init_options(given, found, custody), approvals=approvals)
    from keyvault.initialize import init_home

    if found is None:
        _check_before_making(options)
    try:
        steps = init_home(app.home, options)
    except (KeyVaultError, OSError):
        if found is None:
            # What was asked for did not work: it must not stand in the way of asking for something else.
            (app.home / FILE_NAME).unlink(missing_ok=True)
        raise
    _print_steps(app, steps)


def _existing(home: Path) -> Settings | None:
    try:
        return load_settings(home, environment={})
    except HomeNotFoundError:
        return None


def _init_options(given: dict[str, str | None], found: Settings | None, custody: str | None) -> InitOptions:
    from keyvault.initialize import InitOptions

    engine = (given["engine"] or "embedded") if found is None else found.engine
    engine_dir = given["engine_dir"]
    if engine_dir is None and found is None and engine == "embedded":
        engine_dir = os.environ.get(ENGINE_DIR_VARIABLE)
    return InitOptions(
        engine=given["engine"],
        custody=custody,
        store=given["store"] or _store_from_environment(),
        clock=given["clock"],
        engine_dir=engine_dir,
        vault=_vault_settings(given) if engine == "vault" and found is None else None,
        admin_token=os.environ.get(TOKEN_VARIABLE),
        audit_file=given["audit_file"],
    )


def _store_from_environment() -> str | None:
    """Return the URL in the environment without its password, which the driver gets where it looks for one itself."""
    url = os.environ.get(STORE_VARIABLE)
    if not url:
        return None
    url, password = _split_password(url)
    if password is not None:
        os.environ["PGPASSWORD"] = password
    return url


def _vault_settings(given: dict[str, str | None]) -> VaultSettings:
    addr = given["vault_addr"]
    if not addr:
        raise click.UsageError("--engine vault needs --vault-addr, or VAULT_ADDR in the environment")
    ca_file = given["vault_ca_file"]
    options = VaultSettings(
        addr=addr, ca_file=Path(ca_file).resolve() if ca_file else None, namespace=given["vault_namespace"]
    )
    names = ("transit_mount", "log_mount", "kv_mount", "approle_mount", "prefix")
    chosen: dict[str, Any] = {name: given[name] for name in names if given[name]}
    return replace(options, **chosen)


def _check_before_making(options: InitOptions) -> None:
    """Refuse what can be known to fail before the first file is written."""
    if options.engine == "vault" and not options.admin_token:
        raise ConfigurationError(
            f"setting Vault up needs an administrator's token: put it into {TOKEN_VARIABLE} for this one command"
        )
    if options.store is None or options.store.startswith("sqlite:"):
        return
    from contextlib import closing

    from keyvault.store.database import Database

    with closing(Database(options.store)) as database:
        database.revision()


def _print_steps(app: App, steps: list[Step]) -> None:
    app.announce(load_settings(app.home).clock)
    app.emit({"home": str(app.home), "steps": [{"item": step.item, "outcome": step.outcome} for step in steps]})
    for step in steps:
        app.say(f"{step.outcome:<14}{step.item}")
    app.say(f"The home {app.home} is ready.")


@click.command()
@json_option
@click.pass_obj
def doctor(app: App) -> int:
    """Check the home, its store and its engine, and say how to mend what is wrong.

    Exit code 1 if anything failed. What could not be checked says so and does not count as good. With VAULT_TOKEN, an
    administrator's token, the items that only an administrator may read are checked too.
    """
    app.settings()
    from keyvault.doctor import check_home

    checks = check_home(app.home, admin_token=os.environ.get(TOKEN_VARIABLE))
    failed = sum(check.ok is False for check in checks)
    unchecked = sum(check.ok is None for check in checks)
    app.emit({"checks": [_as_json(check) for check in checks], "failed": failed, "not_checked": unchecked})
    for check in checks:
        app.say(f"{MARKS[check.ok]:<12} {check.name}: {check.detail}")
        if check.ok is False and check.remedy:
            app.say(f"{'':<12}   to mend it: {check.remedy}")
    app.say(f"{len(checks)} checks: {failed} failed, {unchecked} not made")
    return EXIT_REFUSED if failed else 0


def _as_json(check: Check) -> dict[str, object]:
    return {"name": check.name, "ok": check.ok, "detail": check.detail, "remedy": check.remedy}


@click.command()
@json_option
@click.pass_obj
def status(app: App) -> None:
    """Show where the home stands. Only the database is asked, not the engine: `doctor` checks that."""
    with app.database() as (settings, database):
        from keyvault.states import KeyState
        from keyvault.store import intents, system
        from keyvault.store import scopes as scope_store

        counts, unused, paused = database.read(
            lambda c: (scope_store.count_by_state(c), intents.count(c), system.is_paused(c))
        )
        store = database.dialect
    url = _split_password(settings.store)[0]
    engine = settings.vault.addr if settings.vault else settings.engine_dir
    pending = counts[KeyState.DEACTIVATED]
    app.emit(
        {
            "home": str(app.home),
            "id": settings.id,
            "engine": settings.engine,
            "engine_at": engine,
            "engine_checked": False,
            "custody": settings.custody,
            "store": store,
            "store_url": url,
            "scopes": {str(state): count for state, count in counts.items()},
            "pending_destructions": pending,
            "destructions_paused": paused,
            "unused_keys": unused,
        }
    )
    app.say(f"home          {app.home} ({settings.id})")
    app.say(f"engine        {settings.engine}, {engine} (not asked; `keyvault doctor` checks it)")
    app.say(f"custody       {settings.custody}")
    app.say(f"store         {store}, {url}")
    app.say(f"scopes        {', '.join(f'{count} {state}' for state, count in counts.items())}")
    app.say(f"destructions  {'PAUSED' if paused else 'running'}, {pending} pending")
    app.say(f"unused keys   {unused}")
