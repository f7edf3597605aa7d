"""Hearing that a database has changed, as a relay hears it; for commands that follow what comes.

On SQLite the files' times are looked at twice a second, which costs no query. On PostgreSQL a serving relay notifies
nobody of what it writes: there the bell rings twice a second, and whoever hears it asks for one row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from db.connect import Database
from relay.bus.file import FileBus

LOOK_S = 0.5


@asynccontextmanager
async def bell(database: Database) -> AsyncIterator[asyncio.Event]:
    """Set whenever there may be something new; whoever waits for it clears it."""
    rung = asyncio.Event()
    if database.dialect == "sqlite":
        bus = FileBus(database.files, database.changed_elsewhere, rung.set, LOOK_S)
        await bus.start()
        try:
            yield rung
        finally:
            await bus.close()
        return
    ringing = asyncio.create_task(_ring(rung), name="bell")
    try:
        yield rung
    finally:
        ringing.cancel()
        with suppress(asyncio.CancelledError):
            await ringing


async def _ring(rung: asyncio.Event) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        rung.set()
