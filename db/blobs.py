"""Blobs: what is known of large payloads, and which events refer to them. Their bytes are in the file store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from db import records
from db.connection import Connection
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
SIZE_OF_SITE = """SELECT COALESCE(SUM(size), 0) AS size FROM blobs
    WHERE site_id = :site_id AND (expires_us IS NULL OR expires_us > :now_us)"""
LIKE = f"""SELECT {_BLOB} FROM blobs WHERE site_id = :site_id AND concat = :concat AND metadata = :metadata
    ORDER BY created_us DESC, id LIMIT 1"""
OPEN_OF_SITE = "SELECT COUNT(*) AS count FROM blobs WHERE site_id = :site_id AND NOT is_complete"
DROP_OLD_REFS = """DELETE FROM blob_refs WHERE EXISTS (
    SELECT 1 FROM journals j WHERE j.project_id = blob_refs.project_id AND blob_refs.position < j.oldest)"""
_UNUSED = """NOT EXISTS (SELECT 1 FROM blob_refs r WHERE r.blob_id = blobs.id)
    AND NOT EXISTS (SELECT 1 FROM files f WHERE f.blob = blobs.id)"""
NOTE_IDLE = f"""UPDATE blobs SET idle_us = :now_us
    WHERE is_complete AND idle_us IS NULL AND expires_us IS NULL AND {_UNUSED}"""
DROP = f"""DELETE FROM blobs WHERE id IN (
    SELECT id FROM blobs WHERE expires_us <= :expired_us OR (idle_us <= :idle_us AND {_UNUSED}) LIMIT :limit)
    AND (expires_us <= :expired_us OR idle_us <= :idle_us) RETURNING {_BLOB}"""
"""The times are asked for twice: who refers to a blob meanwhile, or goes on with it, changes them under its lock."""
CONTENTS_AMONG = """SELECT sha256 FROM blobs WHERE sha256 {among} UNION SELECT sha256 FROM files WHERE sha256 {among}"""
CONTENTS_AFTER = """SELECT sha256, MAX(size) AS size FROM (
    SELECT sha256, size FROM blobs WHERE is_complete AND sha256 > :after
    UNION SELECT sha256, size FROM files WHERE sha256 > :after) AS contents
    GROUP BY sha256 ORDER BY sha256 LIMIT :limit"""
TOTAL_BYTES = """SELECT COALESCE(SUM(CASE WHEN is_complete THEN size ELSE 0 END), 0) AS complete,
    COALESCE(SUM(CASE WHEN is_complete THEN 0 ELSE size END), 0) AS unfinished FROM blobs"""
UNFINISHED_AMONG = "SELECT id FROM blobs WHERE id {among} AND NOT is_complete"


class Blobs:
    """Serves `relay.core.project_ports.Blobs`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def get(self, blob_id: str) -> Blob | None:
        row = await self._db.fetch_one(GET, {"id": blob_id})
        return None if row is None else records.blob(row)

    async def like(self, blob: Blob) -> Blob | None:
        values = {"site_id": blob.site_id, "concat": blob.concat, "metadata": blob.metadata}
        row = await self._db.fetch_one(LIKE, values)
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

    async def size_of_site(self, site_id: int, now_us: int) -> int:
        return await self._size(SIZE_OF_SITE, {"site_id": site_id, "now_us": now_us})

    async def open_of_site(self, site_id: int) -> int:
        row = await self._db.fetch_one(OPEN_OF_SITE, {"site_id": site_id})
        return 0 if row is None else int(row["count"])

    # --- what nobody needs

    async def drop_old_refs(self) -> None:
        await self._db.execute(DROP_OLD_REFS)

    async def note_idle(self, now_us: int) -> None:
        await self._db.execute(NOTE_IDLE, {"now_us": now_us})

    async def drop(self, *, expired_us: int, idle_us: int, limit: int) -> list[Blob]:
        values = {"expired_us": expired_us, "idle_us": idle_us, "limit": limit}
        return [records.blob(row) for row in await self._db.fetch_all(DROP, values)]

    async def contents_among(self, sha256s: Sequence[str]) -> set[str]:
        return await self._among(CONTENTS_AMONG, "sha256", sha256s)

    async def contents_after(self, sha256: str, *, limit: int) -> list[tuple[str, int]]:
        rows = await self._db.fetch_all(CONTENTS_AFTER, {"after": sha256, "limit": limit})
        return [(row["sha256"], row["size"]) for row in rows]

    async def unfinished_among(self, blob_ids: Sequence[str]) -> set[str]:
        return await self._among(UNFINISHED_AMONG, "id", blob_ids)

    async def total_bytes(self) -> tuple[int, int]:
        row = await self._db.fetch_one(TOTAL_BYTES)
        assert row is not None
        return int(row["complete"]), int(row["unfinished"])

    async def _among(self, sql: str, column: str, names: Sequence[str]) -> set[str]:
        sql = sql.format(among=among(self._db.dialect, "names", "TEXT"))
        return {row[column] for row in await self._db.fetch_all(sql, {"names": json.dumps(list(names))})}

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
