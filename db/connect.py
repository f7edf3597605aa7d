"""The one seam to the database: connections that are held, transactions that end, errors with one meaning.

The `databases` library opens and pools the connections. Queries go to the driver's own connection underneath it
(`raw_connection`), written once with `:name` parameters for both dialects (`db.sqlite`, `db.postgres`). Here: a
transaction that is cancelled is rolled back and its connection given back before the cancellation goes on; waiting for
a connection has a time-out; whatever a driver raises is named by what it means (`db.errors`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from databases import DatabaseURL

from db.connection import Connection, Dialect, Lease, Limits, Result
from db.errors import named_errors
from db.postgres import Postgres
from db.sqlite import Sqlite
from relay.core.ports import StorageLoad


class Database:
    """A SQLite file or a PostgreSQL database, by its URL.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user:password@host:port/name`.
    """

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.dialect: Dialect = "sqlite" if DatabaseURL(url).dialect == "sqlite" else "postgresql"
        self._data_version: int | None = None
        self._backend: Sqlite | Postgres
        if self.dialect == "sqlite":
            self._backend = Sqlite(url, self.limits)
        else:
            self._backend = Postgres(url, self.limits)

    async def connect(self) -> None:
        """Open the connections.

        Raises:
            StorageUnavailable: the file cannot be opened, or the server does not answer.
        """
        with named_errors():
            await self._backend.open()

    async def disconnect(self) -> None:
        await self._backend.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A read-write transaction: commits at the end of the block, rolls back when it raises or is cancelled."""
        async with _bracket(self._backend.writer(), self._backend.BEGIN_WRITE) as connection:
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """A read-only transaction in which every query sees the same state."""
        async with _bracket(self._backend.reader(), self._backend.BEGIN_READ) as connection:
            yield connection

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Connection]:
        """A writer on which each statement is its own transaction. It may be a moment until others have it again."""
        lease = self._backend.writer()
        with named_errors():
            connection = await lease.take()
            try:
                yield connection
            finally:
                lease.let_go()  # what was asked for is done and durable: nobody waits for the way back

    async def transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """On SQLite alone: a read-write transaction as one function, on the connection's thread.

        One hop to the thread and back, where `transaction` takes one for each statement. It comes to its end in any
        case: with the caller cancelled, it still commits, or rolls back if it raises.
        """
        assert isinstance(self._backend, Sqlite), "PostgreSQL has no thread to go to"
        with named_errors():
            return await self._backend.transact(work)

    async def changed_elsewhere(self) -> bool:
        """Whether another process has committed since this was last asked. On SQLite only; cheap, but a query."""
        async with self.autocommit() as connection:
            rows = await connection.fetch_all("PRAGMA data_version")
        version = rows[0]["data_version"]
        before, self._data_version = self._data_version, version
        return before is not None and before != version

    @property
    def load(self) -> StorageLoad:
        """How busy the connections are now."""
        return self._backend.load

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of a SQLite database; none for PostgreSQL."""
        return self._backend.files if isinstance(self._backend, Sqlite) else ()


async def _to_its_end(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run to the end even when the task is cancelled meanwhile; the cancellation goes on afterwards.

    Without this a COMMIT that is interrupted leaves its connection inside a transaction and out of the pool
    (https://github.com/encode/databases/issues/400 is of that family).
    """
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:
            break
    task.result()
    if cancelled is not None:
        raise cancelled


@asynccontextmanager
async def _bracket(lease: Lease, begin: str) -> AsyncIterator[Connection]:
    with named_errors():
        connection = await lease.take()
        try:
            await connection.execute(begin)
            yield connection
            await _to_its_end(connection.execute("COMMIT"))
        except BaseException:
            await _to_its_end(lease.give_back(rollback=True))
            raise
        await _to_its_end(lease.give_back(rollback=False))
