"""SQLite: one writer and a few readers, held open.

`databases` alone would open a connection and a thread per query, and lose its PRAGMAs with them. Writers queue here
(first come, first served) instead of spinning on SQLITE_BUSY; a transaction takes the write lock at its beginning.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiosqlite
from databases import Database as Pool
from databases import DatabaseURL

from db.connection import Dialect, Limits, Result, Row
from relay.core.ports import StorageLoad

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = {busy_ms}",
    "PRAGMA cache_size = -16000",
    "PRAGMA temp_store = MEMORY",
)


class _Connection:
    dialect: Dialect = "sqlite"

    def __init__(self, raw: aiosqlite.Connection) -> None:
        self._raw = raw

    async def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> None:
        await self._raw.execute_fetchall(sql, values or {})

    async def execute_many(self, sql: str, rows: Iterable[Mapping[str, Any]]) -> None:
        await self._raw.executemany(sql, rows)

    async def fetch_all(self, sql: str, values: Mapping[str, Any] | None = None) -> Sequence[Row]:
        return list(await self._raw.execute_fetchall(sql, values or {}))

    async def fetch_one(self, sql: str, values: Mapping[str, Any] | None = None) -> Row | None:
        rows = await self.fetch_all(sql, values)
        return rows[0] if rows else None

    async def fetch_positional(self, sql: str, *values: object) -> Sequence[Row]:
        return list(await self._raw.execute_fetchall(sql, values))

    async def transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        # aiosqlite's public methods are one statement each. What it is to do next waits in the thread's own queue.
        result: Result = await self._raw._execute(_in_transaction, self._raw._conn, work)  # type: ignore[no-untyped-call]
        return result

    async def settle(self) -> None:
        """Leave no transaction open. A cancelled statement may still be queued in the thread: wait behind it first."""
        await self._raw.execute_fetchall("SELECT 1")
        if self._raw.in_transaction:
            await self._raw.execute_fetchall("ROLLBACK")


def _in_transaction(raw: sqlite3.Connection, work: Callable[[sqlite3.Connection], Result]) -> Result:
    """Runs in the connection's thread."""
    raw.execute(Sqlite.BEGIN_WRITE)
    try:
        result = work(raw)
        raw.execute("COMMIT")
    except BaseException:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        raise
    return result


class _Free:
    """Connections that nobody uses. Who waits for one gets it in the order of asking.

    A queue would not do: whoever gives back and takes again at once would always be first.
    """

    def __init__(self, timeout_s: float) -> None:
        self._connections: list[_Connection] = []
        self._count = asyncio.Semaphore(0)
        self._timeout_s = timeout_s
        self.waiting = 0

    @property
    def idle(self) -> int:
        return len(self._connections)

    async def take(self) -> _Connection:
        self.waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._count.acquire()
        finally:
            self.waiting -= 1
        return self._connections.pop()

    def put(self, connection: _Connection) -> None:
        self._connections.append(connection)
        self._count.release()


class _Lease:
    def __init__(self, free: _Free) -> None:
        self._free = free
        self._taken: _Connection | None = None

    async def take(self) -> _Connection:
        self._taken = await self._free.take()
        return self._taken

    async def give_back(self, *, rollback: bool) -> None:
        connection, self._taken = self._taken, None
        if connection is None:
            return
        try:
            if rollback:
                await connection.settle()
        finally:
            self._free.put(connection)

    def let_go(self) -> None:
        # Even if the thread is still at it: what is asked of the connection next waits behind it.
        if self._taken is not None:
            self._free.put(self._taken)


class Sqlite:
    BEGIN_WRITE = "BEGIN IMMEDIATE"
    BEGIN_READ = "BEGIN"

    def __init__(self, url: str, limits: Limits) -> None:
        self._pool = Pool(url)
        self._path = Path(DatabaseURL(url).database)
        self.files = (self._path, self._path.with_name(self._path.name + "-wal"))
        self._limits = limits
        self._writers = _Free(limits.acquire_timeout_s)
        self._readers = _Free(limits.acquire_timeout_s)
        self._keepers: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()

    async def open(self) -> None:
        self._make_file()
        await self._pool.connect()
        try:
            await self._hold(self._writers, _PRAGMAS)
            for _ in range(self._limits.readers):
                await self._hold(self._readers, (*_PRAGMAS, "PRAGMA query_only = ON"))
        except BaseException:
            await self.close()
            raise

    def _make_file(self) -> None:
        """A file that cannot be opened is found out here: when aiosqlite fails to, it leaves a thread behind."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.open("ab").close()

    async def close(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._pool.is_connected:
            await self._pool.disconnect()

    @property
    def load(self) -> StorageLoad:
        idle = self._writers.idle + self._readers.idle
        waiting = self._writers.waiting + self._readers.waiting
        return StorageLoad(in_use=len(self._keepers) - idle, idle=idle, waiting=waiting)

    def writer(self) -> _Lease:
        return _Lease(self._writers)

    def reader(self) -> _Lease:
        return _Lease(self._readers)

    async def transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        lease = self.writer()
        connection = await lease.take()
        try:
            return await connection.transact(work)
        finally:
            lease.let_go()

    async def _hold(self, free: _Free, pragmas: Sequence[str]) -> None:
        """Open a connection and keep it: `databases` ties a connection to the task that opened it."""
        opened: asyncio.Future[_Connection] = asyncio.get_running_loop().create_future()
        self._keepers.append(asyncio.create_task(self._keep(opened, pragmas), name="sqlite-connection"))
        free.put(await opened)

    async def _keep(self, opened: asyncio.Future[_Connection], pragmas: Sequence[str]) -> None:
        try:
            async with self._pool.connection() as held:
                raw: aiosqlite.Connection = held.raw_connection
                raw.row_factory = sqlite3.Row
                for pragma in pragmas:
                    await raw.execute_fetchall(pragma.format(busy_ms=int(self._limits.acquire_timeout_s * 1000)))
                opened.set_result(_Connection(raw))
                await self._stop.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)
