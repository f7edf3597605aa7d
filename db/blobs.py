"""Blobs: what is known of large payloads, and which events refer to them. Their bytes are in the file store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from db import records
from db.connect import Connection
from db.membership import among
from relay.core.model import Blob, BlobRef, Entry

_BLOB = (
    "id, project_id, site_id, run, filename, media_type, metadata, concat, size, sha256, is_complete, created_us, "
    "expires_us, idle_us"
)
CREATE = f"""INSERT INTO blobs ({_BLOB}) VALUES (:id, :project_id, :site_id, :run, :filename, :media_type, :metadata,
    :concat, :size, :sha256, :is_complete, :created_us, :expires_us, :idle_us)"""
GET = f"SELECT {_BLOB} FROM blobs WHERE id = :id"
SET_SIZE = "UPDATE blobs SET size = :size WHERE id = :id AND size IS NULL"
EXTEND = "UPDATE blobs SET expires_us = :expires_us WHERE id = :id AND expires_us IS NOT NULL"
COMPLETE = """UPDATE blobs SET is_complete = TRUE, size = :size, sha256 = :sha256, expires_us = :expires_us,
    idle_us = CASE WHEN EXISTS (SELECT 1 FROM blob_refs WHERE blob_id = blobs.id) THEN NULL
              ELSE CAST(:now_us AS BIGINT) END
    WHERE id = :id AND NOT is_complete RETURNING id"""
DELETE = "DELETE FROM blobs WHERE id = :id"
REFS = "SELECT project_id, audience, position FROM blob_refs WHERE blob_id = :id"
REFER = """INSERT INTO blob_refs (blob_id, project_id, audience, position)
    VALUES (:blob_id, :project_id, :audience, :position)
    ON CONFLICT (blob_id, audience) DO UPDATE SET position = excluded.position
    WHERE excluded.position > blob_refs.position"""
IN_USE = "UPDATE blobs SET idle_us = NULL WHERE id = :blob_id AND idle_us IS NOT NULL"
HOLD = "SELECT id FROM blobs WHERE id {among}"
SIZE_OF_PROJECT = "SELECT COALESCE(SUM(size), 0) AS size FROM blobs WHERE project_id = :project_id"
SIZE_OF_SITE = "SELECT COALESCE(SUM(size), 0) AS size FROM blobs WHERE site_id = :site_id"
OPEN_OF_SITE = "SELECT COUNT(*) AS count FROM blobs WHERE site_id = :site_id AND NOT is_complete"


class Blobs:
    """Serves `relay.core.ports.Blobs`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def get(self, blob_id: str) -> Blob | None:
        row = await self._db.fetch_one(GET, {"id": blob_id})
        return None if row is None else records.blob(row)

    async def create(self, blob: Blob) -> None:
        await self._db.execute(CREATE, records.blob_values(blob))

    async def set_size(self, blob_id: str, size: int) -> None:
        await self._db.execute(SET_SIZE, {"id": blob_id, "size": size})

    async def extend(self, blob_id: str, expires_us: int) -> None:
        await self._db.execute(EXTEND, {"id": blob_id, "expires_us": expires_us})

    async def complete(self, blob_id: str, *, size: int, sha256: str, expires_us: int | None, now_us: int) -> bool:
        values = {"id": blob_id, "size": size, "sha256": sha256, "expires_us": expires_us, "now_us": now_us}
        return await self._db.fetch_one(COMPLETE, values) is not None

    async def delete(self, blob_id: str) -> None:
        await self._db.execute(DELETE, {"id": blob_id})

    # --- references

    async def refs(self, blob_id: str) -> list[BlobRef]:
        return [records.blob_ref(row) for row in await self._db.fetch_all(REFS, {"id": blob_id})]

    async def hold(self, blob_ids: Iterable[str]) -> set[str]:
        sql = HOLD.format(among=among(self._db.dialect, "ids", "TEXT"))
        if self._db.dialect == "postgresql":
            sql += " ORDER BY id FOR NO KEY UPDATE"
        rows = await self._db.fetch_all(sql, {"ids": json.dumps(sorted(set(blob_ids)))})
        return {row["id"] for row in rows}

    async def refer(self, entries: Sequence[Entry], *, position: int | None = None) -> None:
        rows = [_reference(entry, entry.offset if position is None else position) for entry in entries]
        await self._db.execute_many(REFER, rows)
        await self._db.execute_many(IN_USE, [{"blob_id": row["blob_id"]} for row in rows])

    # --- quotas

    async def size_of_project(self, project_id: int) -> int:
        return await self._size(SIZE_OF_PROJECT, {"project_id": project_id})

    async def size_of_site(self, site_id: int) -> int:
        return await self._size(SIZE_OF_SITE, {"site_id": site_id})

    async def open_of_site(self, site_id: int) -> int:
        row = await self._db.fetch_one(OPEN_OF_SITE, {"site_id": site_id})
        return 0 if row is None else int(row["count"])

    async def _size(self, sql: str, values: dict[str, int]) -> int:
        row = await self._db.fetch_one(sql, values)
        return 0 if row is None else int(row["size"])


def _reference(entry: Entry, position: int | None) -> dict[str, object]:
    audience = entry.draft.audience
    if audience is not None and entry.draft.sender_id is not None:
        audience |= {entry.draft.sender_id}
    return {
        "blob_id": entry.draft.blob,
        "project_id": entry.project_id,
        "audience": "" if audience is None else records.dump(sorted(audience)),
        "position": position,
    }
