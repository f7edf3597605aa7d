"""What `backup` and `restore` do."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from relay.backup.archive import reading, writing
from relay.backup.manifest import BadBackup, Manifest
from relay.backup.restore import NotEmpty, Restored
from relay.backup.restore import restore as put_back
from relay.backup.take import take
from relay.cli.bars import shown
from relay.cli.run import connected, fail, settings_of
from relay.cli.words import command
from relay.config import Settings
from relay.core.model import rfc3339
from relay.serving import sole_server
from relay.storage import open_database, open_files


def add_backup(parser: argparse.ArgumentParser) -> None:
    command(
        parser,
        backup,
        "starfish-relay backup /backups/2026-11-25            a directory; on the same disk contents are linked\n"
        "starfish-relay backup /backups/2026-11-25.tar        a tar file",
    )
    parser.add_argument("target", metavar="DIR|FILE.tar", type=Path, help="where to put it; nothing is written over")


def add_restore(parser: argparse.ArgumentParser) -> None:
    command(
        parser,
        restore,
        "starfish-relay restore /backups/2026-11-25.tar --data-dir /var/lib/starfish-relay",
    )
    parser.add_argument("source", metavar="DIR|FILE.tar", type=Path, help="what `backup` has made")
    parser.add_argument("--force", action="store_true", help="remove all that is in the database first")


def backup(options: argparse.Namespace) -> int:
    """Returns 1 if the backup lacks contents that were missing or damaged already; it is there then, too."""
    settings = settings_of(options)

    async def run() -> Manifest:
        with writing(options.target) as writer, shown("contents") as progress:
            async with connected(settings) as database:
                return await take(database, open_files(settings), writer, to=options.target.name, progress=progress)

    try:
        manifest = asyncio.run(run())
    except BadBackup as error:
        return fail(str(error))
    rows = sum(table.rows for table in manifest.tables.values())
    print(f"{rows} rows, {manifest.contents} contents of {manifest.content_bytes} bytes, in {options.target}")
    for sha256 in manifest.lost:
        print(f"LOST  {sha256}: missing or damaged here, and not in the backup", file=sys.stderr)
    return 1 if manifest.lost else 0


def restore(options: argparse.Namespace) -> int:
    settings = settings_of(options)

    async def run() -> Restored:
        with reading(options.source) as reader, nobody_serving(settings), shown("contents") as progress:
            async with connected(settings) as database:
                files = open_files(settings)
                return await put_back(reader, database, files, force=options.force, progress=progress)

    try:
        _tell(asyncio.run(run()))
    except NotEmpty as error:
        return fail(str(error))
    except BadBackup as error:
        return fail(f"{options.source}: {error}", "nothing was changed in the database")
    return 0


@contextmanager
def nobody_serving(settings: Settings) -> Iterator[None]:
    """On SQLite: and nobody can begin to. Raises `AlreadyServed`."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        for file in open_database(settings).files[:1]:
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(sole_server(file, "a restore"))
        yield


def _tell(restored: Restored) -> None:
    manifest = restored.manifest
    rows = sum(table.rows for table in manifest.tables.values())
    print(f"{rows} rows and {manifest.contents} contents, as they were at {rfc3339(manifest.taken_us)}")
    print(f"{restored.journals} journals have a new epoch: clients re-read what they need")
    print(f"the audit record goes on after entry {restored.head}")
    print("tokens, keys and passwords are as they were then: revoke again what was revoked since")
    for sha256 in manifest.lost:
        print(f"LOST  {sha256}: was not in the backup", file=sys.stderr)
