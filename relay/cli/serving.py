"""What `serve`, `migrate` and `check-config` do."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from dataclasses import fields

from rich.table import Table

import db.migrate
from relay import config
from relay.cli.run import connected, fail, settings_of, show
from relay.cli.words import command
from relay.telemetry import set_up_logging


def add_serve(parser: argparse.ArgumentParser) -> None:
    command(
        parser,
        serve,
        "starfish-relay serve                         on http://127.0.0.1:8000, SQLite in ./data\n"
        "starfish-relay serve --host 0.0.0.0 --port 8443 --database-url postgresql://relay@db.example/starfish",
    )
    parser.add_argument("--host", metavar="H", help="default: $STARFISH_HOST, or 127.0.0.1")
    parser.add_argument("--port", metavar="P", type=int, help="default: $STARFISH_PORT, or 8000")
    parser.add_argument(
        "--migrate", action="store_true", default=None, help="bring an old PostgreSQL schema up to date first"
    )


def add_migrate(parser: argparse.ArgumentParser) -> None:
    command(parser, migrate, "starfish-relay migrate --database-url postgresql://relay@db.example/starfish")


def add_check_config(parser: argparse.ArgumentParser) -> None:
    command(parser, check_config, "STARFISH_PORT=8100 starfish-relay check-config")


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
        async with connected(settings_of(options)) as database:
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
