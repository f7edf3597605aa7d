"""What `import-starfish` does."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from rich.table import Table

import db.migrate
from db import starfish
from relay.cli.backups import nobody_serving
from relay.cli.run import connected, fail, settings_of, show
from relay.cli.words import command
from relay.storage import SchemaTooOld, open_files
from relay.takeover import Conflict, Summary, take_over

KINDS = ("users", "sites", "projects", "participants", "runs", "files")


def add_import_starfish(parser: argparse.ArgumentParser) -> None:
    command(
        parser,
        import_starfish,
        "starfish-relay import-starfish --from postgresql://starfish@old.example/starfish --media /starfish/artifacts",
    )
    parser.add_argument(
        "--from", dest="source", metavar="URL", required=True, help="the old router's database, postgresql://…"
    )
    parser.add_argument(
        "--media", metavar="DIR", type=Path, help="its folder of artifacts; left out, files are not taken"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what there is to take, and take nothing")


def import_starfish(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    if options.media is not None and not options.media.is_dir():
        return fail(f"--media: {options.media} is no directory")

    async def run() -> Summary:
        old = await starfish.read(options.source)
        with nobody_serving(settings):
            async with connected(settings) as database:
                missing = await db.migrate.pending(database)
                if missing and not settings.is_sqlite:
                    raise SchemaTooOld("the database lacks migrations; run `starfish-relay migrate` first")
                await db.migrate.migrate(database)
                return await take_over(old, database, open_files(settings), options.media, dry=options.dry_run)

    try:
        summary = asyncio.run(run())
    except (starfish.NotTheOldRouter, Conflict) as error:
        return fail(str(error), "nothing was taken")
    _tell(summary, dry=options.dry_run)
    return 0


def _tell(summary: Summary, *, dry: bool) -> None:
    table = Table("what", "to take" if dry else "taken", "here already")
    for kind in KINDS:
        table.add_row(kind, str(summary.new[kind]), str(summary.here[kind]))
    show(table)
    for remark in summary.remarks:
        print(f"! {''.join(one if one.isprintable() else '�' for one in remark)}")
