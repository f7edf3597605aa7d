"""What a database says of itself, for whoever looks after it. Nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass

from db.connect import Database
from db.connection import Connection

HAS_MIGRATIONS = {
    "sqlite": "SELECT COUNT(*) AS n FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'",
    "postgresql": "SELECT COUNT(*) AS n FROM pg_tables WHERE tablename = 'schema_migrations'"
    " AND schemaname = ANY (current_schemas(FALSE))",
}
APPLIED = "SELECT number FROM schema_migrations"
NEWEST = "SELECT COALESCE(MAX(at_us), 0) AS at_us FROM audit"
SERVER = """SELECT current_setting('server_version') AS version,
    CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT) AS clock_us,
    CAST(current_setting('max_connections') AS INTEGER)
        - CAST(current_setting('superuser_reserved_connections') AS INTEGER) AS connections,
    (SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS in_use,
    (SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'starfish-relay'
        AND datname = current_database() AND usename = current_user) AS ours,
    current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes, pg_is_in_recovery() AS is_replica"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A PostgreSQL server. `connections`: how many it allows to users; `ours`: of relays and their commands, here."""

    version: str
    clock_us: int
    connections: int
    in_use: int
    ours: int
    synchronous_commit: str
    fsync: str
    full_page_writes: str
    is_replica: bool


async def applied(database: Database) -> set[int]:
    """The numbers of the migrations that the database has had: none if it is empty."""
    async with database.snapshot() as connection:
        found = await connection.fetch_one(HAS_MIGRATIONS[database.dialect])
        if found is None or not found["n"]:
            return set()
        return {row["number"] for row in await connection.fetch_all(APPLIED)}


async def newest_us(database: Database) -> int:
    """When the newest entry of the audit record was made; 0 if there is none."""
    async with database.snapshot() as connection:
        row = await connection.fetch_one(NEWEST)
    return 0 if row is None else int(row["at_us"])


async def server(database: Database) -> Server:
    """Of a PostgreSQL database."""
    async with database.snapshot() as connection:
        row = await connection.fetch_one(SERVER)
    assert row is not None
    return Server(**{name: row[name] for name in Server.__slots__})


async def journal_mode(database: Database) -> str:
    """Of a SQLite database: `wal`, unless what it lies on cannot have that."""
    async with database.snapshot() as connection:
        return await _pragma(connection, "journal_mode")


async def damage(database: Database) -> str:
    """What is damaged in a SQLite file, or nothing. It reads all of it."""
    async with database.snapshot() as connection:
        said = await _pragma(connection, "quick_check")
    return "" if said == "ok" else said


async def _pragma(connection: Connection, name: str) -> str:
    row = await connection.fetch_one(f"PRAGMA {name}")
    return "" if row is None else str(row[name])
