"""Cursors and the newest progress: small state that is overwritten, never appended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from db import records
from db.connection import Connection
from relay.core.model import Entry

OF_SITE = 'SELECT project_id, "offset" FROM cursors WHERE site_id = :site_id'
OF_PROJECT = 'SELECT site_id, "offset" FROM cursors WHERE project_id = :project_id'
ADVANCE = """INSERT INTO cursors (site_id, project_id, "offset", updated_us)
    SELECT s.id, p.id, CAST(:offset AS BIGINT), CAST(:now_us AS BIGINT) FROM sites s, projects p
    WHERE s.id = :site_id AND p.id = :project_id
    ON CONFLICT (site_id, project_id) DO UPDATE SET "offset" = excluded."offset", updated_us = excluded.updated_us
    WHERE excluded."offset" > cursors."offset" """

_PROGRESS = "project_id, run, batch, sender_id, sender_uid, id, at_us, audience, is_binary, body"
PUT_PROGRESS = f"""INSERT INTO progress ({_PROGRESS})
    SELECT p.id, CAST(:run AS BIGINT), CAST(:batch AS BIGINT), CAST(:sender_id AS BIGINT), CAST(:sender_uid AS TEXT),
           CAST(:id AS TEXT), CAST(:at_us AS BIGINT), CAST(:audience AS TEXT), CAST(:is_binary AS BOOLEAN), :body
    FROM projects p WHERE p.id = :project_id
    ON CONFLICT (run, sender_id) DO UPDATE SET id = excluded.id, at_us = excluded.at_us, audience = excluded.audience,
        is_binary = excluded.is_binary, body = excluded.body WHERE excluded.at_us >= progress.at_us"""
PROGRESS_OF_BATCH = f"""SELECT {_PROGRESS} FROM progress
    WHERE project_id = :project_id AND batch = :batch ORDER BY run, sender_id"""


class Cursors:
    """Serves `relay.core.journal_ports.Cursors`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def of_site(self, site_id: int) -> dict[int, int]:
        rows = await self._db.fetch_all(OF_SITE, {"site_id": site_id})
        return {row["project_id"]: row["offset"] for row in rows}

    async def of_project(self, project_id: int) -> dict[int, int]:
        rows = await self._db.fetch_all(OF_PROJECT, {"project_id": project_id})
        return {row["site_id"]: row["offset"] for row in rows}

    async def advance(self, cursors: Mapping[tuple[int, int], int], now_us: int) -> None:
        # In one order everywhere, so that two flushes at once cannot wait for each other. A site or a project that
        # was deleted since is passed over.
        await self._db.execute_many(
            ADVANCE,
            [
                {"site_id": site_id, "project_id": project_id, "offset": offset, "now_us": now_us}
                for (site_id, project_id), offset in sorted(cursors.items())
            ],
        )


class Progress:
    """Serves `relay.core.journal_ports.ProgressTable`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def put(self, entries: Sequence[Entry]) -> None:
        wanted = (
            "project_id",
            "run",
            "batch",
            "sender_id",
            "sender_uid",
            "id",
            "at_us",
            "audience",
            "is_binary",
            "body",
        )
        rows = [records.event_values(entry) for entry in entries]
        rows.sort(key=lambda row: (row["run"], row["sender_id"]))
        await self._db.execute_many(PUT_PROGRESS, [{name: row[name] for name in wanted} for row in rows])

    async def of_batch(self, project_id: int, batch: int) -> list[Entry]:
        rows = await self._db.fetch_all(PROGRESS_OF_BATCH, {"project_id": project_id, "batch": batch})
        return [records.progress(row) for row in rows]
