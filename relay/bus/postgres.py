"""Hearing of changes on PostgreSQL: LISTEN on a connection of its own, and NOTIFY by whoever has changed something.

A notification carries nothing: it says "look". One may be lost while the connection is down, so each time it is up
again counts as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import asyncpg

log = logging.getLogger(__name__)

CHANNEL = "starfish_changed"
NOTIFY = f"SELECT pg_notify('{CHANNEL}', '')"
RETRY_S = 1.0


class PostgresBus:
    """Listens for as long as it runs. `on_change` is called from the event loop when another process has notified."""

    def __init__(self, url: str, on_change: Callable[[], None]) -> None:
        self._url = url
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep_listening(), name="postgres-bus")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_listening(self) -> None:
        first = True
        while True:
            try:
                connection = await asyncpg.connect(self._url, timeout=5, command_timeout=5)
            except (OSError, TimeoutError, asyncpg.PostgresError) as error:
                log.warning("not listening for changes: %s", type(error).__name__)
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await self._listen(connection, missed=not first)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("listening for changes was cut: %s", type(error).__name__)
            finally:
                connection.terminate()
            first = False
            await asyncio.sleep(RETRY_S)

    async def _listen(self, connection: asyncpg.Connection[asyncpg.Record], *, missed: bool) -> None:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        await connection.add_listener(CHANNEL, lambda *_: self._on_change())
        if missed:
            self._on_change()
        await lost.wait()
