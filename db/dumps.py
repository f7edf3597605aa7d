"""All rows of all tables, out of one database and into another, which may be of the other kind.

A table's rows come in the order of its primary key, in pages that are bounded in rows and bytes, within one snapshot.
Values are those of JSON and bytes: a boolean is one on both databases. Going in, whatever was there is removed first,
and the schema is built as old as the rows are, so that the migrations after it find what they expect.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import db.migrate
from db.connection import Connection

PAGE_ROWS = 1000
PAGE_BYTES = 16 * 1024 * 1024
COUNTER_GAP = 1000
"""Ids that were given after the dump are not given again: what still holds one must not meet another's."""

COLUMNS = {
    "sqlite": "SELECT name, type, pk AS place FROM pragma_table_info(:name) ORDER BY cid",
    "postgresql": """SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type,
        COALESCE(array_position(CAST(i.indkey AS SMALLINT[]), a.attnum) + 1, 0) AS place
        FROM pg_attribute a JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
        WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum""",
}
COUNTERS = {
    "sqlite": "SELECT name AS name, seq AS last FROM sqlite_sequence",
    "postgresql": """SELECT t.relname AS name, s.last_value AS last FROM pg_sequences s
        JOIN pg_class c ON c.relname = s.sequencename AND c.relnamespace = to_regnamespace(s.schemaname)
        JOIN pg_depend d ON d.objid = c.oid AND d.deptype = 'i' JOIN pg_class t ON t.oid = d.refobjid
        WHERE s.schemaname = ANY (current_schemas(FALSE)) AND s.last_value IS NOT NULL""",
}
COUNT_ON = {
    "sqlite": "UPDATE sqlite_sequence SET seq = :last WHERE name = :name",
    "postgresql": "SELECT setval(pg_get_serial_sequence(:name, 'id'), :last)",
}
NEW_COUNTER = """INSERT INTO sqlite_sequence (name, seq)
    SELECT :name, 0 WHERE :name NOT IN (SELECT name FROM sqlite_sequence)"""
PROJECTS = "SELECT project_id FROM journals"
NEW_EPOCH = "UPDATE journals SET epoch = :epoch WHERE project_id = :project_id"
GAPS = """SELECT j.project_id FROM journals j WHERE j.head - j.oldest + 1 <>
    (SELECT COUNT(*) FROM events e WHERE e.project_id = j.project_id AND e."offset" >= j.oldest)"""
_CONTENTS = {
    "files": "SELECT sha256, size FROM files WHERE sha256 > :after",
    "blobs": "SELECT sha256, size FROM blobs WHERE is_complete AND sha256 > :after",
}
CONTENTS_AFTER = """SELECT sha256, MAX(size) AS size FROM ({named}) AS named
    GROUP BY sha256 ORDER BY sha256 LIMIT :limit"""
OTHERS = """SELECT COUNT(*) AS n FROM pg_stat_activity WHERE application_name = 'starfish-relay'
    AND datname = current_database() AND pid <> pg_backend_pid()"""
_CREATED = re.compile(r"CREATE TABLE (\w+)")


@dataclass(frozen=True, slots=True)
class Column:
    """`place`: in the primary key, from 1; 0 is not in it."""

    name: str
    type: str
    place: int

    @property
    def is_boolean(self) -> bool:
        return self.type.upper() == "BOOLEAN"

    @property
    def is_bytes(self) -> bool:
        return self.type.upper() in ("BLOB", "BYTEA")


def tables(through: int) -> list[str]:
    """The tables that the migrations up to a number make, each after those that it refers to."""
    made = [_CREATED.findall(one.sql) for one in db.migrate.all_migrations() if one.number <= through]
    return [name for names in made for name in names]


async def columns(connection: Connection, table: str) -> list[Column]:
    rows = await connection.fetch_all(COLUMNS[connection.dialect], {"name": table})
    return [Column(row["name"], row["type"], row["place"]) for row in rows]


async def counters(connection: Connection) -> dict[str, int]:
    """Table → the last id that it gave."""
    known = set(tables(10**9))
    return {
        row["name"]: row["last"]
        for row in await connection.fetch_all(COUNTERS[connection.dialect])
        if row["name"] in known
    }


# --- out


