"""Hearing of changes on SQLite: the write-ahead log's file has changed, and it was not this process.

Looking at a file's times costs no query. Only when they have changed is the database asked (`PRAGMA data_version` on
the one connection that writes: it counts the commits of everybody else).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from relay.core.ports import StorageUnavailable

log = logging.getLogger(__name__)


class FileBus:
    """Watches the files of a SQLite database.

    Args:
        files: the database's files.
        changed: whether somebody else has committed since it was last asked.
        on_change: called from the event loop when somebody has.
    """

    def __init__(
        self,
        files: tuple[Path, ...],
        changed: Callable[[], Awaitable[bool]],
        on_change: Callable[[], None],
        interval_s: float = 0.5,
    ) -> None:
        self._files = files
        self._changed = changed
        self._on_change = on_change
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._changed()
        self._task = asyncio.create_task(self._watch(), name="file-bus")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        seen = self._look()
        while True:
            await asyncio.sleep(self._interval_s)
            now = self._look()
            if now == seen:
                continue
            try:
                if await self._changed():
                    self._on_change()
                seen = now
            except StorageUnavailable as error:
                log.warning("changes by others not seen: %s", error.cause)

    def _look(self) -> tuple[tuple[int, int], ...]:
        found = []
        for file in self._files:
            with contextlib.suppress(OSError):
                stat = file.stat()
                found.append((stat.st_mtime_ns, stat.st_size))
        return tuple(found)
