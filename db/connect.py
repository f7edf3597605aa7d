"""The one seam to the database: connections that are held, transactions that end, errors with one meaning.

The `databases` library opens and pools the connections. Queries go to the driver's own connection underneath it
(`raw_connection`), written once with `:name` parameters for both dialects. What this module adds, and why:

SQLite      `databases` opens a connection and a thread per query, and its PRAGMAs are lost with them. Here one writer
            and a few readers are held open; writers queue in the process (first come, first served) instead of spinning
            on SQLITE_BUSY, and a transaction takes the write lock at its beginning (BEGIN IMMEDIATE).
both        a transaction that is cancelled is rolled back and its connection given back before the cancellation goes
            on; waiting for a connection has a time-out; every way in which a database can fail to answer is
            `StorageUnavailable`, a taken unique value is `AlreadyThere`, anything else is a bug and is raised as it is.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import aiosqlite
import asyncpg
from databases import Database as Pool
from databases import DatabaseURL

from relay.core.ports import AlreadyThere, StorageUnavailable

Dialect = Literal["sqlite", "postgresql"]
Result = TypeVar("Result")

_NAME = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
_SQLITE_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = {busy_ms}",
    "PRAGMA cache_size = -16000",
    "PRAGMA temp_store = MEMORY",
)
_UNAVAILABLE = (
    OSError,
    TimeoutError,
    sqlite3.OperationalError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver is told of the server's end in the middle of something else
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.ReadOnlySQLTransactionError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long to wait and how much to hold, each in seconds or connections."""

    acquire_timeout_s: float = 5.0
    command_timeout_s: float = 10.0
    readers: int = 4
    pg_connections: int = 10


class Row(Protocol):
    """A row of either driver: its columns by name."""

    def __getitem__(self, column: str, /) -> Any: ...


class Connection(Protocol):
    """One connection, for one task at a time. `:name` marks a parameter, in both dialects."""

    dialect: Dialect

    async def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> None: ...
    async def execute_many(self, sql: str, rows: Iterable[Mapping[str, Any]]) -> None: ...
    async def fetch_all(self, sql: str, values: Mapping[str, Any] | None = None) -> Sequence[Row]: ...

    async def fetch_one(self, sql: str, values: Mapping[str, Any] | None = None) -> Row | None: ...

    async def fetch_positional(self, sql: str, *values: object) -> Sequence[Row]:
        """For statements in the dialect's own words, with its own numbered parameters."""
        ...


class Database:
    """A SQLite file or a PostgreSQL database, by its URL.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user:password@host:port/name`.
    """

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.dialect: Dialect = "sqlite" if DatabaseURL(url).dialect == "sqlite" else "postgresql"
        self._data_version: int | None = None
        self._backend: _Sqlite | _Postgres
        if self.dialect == "sqlite":
            self._backend = _Sqlite(url, self.limits)
        else:
            self._backend = _Postgres(url, self.limits)

    async def connect(self) -> None:
        """Open the connections.

        Raises:
            StorageUnavailable: the file cannot be opened, or the server does not answer.
        """
        with _named_errors():
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
        with _named_errors():
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
        assert isinstance(self._backend, _Sqlite), "PostgreSQL has no thread to go to"
        with _named_errors():
            return await self._backend.transact(work)

    async def changed_elsewhere(self) -> bool:
        """Whether another process has committed since this was last asked. On SQLite only; cheap, but a query."""
        async with self.autocommit() as connection:
            rows = await connection.fetch_all("PRAGMA data_version")
        version = rows[0]["data_version"]
        before, self._data_version = self._data_version, version
        return before is not None and before != version

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of a SQLite database; none for PostgreSQL."""
        return self._backend.files if isinstance(self._backend, _Sqlite) else ()


class _named_errors:  # noqa: N801 - reads as a statement
    """Turns a driver's errors into the two that the ports name."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if _is_taken(error):
            raise AlreadyThere(str(error)) from error
        if _is_passing(error):
            raise StorageUnavailable(f"{type(error).__name__}: {error}") from error


def _is_taken(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.IntegrityError):
        return error.sqlite_errorname in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
    return isinstance(error, asyncpg.UniqueViolationError)


def _is_passing(error: BaseException | None) -> bool:
    """Not among them, though of the same classes: SQL that is wrong (SQLite), a value that fits no column (asyncpg)."""
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)
    return isinstance(error, _UNAVAILABLE)


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


