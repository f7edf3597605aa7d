"""What the commands do. Each returns its exit status; errors are turned into words by `guarded`."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.table import Column, Table

import db.migrate
from db.connect import Database
from db.store import Store
from relay import __version__, config
from relay.bus.postgres import NOTIFY
from relay.config import BadSetting, Settings
from relay.core import accounts
from relay.core.audit import SOURCE, Source
from relay.core.model import DEFAULT_SCOPES, Scope, rfc3339
from relay.core.node import Node
from relay.core.passwords import hash_now
from relay.core.ports import StorageUnavailable
from relay.protocol.errors import ReplyError, invalid
from relay.serving import AlreadyServed
from relay.storage import SchemaTooOld, open_database
from relay.telemetry import set_up_logging

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def guarded(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a command. An error that people can act on is told in words; any other is a bug, and shown whole."""
    SOURCE.set(Source(origin="local", actor=f"shell:{_operating_user()}"))
    try:
        return command(options)
    except KeyboardInterrupt:
        return 130
    except BadSetting as error:
        return fail(str(error), "`starfish-relay check-config` lists the settings")
    except StorageUnavailable as error:
        return fail(f"the database does not answer: {error.cause}", "is it running, and is DATABASE_URL right?")
    except (SchemaTooOld, db.migrate.SchemaTooNew) as error:
        return fail(str(error))
    except AlreadyServed as error:
        return fail(str(error), "stop that one, or give this one a database of its own: --data-dir, or DATABASE_URL")
    except ReplyError as error:
        return fail(error.message)
    except OSError as error:
        return fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def _operating_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # none that has a name: in a container, say
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def fail(what: str, hint: str = "") -> int:
    print(f"error: {what}" + (f"\n       {hint}" if hint else ""), file=sys.stderr)
    return 1


def show(table: Table) -> None:
    """Whole lines for a pipe, fitted ones for a terminal."""
    Console(width=None if sys.stdout.isatty() else 250).print(table)


