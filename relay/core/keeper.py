"""What changes often and may be written a moment later: cursors, the newest progress, presence.

The newest value of each waits in memory and is written in one transaction, at most every `interval_s`. While the
storage does not answer it goes on waiting; the values are bounded by what they belong to (sites, projects, runs),
never by how often they change. A crash loses the last moment of it: a site is then shown events again that it had
acknowledged, and knows them by their offsets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relay.core.model import Entry
from relay.core.ports import StorageUnavailable, Store

log = logging.getLogger(__name__)


class Keeper:
    """See the module."""

    def __init__(self, store: Store, now_us: Callable[[], int], interval_s: float = 0.05) -> None:
        self._store = store
        self._now_us = now_us
        self._interval_s = interval_s
        self._cursors: dict[tuple[int, int], int] = {}
        self._progress: dict[tuple[int, int], Entry] = {}
        self._presence: dict[int, bool] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def acknowledged(self, site_id: int, project_id: int, offset: int) -> None:
        key = (site_id, project_id)
        self._cursors[key] = max(offset, self._cursors.get(key, 0))
        self._wake()

    def progressed(self, entry: Entry) -> None:
        draft = entry.draft
        assert draft.run is not None and draft.sender_id is not None
        self._progress[draft.run, draft.sender_id] = entry
        self._wake()

    def changed_presence(self, site_id: int, online: bool) -> None:
        self._presence[site_id] = online
        self._wake()

    def forget(self, site_id: int, project_id: int) -> None:
        """The site left the project: what it had acknowledged there is void."""
        self._cursors.pop((site_id, project_id), None)

    async def cursors_of(self, site_id: int) -> dict[int, int]:
        """Project id → the highest offset acknowledged, written down already or not."""
        waiting = {project: offset for (site, project), offset in self._cursors.items() if site == site_id}
        async with self._store.snapshot() as tx:
            stored = await tx.cursors.of_site(site_id)
        return _newest(stored, waiting)

    async def standings(self, site_ids: Sequence[int]) -> dict[int, dict[int, int | None]]:
        """Site id → the projects that it takes part in, each with the highest offset acknowledged there.

        Written down already or not. A site that takes part in none is left out.
        """
        waiting = dict(self._cursors)  # before the storage is asked: what is written meanwhile is not missed
        async with self._store.snapshot() as tx:
            stored = await tx.participants.standings(site_ids)
        for (site_id, project_id), offset in waiting.items():
            standing = stored.get(site_id)
            if standing is not None and project_id in standing:
                standing[project_id] = max(offset, standing[project_id] or 0)
        return stored

    async def cursors_in(self, project_id: int) -> dict[int, int]:
        """Site id → the highest offset acknowledged, written down already or not."""
        waiting = self.waiting_cursors(project_id)
        async with self._store.snapshot() as tx:
            stored = await tx.cursors.of_project(project_id)
        return _newest(stored, waiting)

    def waiting_cursors(self, project_id: int) -> dict[int, int]:
        """Site id → the offset acknowledged, as far as that is not written down yet."""
        return {site: offset for (site, project), offset in self._cursors.items() if project == project_id}

    def waiting_progress(self, project_id: int, batch: int) -> Mapping[tuple[int, int], Entry]:
        return {
            key: entry
            for key, entry in self._progress.items()
            if entry.project_id == project_id and entry.draft.batch == batch
        }

    async def close(self) -> None:
        """Write what waits, once, and end."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        try:
            await self._write()
        except StorageUnavailable as error:
            log.warning("cursors and presence not written at the end: %s", error.cause)

    def _wake(self) -> None:
        if self._task is None and not self._closing.is_set():
            self._task = asyncio.create_task(self._run(), name="keeper")

    async def _run(self) -> None:
        pause_s = self._interval_s
        try:
            while (self._cursors or self._progress or self._presence) and not self._closing.is_set():
                await self._pause(pause_s)
                try:
                    await self._write()
                    pause_s = self._interval_s
                except StorageUnavailable as error:
                    log.warning("cursors and presence wait: %s", error.cause)
                    pause_s = min(pause_s * 2 + 0.1, 5.0)
        finally:
            self._task = None

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass

    async def _write(self) -> None:
        cursors, progress, presence = dict(self._cursors), dict(self._progress), dict(self._presence)
        if not (cursors or progress or presence):
            return
        now_us = self._now_us()
        async with self._store.transaction() as tx:
            if cursors:
                await tx.cursors.advance(cursors, now_us)
            if progress:
                await tx.progress.put(list(progress.values()))
            if presence:
                await tx.sites.record_presence({site: (online, now_us) for site, online in presence.items()})
        _settle(self._cursors, cursors)
        _settle(self._progress, progress)
        _settle(self._presence, presence)


def _newest(stored: Mapping[int, int], waiting: Mapping[int, int]) -> dict[int, int]:
    return {key: max(stored.get(key, 0), waiting.get(key, 0)) for key in stored.keys() | waiting.keys()}


def _settle(waiting: dict[Any, Any], written: dict[Any, Any]) -> None:
    """Forget what was written, unless it has changed meanwhile."""
    for key, value in written.items():
        if waiting.get(key) == value:
            del waiting[key]
