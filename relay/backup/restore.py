"""Putting a backup back, into an empty place or, if told so, over what is there.

Contents come first, each checked by its hash. Then, in one transaction: what was there is removed, the rows go in, the
journals get new epochs, and the audit record goes on with what has been done. Whatever is wrong with the backup shows
before that transaction ends, and then the database is as it was.

A new epoch tells every client that the journal is another one than it has followed: a position ahead of the backup
would otherwise hide what comes next (docs/delivery.md).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import msgspec

import db.migrate
from db import dumps
from db.audit import Audit
from db.connect import Database
from db.connection import Connection
from relay.backup.archive import Reader, manifest_of
from relay.backup.manifest import CONTENTS, BadBackup, Manifest, content_file, read, table_file
from relay.backup.take import Progress
from relay.blobs.local import LocalFiles, sha256_checked
from relay.core.audit import make
from relay.core.audit_chain import ChainBroken, ChainHead, Deed, Verifier
from relay.core.change import new_epoch
from relay.core.model import rfc3339
from relay.core.node import Node

BATCH_ROWS = 500
BATCH_BYTES = 8 * 1024 * 1024
MAX_LINE_BYTES = 512 * 1024 * 1024
PIECE_BYTES = 1024 * 1024
LINKS_PAGE = 5000


class NotEmpty(BadBackup):
    """There are users in the database already, and nobody said to replace them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """`head`: of the audit record as it was in the backup."""

    manifest: Manifest
    journals: int
    head: ChainHead


async def restore(
    reader: Reader, database: Database, files: LocalFiles, *, force: bool, progress: Progress
) -> Restored:
    """See the module. Nobody serves the database meanwhile.

    Raises:
        NotEmpty: and `force` is not given.
        BadBackup: it is damaged, or of a later release; or somebody uses the database. Nothing of it was changed.
    """
    manifest = read(await asyncio.to_thread(manifest_of, reader))
    latest = db.migrate.all_migrations()[-1].number
    if not 1 <= manifest.schema <= latest:
        raise BadBackup(f"its schema is {manifest.schema:04}, this release ends at {latest:04}: use the later release")
    async with database.transaction() as connection:
        if await dumps.used_by_others(connection):
            raise BadBackup("a relay, or a command of one, uses this database: stop it first")
        if not force and not await dumps.is_empty(connection):
            raise NotEmpty("there are users in this database already: --force removes all that is there")
    with files.all_kept():
        await asyncio.to_thread(_contents, reader, manifest, files, progress)
        async with database.transaction() as connection:
            return await _rows(reader, manifest, connection)


# --- contents


def _contents(reader: Reader, manifest: Manifest, files: LocalFiles, progress: Progress) -> None:
    done, lost = 0, set(manifest.lost)
    progress(0, manifest.content_bytes)
    with reader.open(CONTENTS) as file:
        for line in _checked(file, CONTENTS, manifest.contents_sha256):
            sha256, size = msgspec.json.decode(line, type=tuple[str, int])
            if sha256 not in lost:
                _content(reader, sha256, size, files)
            done += size
            progress(done, manifest.content_bytes)


def _content(reader: Reader, sha256: str, size: int, files: LocalFiles) -> None:
    if not sha256_checked(sha256):
        raise BadBackup(f"{CONTENTS} names {sha256[:80]!r}, which is no content's name")
    digest, incoming = hashlib.sha256(), files.begin()
    try:
        with reader.open(content_file(sha256)) as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                incoming.write(piece)
        if digest.hexdigest() != sha256 or incoming.size != size:
            raise BadBackup(f"{content_file(sha256)} is damaged: its bytes are not what its name says")
        incoming.keep()
    finally:
        incoming.discard()


# --- rows


async def _rows(reader: Reader, manifest: Manifest, connection: Connection) -> Restored:
    await dumps.rebuild(connection, manifest.schema)
    for name in dumps.tables(manifest.schema):
        await _table(reader, manifest, connection, name)
    if gaps := await dumps.with_gaps(connection):
        raise BadBackup(f"the journals of the projects {gaps[:10]} lack events")
    await dumps.count_on(connection, manifest.counters)
    await dumps.bring_up_to_date(connection, manifest.schema)
    journals = await dumps.new_epochs(connection, new_epoch)
    head = await _chain(connection)
    what = {"taken": rfc3339(manifest.taken_us), "release": manifest.release}
    await Audit(connection).append([make(Node.now_us(), Deed.RESTORE, None, "storage", entries=head.seq, **what)])
    return Restored(manifest=manifest, journals=journals, head=head)


async def _table(reader: Reader, manifest: Manifest, connection: Connection, name: str) -> None:
    table = manifest.tables.get(name)
    columns = {column.name: column for column in await dumps.columns(connection, name)}
    if table is None or set(table.columns) != set(columns):
        raise BadBackup(f"{table_file(name)} does not have the columns of its schema")
    ordered = [columns[column] for column in table.columns]
    count = 0
    with reader.open(table_file(name)) as file:
        async for batch in _batches(_checked(file, table_file(name), table.sha256)):
            rows = [_row(line, ordered, name) for line in batch]
            await dumps.insert(connection, name, ordered, rows)
            count += len(rows)
    if count != table.rows:
        raise BadBackup(f"{table_file(name)} has {count} rows instead of {table.rows}")


def _row(line: bytes, columns: Sequence[dumps.Column], table: str) -> list[Any]:
    try:
        values = msgspec.json.decode(line, type=list[Any])
        return [
            base64.b64decode(value, validate=True) if column.is_bytes and value is not None else value
            for column, value in zip(columns, values, strict=True)
        ]
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise BadBackup(f"{table_file(table)} holds a row that is none: {error}") from None


async def _batches(lines: Iterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Lines, as many together as are read in one go beside the event loop."""
    while batch := await asyncio.to_thread(_batch, lines):
        yield batch


def _batch(lines: Iterator[bytes]) -> list[bytes]:
    batch, size = [], 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if len(batch) == BATCH_ROWS or size > BATCH_BYTES:
            break
    return batch


def _checked(file: IO[bytes], name: str, sha256: str) -> Iterator[bytes]:
    """The lines of a file; at its end, it is what was written, or `BadBackup` is raised."""
    digest = hashlib.sha256()
    while line := file.readline(MAX_LINE_BYTES):
        digest.update(line)
        yield line
    if digest.hexdigest() != sha256:
        raise BadBackup(f"{name} is damaged: its SHA-256 is not the one in the manifest")


async def _chain(connection: Connection) -> ChainHead:
    """The audit record is what was recorded. Returns its head."""
    verifier, audit = Verifier(), Audit(connection)
    try:
        verifier.begin(await audit.checkpoint())
        while page := await audit.links(verifier.head.seq, limit=LINKS_PAGE):
            await asyncio.to_thread(verifier.take, page)
        verifier.end(await audit.head())
    except ChainBroken as broken:
        raise BadBackup(f"the audit record in it is broken: {broken}") from None
    return verifier.head
