"""The whole relay at a glance, for its operators: sites, projects, runs, how fast it goes and who lags.

What is live comes from memory, the rest from one snapshot of a bounded number of rows. It is taken at most once in
`GOOD_FOR_S`, however many look. While the storage does not answer, the rows are those that were read last, and
`database.ok` says so.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from relay.core.meter import Meter
from relay.core.model import JsonObject, rfc3339
from relay.core.node import Node
from relay.core.overview_ports import Most, ProjectRow, Rows, RunRow, SiteRow
from relay.core.ports import StorageUnavailable
from relay.core.run_states import Status

GOOD_FOR_S = 1.0
PATIENCE_S = 3.0

_NOTHING = Rows(sites_total=0, projects_total=0, standings={})
_PARTS = (("epoch", "epochs"), ("step", "steps"), ("batch", "batches"), ("done", "total"), ("current", "total"))
"""What a site's progress may say of how far it is: so many, of how many."""


class Overview:
    """See the module.

    Args:
        database: what kind it is, for people.
    """

    def __init__(self, node: Node, database: str, most: Most | None = None) -> None:
        self._node = node
        self._database = database
        self._most = most or Most()
        self._meter = Meter(time.monotonic)
        self._since = time.monotonic()
        self._rows = _NOTHING
        self._latency_ms: float | None = None
        self._taken: JsonObject = {}
        self._taken_at = -GOOD_FOR_S
        self._taking: asyncio.Task[JsonObject] | None = None
        node.on_committed.append(lambda project_id, entries: self._meter.count(project_id, len(entries)))

    async def look(self) -> JsonObject:
        """How it is now, or was less than `GOOD_FOR_S` ago. The same object for all who look: not to be changed."""
        if time.monotonic() - self._taken_at < GOOD_FOR_S:
            return self._taken
        if self._taking is None:
            self._taking = asyncio.create_task(self._take(), name="overview")
            self._taking.add_done_callback(self._done)
        return await asyncio.shield(self._taking)

    def _done(self, task: asyncio.Task[JsonObject]) -> None:
        self._taking = None
        if not task.cancelled() and task.exception() is None:
            self._taken, self._taken_at = task.result(), time.monotonic()

    async def _take(self) -> JsonObject:
        is_ok = await self._read()
        rows, node = self._rows, self._node
        lags = _Lags(node)
        rate, rates = self._meter.rates()
        now_us = node.now_us()
        return {
            "at": rfc3339(now_us),
            "version": node.version,
            "node": node.name,
            "uptime_s": round(time.monotonic() - self._since, 1),
            "database": {"kind": self._database, "ok": is_ok, "latency_ms": self._latency_ms if is_ok else None},
            "sessions": sum(len(of_site) for of_site in node.sessions.values()),
            "sites_online": len(node.presence.online_sites()),
            "events_per_s": round(rate, 1),
            "events": self._meter.history(),
            "sites": [self._site(row, lags, now_us) for row in sorted(rows.sites, key=lambda row: row.name)],
            "projects": list(self._projects(rows, lags, rates)),
            "left_off": {
                "sites": rows.sites_total - len(rows.sites),
                "projects": rows.projects_total - len(rows.projects),
                "runs": sum(sum(of.values()) for of in rows.standings.values()) - len(rows.runs),
            },
        }

    async def _read(self) -> bool:
        """The rows anew. False if the storage does not answer."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_S), self._node.store.snapshot() as tx:
                await tx.overviews.totals()
                self._latency_ms = round((time.perf_counter() - began) * 1000, 2)
                self._rows = await tx.overviews.rows(self._most)
        except (StorageUnavailable, TimeoutError):
            return False
        return True

    def _site(self, row: SiteRow, lags: _Lags, now_us: int) -> JsonObject:
        online = self._node.presence.is_online(row.id)
        changed_us = row.seen_us if online == row.connected else now_us
        was_seen = online or row.connected or row.seen_us != row.created_us
        return {
            "uid": row.uid,
            "name": row.name,
            "online": online,
            "since": rfc3339(changed_us) if was_seen else None,
            "sessions": len(self._node.sessions.get(row.id, ())),
            "transport": self._transport(row.id),
            "lag": lags.of_site.get(row.id, row.lag),
            "last_seen": rfc3339(changed_us) if was_seen and not online else None,
        }

    def _transport(self, site_id: int) -> str | None:
        """How the site is connected. None: it is not, or its socket dropped a moment ago."""
        if self._node.sessions.get(site_id):
            return "websocket"
        if self._node.presence.sessions_of(site_id):
            return "stream"
        return "poll" if self._node.presence.beats(site_id) else None

    def _projects(self, rows: Rows, lags: _Lags, rates: Mapping[int, float]) -> Iterator[JsonObject]:
        runs: dict[int, list[RunRow]] = defaultdict(list)
        for run in rows.runs:
            runs[run.project_id].append(run)
        for row in rows.projects:
            hub = self._node.hubs.get(row.id)
            yield {
                "id": row.id,
                "name": row.name,
                "coordinator": {"uid": row.coordinator_uid, "name": row.coordinator_name},
                "epoch": row.epoch,
                "head": row.head if hub is None else max(row.head, hub.head),
                "members": row.members,
                "online": row.online,
                "lag_max": max(row.lag, lags.of_project.get(row.id, 0)),
                "events_per_s": rates.get(row.id, 0.0),
                "batch": _batch(row, rows.standings.get(row.id, {}), runs[row.id]),
                "runs": [_run(run) for run in sorted(runs[row.id], key=lambda run: (run.role, run.id))],
            }


class _Lags:
    """How far those who follow now are behind, in events: by site the most of its projects, by project of its sites."""

    def __init__(self, node: Node) -> None:
        self.of_site: dict[int, int] = {}
        self.of_project: dict[int, int] = {}
        for session in node.all_sessions():
            for lane in session.outbox.lanes.values():
                self._note(lane.member.site_id, lane.hub.project_id, lane.hub.head - lane.position)
        for reader in node.readers:
            self._note(reader.member.site_id, reader.hub.project_id, reader.hub.head - reader.position)

    def _note(self, site_id: int, project_id: int, lag: int) -> None:
        self.of_site[site_id] = max(lag, self.of_site.get(site_id, 0))
        self.of_project[project_id] = max(lag, self.of_project.get(project_id, 0))


def _batch(row: ProjectRow, standing: Mapping[Status, int], runs: list[RunRow]) -> JsonObject | None:
    """The batch that is open, or was last. It stands where the run does that is least far and has not failed."""
    if row.queued is not None:
        status = Status.STANDBY.display
        return {"id": row.queued, "queued": True, "status": status, "round": None, "rounds": None, "standing": {}}
    if not standing:
        return None
    lead = min(runs, key=lambda run: (run.role, run.id), default=None)
    slowest = min((status for status in standing if status is not Status.FAILED), default=Status.FAILED)
    return {
        "id": row.batch,
        "queued": False,
        "status": slowest.display,
        "round": lead.round if lead else None,
        "rounds": lead.rounds if lead else None,
        "standing": {status.display: count for status, count in sorted(standing.items())},
    }


def _run(run: RunRow) -> JsonObject:
    return {
        "id": run.id,
        "site": run.site_uid,
        "site_name": run.site_name,
        "role": run.role.display,
        "status": run.status.display,
        "round": run.round,
        "cur_seq": run.cur_seq,
        "progress": None if run.progress is None else {"at": rfc3339(run.progress[0]), "fraction": fraction(run)},
    }


def fraction(run: RunRow) -> float | None:
    """How far the site says it is, from 0 to 1; None if it does not say so, or in no words that are known.

    Nothing else that it tells is looked at.
    """
    try:
        said = msgspec.json.decode((run.progress and run.progress[1]) or b"null")
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    numbers = {name: float(value) for name, value in said.items() if _is_number(value)}
    for part, whole in _PARTS:
        if part in numbers and numbers.get(whole, 0) > 0:
            return _clamped(numbers[part] / numbers[whole])
    if "fraction" in numbers:
        return _clamped(numbers["fraction"])
    return _clamped(numbers["percent"] / 100) if "percent" in numbers else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _clamped(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 3)