def settings_of(options: argparse.Namespace, **more: Any) -> Settings:
    return config.load(database_url=options.database_url, data_dir=options.data_dir, **more)


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    """The database, connected; afterwards a relay that serves it is told to look."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = open_database(settings)
    await database.connect()
    try:
        yield database
        if database.dialect == "postgresql":
            async with database.autocommit() as connection:
                await connection.execute(NOTIFY)
    finally:
        await database.disconnect()


@asynccontextmanager
async def open_store(options: argparse.Namespace) -> AsyncIterator[Store]:
    settings = settings_of(options)
    async with _database(settings) as database:
        missing = await db.migrate.pending(database)
        if missing and not settings.is_sqlite:
            raise SchemaTooOld(f"the database lacks {len(missing)} migrations; run `starfish-relay migrate` first")
        await db.migrate.migrate(database)
        yield Store(database)


# --- serving


def serve(options: argparse.Namespace) -> int:
    import uvloop

    from relay.web.server import serve as serve_until_stopped

    settings = settings_of(options, host=options.host, port=options.port, migrate=options.migrate)
    set_up_logging(settings.log_level, settings.log_format)
    try:
        uvloop.run(serve_until_stopped(settings))
    except OSError as error:
        if error.strerror and "in use" in error.strerror:
            return fail(
                f"port {settings.port} of {settings.host} is taken", "choose another one: --port, or STARFISH_PORT"
            )
        raise
    return 0


def migrate(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with _database(settings_of(options)) as database:
            done = await db.migrate.migrate(database)
        for migration in done:
            print(f"applied {migration.number:04}_{migration.name}")
        print("the schema is up to date" if not done else f"{len(done)} applied; the schema is up to date")
        return 0

    return asyncio.run(run())


def check_config(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    table = Table("setting", "now", "what it is", title="Settings", title_justify="left")
    for one in fields(settings):
        is_url = one.name == "database_url"
        name = "DATABASE_URL" if is_url else f"STARFISH_{one.name.upper()}"
        value = settings.database_shown if is_url else getattr(settings, one.name)
        if one.metadata.get("secret"):
            value = "(set)" if value else ""
        table.add_row(name, ",".join(value) if isinstance(value, tuple) else str(value), one.metadata["doc"])
    show(table)
    unknown = config.unknown_names(os.environ)
    for name in unknown:
        print(f"warning: {name} is not a setting; is it misspelt?", file=sys.stderr)
    return 1 if unknown else 0


def version(_options: argparse.Namespace) -> int:
    print(f"starfish-relay {__version__}")
    return 0


# --- people


def create_superuser(options: argparse.Namespace) -> int:
    return _create_user(options, "STARFISH_SUPERUSER_PASSWORD", is_operator=True)


def create_user(options: argparse.Namespace) -> int:
    return _create_user(options, "STARFISH_USER_PASSWORD", is_operator=False)


def _create_user(options: argparse.Namespace, variable: str, *, is_operator: bool) -> int:
    accounts.check_username(options.username)
    password = _password(options.no_input, variable)
    accounts.check_password(password, options.username)
    password_hash = hash_now(password)

    async def run() -> int:
        async with open_store(options) as store:
            user = await accounts.create_user(
                store,
                username=options.username,
                email=options.email,
                password_hash=password_hash,
                is_operator=is_operator,
                now_us=Node.now_us(),
            )
        print(f"created {'operator' if is_operator else 'user'} {user.username}")
        return 0

    return asyncio.run(run())


def _password(no_input: bool, variable: str) -> str:
    if no_input:
        password = os.environ.get(variable, "")
        if not password:
            raise invalid(**{variable: "with --no-input the password is expected in this variable"})
        return password
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise invalid(password="the two are not the same")  # noqa: S106 - a reason
    return password


def disable_user(options: argparse.Namespace) -> int:
    return _set_active(options, False, f"disabled {options.username}; its sites' sessions are being closed")


def enable_user(options: argparse.Namespace) -> int:
    return _set_active(options, True, f"enabled {options.username}")


def _set_active(options: argparse.Namespace, active: bool, said: str) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            await accounts.set_active(store, options.username, active=active, now_us=Node.now_us())
        print(said)
        return 0

    return asyncio.run(run())


def change_password(options: argparse.Namespace) -> int:
    password = _password(options.no_input, "STARFISH_USER_PASSWORD")
    accounts.check_password(password, options.username)
    password_hash = hash_now(password)

    async def run() -> int:
        async with open_store(options) as store:
            await accounts.set_password(store, options.username, password_hash, Node.now_us())
        print(f"changed the password of {options.username}")
        return 0

    return asyncio.run(run())


def list_users(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            users = await accounts.list_users(store)
        table = Table("name", "email", "role", "sites", "created", "state")
        for user, sites in users:
            role = "operator" if user.is_operator else "user"
            state = "active" if user.is_active else "disabled"
            created = rfc3339(user.created_us)[:19] + "Z"
            table.add_row(user.username, user.email, role, str(sites), created, state)
        show(table)
        return 0

    return asyncio.run(run())


# --- sites and their tokens


def create_site(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            site = await accounts.create_site(
                store,
                owner=options.owner,
                uid=options.uid,
                name=options.name,
                description=options.description,
                now_us=Node.now_us(),
            )
        print(site.uid)
        return 0

    return asyncio.run(run())


def create_token(options: argparse.Namespace) -> int:
    now_us = Node.now_us()
    given = options.expires_in
    life_s = settings_of(options).token_lifetime_s if given is None else 0 if given == "never" else seconds(given)
    expires_us = now_us + int(life_s * 1e6) if life_s else None
    scopes = [Scope(name) for name in options.scope] or DEFAULT_SCOPES

    async def run() -> int:
        async with open_store(options) as store:
            _, secret = await accounts.create_token(
                store,
                site_uid=options.site,
                label=options.label,
                expires_us=expires_us,
                now_us=now_us,
                scopes=scopes,
            )
        print(secret)
        return 0

    return asyncio.run(run())


def seconds(text: str) -> int:
    """`90d` in seconds. Raises `ReplyError` with `invalid`."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None or int(match[1]) == 0:
        raise invalid(time=f"a number with s, m, h or d, such as 90d; got {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def list_tokens(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            tokens = await accounts.list_tokens(store, options.site)
        table = Table("id", "site", Column("uid", no_wrap=True), "label", "scopes", "created", "expires", "state")
        for token, site in tokens:
            expired = token.expires_us is not None and token.expires_us <= Node.now_us()
            state = "revoked" if token.revoked_us is not None else "expired" if expired else "good"
            expires = "never" if token.expires_us is None else rfc3339(token.expires_us)[:19] + "Z"
            created = rfc3339(token.created_us)[:19] + "Z"
            scopes = ", ".join(token.scopes)
            table.add_row(token.id, site.name, site.uid, token.label, scopes, created, expires, state)
        show(table)
        return 0

    return asyncio.run(run())


def revoke_token(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            done = await accounts.revoke_token(store, options.token, Node.now_us())
        if not done:
            return fail("no such token, or it was revoked before", "`starfish-relay token list` has the ids")
        print("revoked")
        return 0

    return asyncio.run(run())


# --- others


def run_job(options: argparse.Namespace) -> int:
    """The old router's cron job. The relay keeps presence by itself; the job is there so that cron lines still work."""

    async def run() -> int:
        async with open_store(options) as store, store.snapshot() as tx:
            _, sites = await tx.sites.visible_to(None, limit=100_000, skip=0)
        table = Table("site", "uid", "status", "since")
        for site in sites:
            status = "Connected" if site.connected else "Disconnected"
            table.add_row(site.name, site.uid, status, rfc3339(site.seen_us)[:19] + "Z")
        show(table)
        return 0

    return asyncio.run(run())


def demo(options: argparse.Namespace) -> int:
    missing = [name for name in ("sklearn", "cryptography", "pyrage") if find_spec(name) is None]
    if missing:
        return fail(f"the demo needs {', '.join(missing)}, not installed here", "pip install 'starfish-relay[demo]'")
    from relay.demo import main

    return main(rounds=options.rounds, as_json=options.json, plain=options.plain)