async def pages(connection: Connection, table: str, of: Sequence[Column]) -> AsyncIterator[list[list[Any]]]:
    """All rows of a table, in order. The connection's transaction sees one state."""
    key = [column.name for column in sorted(of, key=lambda column: column.place) if column.place]
    order = ", ".join(f'"{name}"' for name in key)
    size = " + ".join(f'COALESCE(LENGTH("{column.name}"), 0)' for column in of if column.is_bytes) or "0"
    marks = ", ".join(f":k{number}" for number in range(len(key)))
    upto = ", ".join(f":u{number}" for number in range(len(key)))
    names = ", ".join(f'"{column.name}"' for column in of)
    after = f"({order}) > ({marks})"
    last: list[Any] | None = None
    while True:
        where = "" if last is None else f"WHERE {after}"
        ahead = f"SELECT {order}, {size} AS size FROM {table} {where} ORDER BY {order} LIMIT {PAGE_ROWS}"
        found = await connection.fetch_all(ahead, {} if last is None else _marked("k", last))
        if not found:
            return
        end = [found[_fitting([row["size"] for row in found]) - 1][name] for name in key]
        within = f"({order}) <= ({upto})" + ("" if last is None else f" AND {after}")
        values = _marked("u", end) | ({} if last is None else _marked("k", last))
        rows = await connection.fetch_all(f"SELECT {names} FROM {table} WHERE {within} ORDER BY {order}", values)
        yield [[_out(row[column.name], column) for column in of] for row in rows]
        last = end


def _marked(letter: str, values: Sequence[Any]) -> dict[str, Any]:
    return {f"{letter}{number}": value for number, value in enumerate(values)}


def _fitting(sizes: Sequence[int]) -> int:
    """How many of them make a page; one at least."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > PAGE_BYTES:
            return max(1, count)
    return len(sizes)


def _out(value: Any, column: Column) -> Any:
    return bool(value) if column.is_boolean and value is not None else value


async def contents(connection: Connection, through: int) -> list[tuple[str, int]]:
    """The contents that rows name, in order, with their sizes; of a schema with the migrations up to a number."""
    there = tables(through)
    sql = CONTENTS_AFTER.format(named=" UNION ".join(_CONTENTS[name] for name in _CONTENTS if name in there))
    found: list[tuple[str, int]] = []
    while any(name in there for name in _CONTENTS):
        after = found[-1][0] if found else ""
        page = await connection.fetch_all(sql, {"after": after, "limit": PAGE_ROWS})
        if not page:
            break
        found += [(row["sha256"], row["size"]) for row in page]
    return found


# --- in


async def rebuild(connection: Connection, through: int) -> None:
    """Remove all that there is, and build the schema that the migrations up to a number make, with no rows."""
    known = db.migrate.all_migrations()
    for table in [*reversed(tables(known[-1].number)), "schema_migrations"]:
        await connection.execute(f"DROP TABLE IF EXISTS {table}")
    await connection.execute(db.migrate.CREATE_TABLE)
    for migration in known:
        if migration.number <= through:
            await db.migrate.apply(connection, migration)
    for table in reversed(tables(through)):
        await connection.execute(f"DELETE FROM {table}")


async def bring_up_to_date(connection: Connection, after: int) -> None:
    """Apply the migrations after that number, to rows that were dumped before them."""
    for migration in db.migrate.all_migrations():
        if migration.number > after:
            await db.migrate.apply(connection, migration)


async def insert(connection: Connection, table: str, of: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    """Add rows, each with a value for each of these columns."""
    names = ", ".join(f'"{column.name}"' for column in of)
    marks = ", ".join(f":v{number}" for number in range(len(of)))
    await connection.execute_many(
        f"INSERT INTO {table} ({names}) VALUES ({marks})", [_marked("v", row) for row in rows]
    )


async def count_on(connection: Connection, last: Mapping[str, int]) -> None:
    """Go on with ids after the last ones that were given, and those that may have been given since."""
    for table, number in last.items():
        if connection.dialect == "sqlite":
            await connection.execute(NEW_COUNTER, {"name": table})
        values = {"name": table, "last": number + COUNTER_GAP}
        if connection.dialect == "sqlite":
            await connection.execute(COUNT_ON["sqlite"], values)
        else:
            await connection.fetch_all(COUNT_ON["postgresql"], values)


async def new_epochs(connection: Connection, epoch: Any) -> int:
    """Give each journal a new epoch, as `epoch()` makes one. Returns how many there are."""
    found = await connection.fetch_all(PROJECTS)
    for row in found:
        await connection.execute(NEW_EPOCH, {"epoch": epoch(), "project_id": row["project_id"]})
    return len(found)


async def with_gaps(connection: Connection) -> list[int]:
    """Projects whose journals lack events between their beginning and their head."""
    return [row["project_id"] for row in await connection.fetch_all(GAPS)]


async def is_empty(connection: Connection) -> bool:
    """Nobody has used this database: it has no users."""
    if not await columns(connection, "users"):
        return True
    return await connection.fetch_one("SELECT id FROM users LIMIT 1") is None


async def used_by_others(connection: Connection) -> bool:
    """Whether relays or their commands have this PostgreSQL database open."""
    if connection.dialect == "sqlite":
        return False
    row = await connection.fetch_one(OTHERS)
    return row is not None and row["n"] > 0
