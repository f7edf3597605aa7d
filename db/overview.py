"""All projects at a glance, in a bounded number of rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from db.connection import Connection, Row
from db.membership import among
from relay.core.model import Role, current_task
from relay.core.overview_ports import Most, ProjectRow, Rows, RunRow, SiteRow
from relay.core.run_states import Status

SHORT_TASKS = 16 * 1024
SHORT_PROGRESS = 4 * 1024
"""What is longer is not read."""

TOTALS = "SELECT (SELECT COUNT(*) FROM sites) AS sites, (SELECT COUNT(*) FROM projects) AS projects"
SITES = """SELECT id, uid, name, connected, seen_us, created_us FROM sites
    ORDER BY connected DESC, seen_us DESC, id DESC LIMIT :limit"""
_BEHIND = 'j.head - CASE WHEN c."offset" > p.joined THEN c."offset" ELSE p.joined END'
LAGS = f"""SELECT p.site_id, MAX({_BEHIND}) AS lag FROM participants p
    JOIN journals j ON j.project_id = p.project_id
    JOIN cursors c ON c.site_id = p.site_id AND c.project_id = p.project_id
    WHERE p.site_id {{among}} GROUP BY p.site_id"""
_OPEN = "(SELECT MAX(o.batch) FROM runs o WHERE o.project_id = p.id AND o.status NOT IN (0, 8))"
PROJECTS = f"""WITH found AS (SELECT p.id, p.name, p.site_id, p.batch, p.updated_us, {_OPEN} AS open FROM projects p)
    SELECT f.id, f.name, s.uid, s.name AS coordinator, COALESCE(f.open, f.batch) AS batch, j.epoch, j.head,
        (SELECT MAX(q.batch) FROM policies q WHERE q.project_id = f.id AND q.queued) AS queued
    FROM found f JOIN sites s ON s.id = f.site_id JOIN journals j ON j.project_id = f.id
    ORDER BY CASE WHEN f.open IS NULL THEN 1 ELSE 0 END, f.updated_us DESC, f.id DESC LIMIT :limit"""
MEMBERS = f"""SELECT p.project_id, COUNT(*) AS members, SUM(CASE WHEN s.connected THEN 1 ELSE 0 END) AS online,
        MAX(CASE WHEN s.connected OR c."offset" IS NULL THEN 0 ELSE {_BEHIND} END) AS lag
    FROM participants p JOIN sites s ON s.id = p.site_id JOIN journals j ON j.project_id = p.project_id
    LEFT JOIN cursors c ON c.site_id = p.site_id AND c.project_id = p.project_id
    WHERE p.project_id {{among}} GROUP BY p.project_id"""
_SHOWN = f"FROM projects p JOIN runs r ON r.project_id = p.id AND r.batch = COALESCE({_OPEN}, p.batch)"
STANDINGS = f"""SELECT r.project_id, r.status, COUNT(*) AS n {_SHOWN}
    WHERE p.id {{among}} GROUP BY r.project_id, r.status"""
RUNS = f"""SELECT r.id, r.project_id, r.batch, r.site_uid, s.name, r.role, r.status, r.cur_seq, g.at_us,
        CASE WHEN LENGTH(r.tasks) <= {SHORT_TASKS} THEN r.tasks END AS tasks,
        CASE WHEN LENGTH(g.body) <= {SHORT_PROGRESS} AND NOT g.is_binary THEN g.body END AS body
    {_SHOWN} JOIN sites s ON s.id = r.site_id LEFT JOIN progress g ON g.run = r.id AND g.sender_id = r.site_id
    WHERE p.id {{among}}
    ORDER BY CASE WHEN r.status IN (0, 8) THEN 1 ELSE 0 END, r.project_id DESC, r.role, r.id LIMIT :limit"""


class Overviews:
    """Serves `relay.core.overview_ports.Overviews`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def totals(self) -> tuple[int, int]:
        row = await self._db.fetch_one(TOTALS)
        assert row is not None
        return row["sites"], row["projects"]

    async def rows(self, most: Most) -> Rows:
        sites, projects = await self.totals()
        shown = await self._db.fetch_all(PROJECTS, {"limit": most.projects})
        ids = [row["id"] for row in shown]
        members = {row["project_id"]: row for row in await self._among(MEMBERS, ids)}
        standings: dict[int, dict[Status, int]] = {}
        for row in await self._among(STANDINGS, ids):
            standings.setdefault(row["project_id"], {})[Status(row["status"])] = row["n"]
        return Rows(
            sites_total=sites,
            projects_total=projects,
            sites=await self._sites(most.sites),
            projects=tuple(_project(row, members.get(row["id"])) for row in shown),
            runs=tuple(_run(row) for row in await self._among(RUNS, ids, limit=most.runs)),
            standings=standings,
        )

    async def _sites(self, limit: int) -> tuple[SiteRow, ...]:
        rows = await self._db.fetch_all(SITES, {"limit": limit})
        lags = {row["site_id"]: row["lag"] for row in await self._among(LAGS, [row["id"] for row in rows])}
        return tuple(
            SiteRow(
                id=row["id"],
                uid=row["uid"],
                name=row["name"],
                connected=bool(row["connected"]),
                seen_us=row["seen_us"],
                created_us=row["created_us"],
                lag=lags.get(row["id"]),
            )
            for row in rows
        )

    async def _among(self, sql: str, ids: Sequence[int], **values: Any) -> Sequence[Row]:
        if not ids:
            return ()
        return await self._db.fetch_all(
            sql.format(among=among(self._db.dialect, "ids")), {"ids": json.dumps(ids)} | values
        )


def _project(row: Row, members: Row | None) -> ProjectRow:
    return ProjectRow(
        id=row["id"],
        name=row["name"],
        coordinator_uid=row["uid"],
        coordinator_name=row["coordinator"],
        batch=row["batch"],
        queued=row["queued"],
        epoch=row["epoch"],
        head=row["head"],
        members=0 if members is None else members["members"],
        online=0 if members is None else members["online"],
        lag=0 if members is None else max(0, members["lag"]),
    )


def _run(row: Row) -> RunRow:
    task = current_task(json.loads(row["tasks"] or "[]"), row["cur_seq"]) or {}
    config = task.get("config")
    config = config if isinstance(config, dict) else {}
    return RunRow(
        id=row["id"],
        project_id=row["project_id"],
        batch=row["batch"],
        site_uid=row["site_uid"],
        site_name=row["name"],
        role=Role(row["role"]),
        status=Status(row["status"]),
        cur_seq=row["cur_seq"],
        round=_number(config.get("current_round")),
        rounds=_number(config.get("total_round")),
        progress=None if row["at_us"] is None else (row["at_us"], None if row["body"] is None else bytes(row["body"])),
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
