"""What batches were started with, and how they stand with it. When a batch is due is in a table of its own."""

from __future__ import annotations

import msgspec

from db.connection import Connection
from relay.core.policy import Policy, Standing

GET = """SELECT p.policy, p.queued, p.since_us, p.lost_us, d.due_us FROM policies p
    LEFT JOIN deadlines d ON d.project_id = p.project_id AND d.batch = p.batch
    WHERE p.project_id = :project_id AND p.batch = :batch"""
PUT = """INSERT INTO policies (project_id, batch, policy, queued, since_us, lost_us)
    VALUES (:project_id, :batch, :policy, :queued, :since_us, :lost_us)
    ON CONFLICT (project_id, batch) DO UPDATE SET policy = excluded.policy, queued = excluded.queued,
        since_us = excluded.since_us, lost_us = excluded.lost_us"""
DROP = "DELETE FROM policies WHERE project_id = :project_id AND batch = :batch"
PUT_DUE = """INSERT INTO deadlines (project_id, batch, due_us) VALUES (:project_id, :batch, :due_us)
    ON CONFLICT (project_id, batch) DO UPDATE SET due_us = excluded.due_us"""
DROP_DUE = "DELETE FROM deadlines WHERE project_id = :project_id AND batch = :batch"
QUEUED = "SELECT batch FROM policies WHERE project_id = :project_id AND queued"
IN_FORCE = """SELECT p.project_id, p.batch FROM policies p WHERE p.queued OR EXISTS (
        SELECT 1 FROM runs r WHERE r.project_id = p.project_id AND r.batch = p.batch AND r.status NOT IN (0, 8))
    ORDER BY p.project_id, p.batch"""


class Policies:
    """Serves `relay.core.project_ports.Policies`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def get(self, project_id: int, batch: int) -> tuple[Policy, Standing] | None:
        row = await self._db.fetch_one(GET, {"project_id": project_id, "batch": batch})
        if row is None:
            return None
        standing = Standing(
            queued=bool(row["queued"]), since_us=row["since_us"], due_us=row["due_us"], lost_us=row["lost_us"]
        )
        return msgspec.json.decode(row["policy"], type=Policy), standing

    async def put(self, project_id: int, batch: int, policy: Policy, standing: Standing) -> None:
        key = {"project_id": project_id, "batch": batch}
        values = {
            "policy": msgspec.json.encode(policy).decode(),
            "queued": standing.queued,
            "since_us": standing.since_us,
            "lost_us": standing.lost_us,
        }
        await self._db.execute(PUT, key | values)
        if standing.due_us is None:
            await self._db.execute(DROP_DUE, key)
        else:
            await self._db.execute(PUT_DUE, key | {"due_us": standing.due_us})

    async def drop(self, project_id: int, batch: int) -> None:
        key = {"project_id": project_id, "batch": batch}
        await self._db.execute(DROP, key)
        await self._db.execute(DROP_DUE, key)

    async def queued(self, project_id: int) -> int | None:
        row = await self._db.fetch_one(QUEUED, {"project_id": project_id})
        return None if row is None else row["batch"]

    async def in_force(self) -> list[tuple[int, int]]:
        return [(row["project_id"], row["batch"]) for row in await self._db.fetch_all(IN_FORCE)]
