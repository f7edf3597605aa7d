"""What commands on the relay's own data share. Each returns its exit status; `guarded` turns errors into words."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

import db.migrate
from db.connect import Database
from db.store import Store
from relay import config
from relay.bus.postgres import NOTIFY
from relay.config import BadSetting, Settings
from relay.core.audit import SOURCE, Source
from relay.core.ports import StorageUnavailable
from relay.protocol.errors import ReplyError, invalid
from relay.serving import AlreadyServed
from relay.storage import SchemaTooOld, make_data_dir, open_database

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def guarded(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a command. An error that people can act on is told in words; any other is a bug, and shown whole."""
    SOURCE.set(Source(origin="local", actor=f"shell:{operating_user()}"))
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


def operating_user() -> str:
    """Who has called, for the audit record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # none that has a name: in a container, say
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def fail(what: str, hint: str = "") -> int:
    print(f"error: {what}" + (f"\n       {hint}" if hint else ""), file=sys.stderr)
    return 1


def show(table: Table) -> None:
    """Whole lines for a pipe, fitted ones for a terminal."""
    width = None if sys.stdout.isatty() else 250
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def settings_of(options: argparse.Namespace, **more: Any) -> Settings:
    return config.load(database_url=options.database_url, data_dir=options.data_dir, **more)


@asynccontextmanager
async def connected(settings: Settings, *, changes: bool = True) -> AsyncIterator[Database]:
    """The database, connected; afterwards a relay that serves it is told to look, if there may be changes."""
    make_data_dir(settings)
    database = open_database(settings)
    await database.connect()
    try:
        yield database
        if changes and database.dialect == "postgresql":
            async with database.autocommit() as connection:
                await connection.execute(NOTIFY)
    finally:
        await database.disconnect()


@asynccontextmanager
async def open_store(options: argparse.Namespace, *, changes: bool = True) -> AsyncIterator[Store]:
    """The storage. Without `changes` a relay that serves it is not disturbed: it goes on with what it remembers."""
    settings = settings_of(options)
    async with connected(settings, changes=changes) as database:
        missing = await db.migrate.pending(database)
        if missing and not settings.is_sqlite:
            raise SchemaTooOld(f"the database lacks {len(missing)} migrations; run `starfish-relay migrate` first")
        await db.migrate.migrate(database)
        yield Store(database)


def seconds(text: str) -> int:
    """`90d` in seconds. Raises `ReplyError` with `invalid`."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None or int(match[1]) == 0:
        raise invalid(time=f"a number with s, m, h or d, such as 90d; got {text!r}")
    return int(match[1]) * _UNITS[match[2]]