class _Lease(Protocol):
    """A connection that is taken and given back."""

    async def take(self) -> Connection: ...
    async def give_back(self, *, rollback: bool) -> None: ...
    def let_go(self) -> None:
        """Give it back without waiting for it, with no transaction open."""


@asynccontextmanager
async def _bracket(lease: _Lease, begin: str) -> AsyncIterator[Connection]:
    with _named_errors():
        connection = await lease.take()
        try:
            await connection.execute(begin)
            yield connection
            await _to_its_end(connection.execute("COMMIT"))
        except BaseException:
            await _to_its_end(lease.give_back(rollback=True))
            raise
        await _to_its_end(lease.give_back(rollback=False))


# --- SQLite


class _SqliteConnection:
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
    raw.execute(_Sqlite.BEGIN_WRITE)
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
        self._connections: list[_SqliteConnection] = []
        self._count = asyncio.Semaphore(0)
        self._timeout_s = timeout_s

    async def take(self) -> _SqliteConnection:
        async with asyncio.timeout(self._timeout_s):
            await self._count.acquire()
        return self._connections.pop()

    def put(self, connection: _SqliteConnection) -> None:
        self._connections.append(connection)
        self._count.release()


class _SqliteLease:
    def __init__(self, free: _Free) -> None:
        self._free = free
        self._taken: _SqliteConnection | None = None

    async def take(self) -> _SqliteConnection:
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


class _Sqlite:
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
            await self._hold(self._writers, _SQLITE_PRAGMAS)
            for _ in range(self._limits.readers):
                await self._hold(self._readers, (*_SQLITE_PRAGMAS, "PRAGMA query_only = ON"))
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

    def writer(self) -> _SqliteLease:
        return _SqliteLease(self._writers)

    def reader(self) -> _SqliteLease:
        return _SqliteLease(self._readers)

    async def transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        lease = self.writer()
        connection = await lease.take()
        try:
            return await connection.transact(work)
        finally:
            lease.let_go()

    async def _hold(self, free: _Free, pragmas: Sequence[str]) -> None:
        """Open a connection and keep it: `databases` ties a connection to the task that opened it."""
        opened: asyncio.Future[_SqliteConnection] = asyncio.get_running_loop().create_future()
        self._keepers.append(asyncio.create_task(self._keep(opened, pragmas), name="sqlite-connection"))
        free.put(await opened)

    async def _keep(self, opened: asyncio.Future[_SqliteConnection], pragmas: Sequence[str]) -> None:
        try:
            async with self._pool.connection() as held:
                raw: aiosqlite.Connection = held.raw_connection
                raw.row_factory = sqlite3.Row
                for pragma in pragmas:
                    await raw.execute_fetchall(pragma.format(busy_ms=int(self._limits.acquire_timeout_s * 1000)))
                opened.set_result(_SqliteConnection(raw))
                await self._stop.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)


# --- PostgreSQL


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


class _PostgresConnection:
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


class _PostgresLease:
    def __init__(self, pool: asyncpg.Pool, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._raw: asyncpg.pool.PoolConnectionProxy | None = None

    async def take(self) -> Connection:
        async with asyncio.timeout(self._timeout_s):
            self._raw = await self._pool.acquire()
        return _PostgresConnection(self._raw)

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
            with suppress(*_UNAVAILABLE):
                await self._pool.release(raw)

    def let_go(self) -> None:
        task = asyncio.create_task(self.give_back(rollback=False), name="connection-back")
        _ON_THE_WAY_BACK.add(task)
        task.add_done_callback(_ON_THE_WAY_BACK.discard)


async def _keep_as_it_is(_connection: asyncpg.Connection) -> None:
    """No reset between users: no session state is ever set on a pooled connection, and it would cost a round trip."""


class _Postgres:
    BEGIN_WRITE = "BEGIN"
    BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    def __init__(self, url: str, limits: Limits) -> None:
        self._limits = limits
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

    def writer(self) -> _PostgresLease:
        # Not `Pool.connection()`: that is the task's one, so that a snapshot within a transaction would end it.
        # The driver's own pool also takes a third of the time, which every publish waits for.
        return _PostgresLease(self._pool._backend._pool, self._limits.acquire_timeout_s)

    reader = writer
