"""Health: is the process alive, can it do its work, and how is it.

/health/live     200 as long as the event loop turns
/health/ready    200 only if the database and the disk really answered just now; else 503, with what is wrong
/health          for people: version, uptime, what is connected, how far behind the slowest session is
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.routing import Route

from relay.core.node import Node
from relay.core.ports import StorageUnavailable
from relay.web.replies import Json

if TYPE_CHECKING:
    from relay.config import Settings

CHECK_TIMEOUT_S = 3.0
GOOD_FOR_S = 1.0
"""A check is not made more often than this, however many ask."""


class Health:
    """See the module."""

    def __init__(self, node: Node, settings: Settings, draining: Callable[[], bool]) -> None:
        self._node = node
        self._settings = settings
        self._draining = draining
        self._since = time.monotonic()
        self._checked_at = -GOOD_FOR_S
        self._problems: dict[str, str] = {}
        self._checking: asyncio.Task[dict[str, str]] | None = None

    def routes(self) -> list[Route]:
        return [
            Route("/health", self.report),
            Route("/health/live", self.live),
            Route("/health/ready", self.ready),
        ]

    async def live(self, _request: Request) -> Json:
        return Json({"status": "live"})

    async def ready(self, _request: Request) -> Json:
        problems = await self.problems()
        if problems:
            return Json({"status": "not ready", "problems": problems}, 503, {"Retry-After": "2"})
        return Json({"status": "ready"})

    async def report(self, request: Request) -> Json:
        problems = await self.problems()
        node = self._node
        sessions = list(node.all_sessions())
        body: dict[str, Any] = {
            "status": "not ready" if problems else "ready",
            "problems": problems,
            "version": node.version,
            "node": node.name,
            "uptime_s": round(time.monotonic() - self._since, 1),
            "database": "sqlite" if self._settings.is_sqlite else "postgresql",
            "sites_online": len(node.presence.online_sites()),
            "sessions": len(sessions),
            "projects_live": len(node.hubs),
            "audit_head": await self._audit_head(),
            "client": request.client.host if request.client else "",
            "lag_events": max((session.outbox.lag for session in sessions), default=0),
        }
        return Json(body, 503 if problems else 200)

    async def _audit_head(self) -> dict[str, Any] | None:
        """The last entry of the audit record, to be kept elsewhere as an anchor; None while it cannot be read."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S), self._node.store.snapshot() as tx:
                head = await tx.audit.head()
        except (StorageUnavailable, TimeoutError):
            return None
        return {"seq": head.seq, "hash": head.hash}

    async def problems(self) -> dict[str, str]:
        """What keeps the relay from its work now, by part; empty when all is well."""
        if self._draining():
            return {"relay": "it drains and will stop"}
        if time.monotonic() - self._checked_at < GOOD_FOR_S:
            return self._problems
        if self._checking is None:
            self._checking = asyncio.create_task(self._check(), name="health-check")
            self._checking.add_done_callback(self._done)
        return await asyncio.shield(self._checking)

    def _done(self, task: asyncio.Task[dict[str, str]]) -> None:
        self._checking = None
        if not task.cancelled() and task.exception() is None:
            self._problems, self._checked_at = task.result(), time.monotonic()

    async def _check(self) -> dict[str, str]:
        problems = {}
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._node.store.check()
        except (StorageUnavailable, TimeoutError):
            problems["database"] = "it does not answer, or takes no change"
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                disk = await asyncio.to_thread(_check_disk, self._settings.data_dir, self._settings.min_free_bytes)
        except TimeoutError:
            disk = "it does not answer"
        if disk:
            problems["disk"] = disk
        return problems


def _check_disk(directory: Path, min_free_bytes: int) -> str:
    """Write to the data directory, as the work does. Returns what is wrong, or nothing."""
    try:
        free = shutil.disk_usage(directory).free
        probe = directory / ".health"
        with probe.open("wb") as file:
            file.write(b"1")
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        return f"the data directory cannot be written: {error.strerror}"
    if free < min_free_bytes:
        return f"{free} bytes are free, fewer than STARFISH_MIN_FREE_BYTES ({min_free_bytes})"
    return ""
