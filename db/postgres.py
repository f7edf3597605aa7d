"""PostgreSQL: the driver's own pool, `:name` parameters in its words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import asyncpg
from databases import Database as Pool

from db.connection import Connection, Dialect, Limits, Row
from db.errors import UNAVAILABLE
from relay.core.ports import StorageLoad

_NAME = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")


@lru_cache(maxsize=1024)
def _numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """`:name` parameters as PostgreSQL's `$1`, and the names in that order."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        name = match[1]
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _NAME.sub(number, sql), tuple(names)


class _Connection:
    dialect: Dialect = "postgresql"

    def __init__(self, raw: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy) -> None:
        self.raw = raw

    async def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> None:
        if not values:
            await self.raw.execute(sql)
            return
        numbered, names = _numbered(sql)
        await self.raw.execute(numbered, *(values[name] for name in names))

    async def execute_many(self, sql: str, rows: Iterable[Mapping[str, Any]]) -> None:
        numbered, names = _numbered(sql)
        await self.raw.executemany(numbered, [tuple(row[name] for name in names) for row in rows])

    async def fetch_all(self, sql: str, values: Mapping[str, Any] | None = None) -> Sequence[Row]:
        numbered, names = _numbered(sql)
        rows: Sequence[Row] = await self.raw.fetch(numbered, *((values or {})[name] for name in names))
        return rows

    async def fetch_one(self, sql: str, values: Mapping[str, Any] | None = None) -> Row | None:
        numbered, names = _numbered(sql)
        row: Row | None = await self.raw.fetchrow(numbered, *((values or {})[name] for name in names))
        return row

    async def fetch_positional(self, sql: str, *values: object) -> Sequence[Row]:
        rows: Sequence[Row] = await self.raw.fetch(sql, *values)
        return rows


_ON_THE_WAY_BACK: set[asyncio.Task[None]] = set()
"""So that they are not forgotten (the loop holds tasks weakly). Closing the pool waits for what is out."""


class _Line:
    """Who waits for a connection."""

    def __init__(self) -> None:
        self.waiting = 0


class _Lease:
    def __init__(self, pool: asyncpg.Pool, timeout_s: float, line: _Line) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._line = line
        self._raw: asyncpg.pool.PoolConnectionProxy | None = None

    async def take(self) -> Connection:
        self._line.waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                self._raw = await self._pool.acquire()
        finally:
            self._line.waiting -= 1
        return _Connection(self._raw)

    async def give_back(self, *, rollback: bool) -> None:
        raw, self._raw = self._raw, None
        if raw is None:
            return
        try:
            if rollback and not raw.is_closed():
                await raw.execute("ROLLBACK")
        except Exception:
            with suppress(asyncpg.InterfaceError):  # the pool has noticed, and dropped it already
                raw.terminate()  # whatever it is in the middle of, it must not be handed to another
        finally:
            # What was asked of it is done by now. If it breaks on its way back, the pool makes a new one.
            with suppress(*UNAVAILABLE):
                await self._pool.release(raw)

    def let_go(self) -> None:
        task = asyncio.create_task(self.give_back(rollback=False), name="connection-back")
        _ON_THE_WAY_BACK.add(task)
        task.add_done_callback(_ON_THE_WAY_BACK.discard)


async def _keep_as_it_is(_connection: asyncpg.Connection) -> None:
    """No reset between users: no session state is ever set on a pooled connection, and it would cost a round trip."""


class Postgres:
    BEGIN_WRITE = "BEGIN"
    BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    def __init__(self, url: str, limits: Limits) -> None:
        self._limits = limits
        self._line = _Line()
        self._pool = Pool(
            url,
            min_size=1,
            max_size=limits.pg_connections,
            timeout=limits.acquire_timeout_s,
            command_timeout=limits.command_timeout_s,
            reset=_keep_as_it_is,
            server_settings={
                "application_name": "starfish-relay",
                "lock_timeout": f"{int(limits.acquire_timeout_s * 1000)}ms",
                "idle_in_transaction_session_timeout": "60s",
            },
        )

    async def open(self) -> None:
        await self._pool.connect()

    async def close(self) -> None:
        if self._pool.is_connected:
            async with asyncio.timeout(self._limits.command_timeout_s):
                await self._pool.disconnect()

    def writer(self) -> _Lease:
        # Not `Pool.connection()`: that is the task's one, so that a snapshot within a transaction would end it.
        # The driver's own pool also takes a third of the time, which every publish waits for.
        return _Lease(self._driver, self._limits.acquire_timeout_s, self._line)

    reader = writer

    @property
    def load(self) -> StorageLoad:
        size, idle = self._driver.get_size(), self._driver.get_idle_size()
        return StorageLoad(in_use=size - idle, idle=idle, waiting=self._line.waiting)

    @property
    def _driver(self) -> asyncpg.Pool:
        pool: asyncpg.Pool = self._pool._backend._pool
        return pool
