"""What is kept of the journals, and taking the oldest events from them.

The journal's new beginning is written down first, and what lies before it is removed by a transaction of its own: a
crash in between leaves rows that nobody needs, and the next removal takes them along. Neither holds the journal's row
while events are removed, so an append waits for one small update at most.
"""

from __future__ import annotations

from db.connection import Connection
from relay.core.model import Aged, Holding

_HOLDING = "project_id, oldest, head, keep_age_s, keep_bytes"
HOLDINGS = f"SELECT {_HOLDING} FROM journals ORDER BY project_id"
OWN_LIMITS = """SELECT project_id FROM journals WHERE keep_age_s IS NOT NULL OR keep_bytes IS NOT NULL LIMIT 1"""
SET_LIMITS = """UPDATE journals SET keep_age_s = :age_s, keep_bytes = :bytes WHERE project_id = :project_id
    RETURNING project_id"""
SIZE = """SELECT COALESCE(SUM(size), 0) AS n FROM events
    WHERE project_id = :project_id AND "offset" > :after AND "offset" <= :through"""
OLDEST = """SELECT "offset", at_us, size FROM events WHERE project_id = :project_id AND "offset" >= :oldest
    ORDER BY "offset" LIMIT :limit"""
ACKNOWLEDGED = """SELECT MIN(CASE WHEN COALESCE(c."offset", 0) > p.joined THEN c."offset" ELSE p.joined END) AS lowest
    FROM participants p LEFT JOIN cursors c ON c.site_id = p.site_id AND c.project_id = p.project_id
    WHERE p.project_id = :project_id"""
BEGIN_AT = "UPDATE journals SET oldest = :oldest WHERE project_id = :project_id AND oldest < :oldest"
REMOVE = """DELETE FROM events WHERE project_id = :project_id AND "offset" <
    (SELECT oldest FROM journals WHERE project_id = :project_id)"""


class Retention:
    """Serves `relay.core.journal_ports.Retention`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def holdings(self) -> list[Holding]:
        return [
            Holding(
                project_id=row["project_id"],
                oldest=row["oldest"],
                head=row["head"],
                age_s=row["keep_age_s"],
                bytes=row["keep_bytes"],
            )
            for row in await self._db.fetch_all(HOLDINGS)
        ]

    async def has_own_limits(self) -> bool:
        return await self._db.fetch_one(OWN_LIMITS) is not None

    async def set_limits(self, project_id: int, *, age_s: int | None, bytes_: int | None) -> bool:
        values = {"project_id": project_id, "age_s": age_s, "bytes": bytes_}
        return await self._db.fetch_one(SET_LIMITS, values) is not None

    async def size(self, project_id: int, after: int, through: int) -> int:
        row = await self._db.fetch_one(SIZE, {"project_id": project_id, "after": after, "through": through})
        return 0 if row is None else int(row["n"])

    async def oldest(self, project_id: int, begin: int, *, limit: int) -> list[Aged]:
        rows = await self._db.fetch_all(OLDEST, {"project_id": project_id, "oldest": begin, "limit": limit})
        return [Aged(offset=row["offset"], at_us=row["at_us"], size=row["size"]) for row in rows]

    async def acknowledged_by_all(self, project_id: int) -> int | None:
        row = await self._db.fetch_one(ACKNOWLEDGED, {"project_id": project_id})
        return None if row is None else row["lowest"]

    async def begin_at(self, project_id: int, oldest: int) -> None:
        await self._db.execute(BEGIN_AT, {"project_id": project_id, "oldest": oldest})

    async def remove(self, project_id: int) -> None:
        await self._db.execute(REMOVE, {"project_id": project_id})
