"""Where the data is, from the settings: the database, brought up to date, and the bytes of blobs and files."""

from __future__ import annotations

import logging

import db.migrate
from db.connect import Database
from db.connection import Limits as DatabaseLimits
from relay.blobs.local import LocalFiles
from relay.config import BadSetting, Settings

log = logging.getLogger(__name__)


class SchemaTooOld(Exception):
    """The database lacks migrations, and the relay was not told to apply them."""


def make_data_dir(settings: Settings) -> None:
    """A data directory that is not there yet is made for this user alone; one that is there stays as it is."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def open_database(settings: Settings) -> Database:
    """The database of these settings, not connected yet."""
    limits = DatabaseLimits(acquire_timeout_s=settings.database_timeout_s, pg_connections=settings.database_connections)
    return Database(settings.database_url, limits)


def open_files(settings: Settings) -> LocalFiles:
    """Where the bytes of blobs and files are.

    Raises:
        BadSetting: an S3 bucket is configured, and what is needed for it is not installed.
    """
    root = settings.data_dir / "files"
    if not settings.s3_url:
        return LocalFiles(root)
    try:
        from relay.blobs.s3 import S3Files  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as missing:
        raise BadSetting(
            f"STARFISH_S3_URL: {missing.name} is not installed; pip install 'starfish-relay[s3]'"
        ) from missing
    return S3Files(
        root,
        settings.s3_url,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        redirect=settings.s3_redirect,
    )


async def bring_up_to_date(database: Database, settings: Settings) -> None:
    """Apply the migrations that are missing, if this is allowed.

    Raises:
        SchemaTooOld: on PostgreSQL, unless told to migrate.
        db.migrate.SchemaTooNew: a later release has been at this database.
    """
    missing = await db.migrate.pending(database)
    if missing and not (settings.is_sqlite or settings.migrate):
        raise SchemaTooOld(
            f"the database lacks {len(missing)} migrations, from {missing[0].number:04}_{missing[0].name}; "
            "run `starfish-relay migrate`, or set STARFISH_MIGRATE=true"
        )
    for migration in await db.migrate.migrate(database):
        log.info("migrated: %04d_%s", migration.number, migration.name)
