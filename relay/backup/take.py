"""Taking a backup, beside a relay that serves.

All rows are read in one transaction, so that they are of one moment. What they name of contents is there at that moment
(a blob is complete only when its bytes are in their place), and stays until it is copied: nothing is dropped meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import msgspec

import db.migrate
from db import dumps, facts
from db.audit import Audit
from db.connect import Database
from db.connection import Connection
from relay import __version__
from relay.backup.archive import Writer
from relay.backup.manifest import CONTENTS, FORMAT, NAME, BadBackup, Manifest, Table, content_file, table_file
from relay.blobs.local import LocalFiles
from relay.core.audit import make
from relay.core.audit_chain import Deed
from relay.core.node import Node
from relay.core.ports import StorageUnavailable

Progress = Callable[[int, int], None]
"""Is told how many bytes of the contents, of how many, are copied."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    schema: int
    tables: dict[str, Table]
    counters: dict[str, int]
    contents: list[tuple[str, int]]


async def take(database: Database, files: LocalFiles, writer: Writer, *, to: str, progress: Progress) -> Manifest:
    """Write a whole backup. That it was taken, and `to` where, is the last entry of the audit record in it.

    Raises:
        BadBackup: the database's schema is none of this release.
        StorageUnavailable: the database does not answer.
        OSError: the backup cannot be written.
    """
    schema = await _schema(database)
    now_us = Node.now_us()
    with files.all_kept():
        if "audit" in dumps.tables(schema):
            async with database.transaction() as connection:
                await Audit(connection).append([make(now_us, Deed.BACKUP, None, "storage", to=to)])
        async with database.snapshot() as connection:
            rows = await _rows(connection, writer, schema)
        with _spooled() as (file, digest):
            for content in rows.contents:
                _write(file, digest, [content])
            writer.put(CONTENTS, file)
        lost = await asyncio.to_thread(_copy, files, writer, rows.contents, progress)
    manifest = Manifest(
        format=FORMAT,
        release=__version__,
        schema=rows.schema,
        taken_us=now_us,
        tables=rows.tables,
        counters=rows.counters,
        contents=len(rows.contents) - len(lost),
        content_bytes=sum(size for _, size in rows.contents),
        contents_sha256=digest.hexdigest(),
        lost=lost,
    )
    with _spooled() as (file, _):
        file.write(msgspec.json.format(_encode(manifest)))
        writer.put(NAME, file)
    return manifest


async def _schema(database: Database) -> int:
    applied = await facts.applied(database)
    known = {migration.number for migration in db.migrate.all_migrations()}
    if applied != {number for number in known if number <= max(applied, default=0)}:
        raise BadBackup("the database's schema is none of this release: back it up with the release that serves it")
    return max(applied, default=0)


async def _rows(connection: Connection, writer: Writer, schema: int) -> _Rows:
    tables = {}
    for name in dumps.tables(schema):
        columns = await dumps.columns(connection, name)
        count = 0
        with _spooled() as (file, digest):
            async for page in dumps.pages(connection, name, columns):
                await asyncio.to_thread(_write, file, digest, page)
                count += len(page)
            await asyncio.to_thread(writer.put, table_file(name), file)
        tables[name] = Table([column.name for column in columns], count, digest.hexdigest())
    counters = await dumps.counters(connection)
    return _Rows(schema=schema, tables=tables, counters=counters, contents=await dumps.contents(connection, schema))


def _copy(files: LocalFiles, writer: Writer, contents: Sequence[tuple[str, int]], progress: Progress) -> list[str]:
    """Copy, or link, the contents. Returns those that were missing or damaged, and are left out."""
    total, done, lost = sum(size for _, size in contents), 0, []
    progress(0, total)
    for sha256, size in contents:
        try:
            writer.put_content(content_file(sha256), size, files.pieces(sha256), files.lying_at(sha256))
        except StorageUnavailable as error:
            if not _is_loss(error):
                raise
            lost.append(sha256)
        done += size
        progress(done, total)
    return lost


def _is_loss(error: StorageUnavailable) -> bool:
    """It is gone, or damaged; else a disk or a bucket does not answer now, and a later backup has it."""
    return error.__cause__ is None or type(error.__cause__).__name__ in ("FileNotFoundError", "NotFoundError")


@contextmanager
def _spooled() -> Iterator[tuple[IO[bytes], Any]]:
    """A file that is on disk only once it is long, and a hash for what is written to it."""
    with tempfile.SpooledTemporaryFile(max_size=8 * 1024 * 1024) as file:
        yield file, hashlib.sha256()


def _write(file: IO[bytes], digest: Any, rows: Sequence[Sequence[Any]]) -> None:
    lines = b"".join(_encode(row) + b"\n" for row in rows)
    digest.update(lines)
    file.write(lines)
