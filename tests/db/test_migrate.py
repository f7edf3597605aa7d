"""Migrations: applied once each, in order, whole or not at all; and the same schema on both databases."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from db import dumps
from db import migrate as migrations
from db.connect import Database
from db.connection import Connection
from db.migrate import Migration, SchemaTooNew, all_migrations, migrate, pending
from tests.conftest import DATABASES
from tests.support.postgres import Postgres

Schema = dict[str, Any]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    await database.connect()
    try:
        yield database
    finally:
        await database.disconnect()


@pytest.fixture(params=DATABASES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database in which nothing is."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/a/new/folder/relay.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create_database(empty=True)
    yield url
    server.drop_database(url)


@pytest.fixture
async def empty(empty_url: str) -> AsyncIterator[Database]:
    async with opened(empty_url) as database:
        yield database


async def tables(database: Database) -> set[str]:
    async with database.snapshot() as connection:
        schema = await schema_of(connection)
    return {table for table, _ in schema["columns"]}


# What the release before can live with


STATEMENTS = re.compile(
    r"CREATE TABLE \w+ \(.*\)|CREATE (?:UNIQUE )?INDEX .*|INSERT INTO .*|ALTER TABLE \w+ ADD COLUMN .*", re.DOTALL
)


@pytest.mark.parametrize("migration", all_migrations()[1:], ids=lambda migration: migration.name)
def test_a_migration_only_adds(migration: Migration) -> None:
    """No table or column goes or is renamed, and what the release before inserts still fits: see docs/operating.md."""
    before = {name for one in all_migrations() if one.number < migration.number for name in made_by(one)}
    for statement in migrations._statements(migration.sql):
        assert STATEMENTS.fullmatch(statement), statement
        if "ADD COLUMN" in statement:
            assert "NOT NULL" not in statement or "DEFAULT" in statement, statement
            assert "UNIQUE" not in statement, statement
        if statement.startswith("CREATE UNIQUE INDEX"):
            assert re.search(r" ON (\w+)", statement)[1] not in before, statement  # type: ignore[index]


def made_by(migration: Migration) -> list[str]:
    return re.findall(r"CREATE TABLE (\w+)", migration.sql)


async def test_rows_of_an_older_schema_go_through_every_migration_and_still_fit_it(empty: Database) -> None:
    """What the oldest release inserts, column by column, is taken by the newest schema, with its own words."""
    first = all_migrations()[0]
    async with empty.transaction() as connection:
        await dumps.rebuild(connection, first.number)
        old = {table: await dumps.columns(connection, table) for table in made_by(first)}
    await migrate(empty)
    async with empty.snapshot() as connection:
        for table, columns in old.items():
            new = {column.name: column for column in await dumps.columns(connection, table)}
            assert {column.name: column for column in columns}.items() <= new.items(), table


# Applying


def test_the_migrations_are_numbered_without_a_gap() -> None:
    numbers = [migration.number for migration in all_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_what_is_missing_is_applied_and_then_nothing_is(empty: Database) -> None:
    assert await pending(empty) == all_migrations()
    assert await migrate(empty) == all_migrations()
    assert await pending(empty) == []
    assert await migrate(empty) == []


async def test_migrations_at_the_same_time_apply_each_once(empty_url: str) -> None:
    """Two relays and a command line are started on an empty database."""

    async def start() -> list[Migration]:
        async with opened(empty_url) as database:
            return await migrate(database)

    applied = await asyncio.gather(*(start() for _ in range(4)))
    assert sorted(chain(*applied), key=lambda migration: migration.number) == all_migrations()
    async with opened(empty_url) as database:
        assert await migrate(database) == []


async def test_a_schema_that_is_newer_than_the_release_is_refused(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO schema_migrations (number, name) VALUES (9999, 'from_the_future')")
    with pytest.raises(SchemaTooNew, match="9999"):
        await pending(database)
    with pytest.raises(SchemaTooNew):
        await migrate(database)


async def test_a_migration_that_fails_leaves_nothing_of_itself(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [
        Migration(1, "good", "CREATE TABLE first (id BIGINT)"),
        Migration(
            2, "bad", "CREATE TABLE second (id BIGINT); INSERT INTO first (id) VALUES (1); CREATE TABLE oops oops"
        ),
        Migration(3, "never", "CREATE TABLE third (id BIGINT)"),
    ]
    monkeypatch.setattr(migrations, "all_migrations", lambda: known)
    with pytest.raises(Exception, match="oops"):
        await migrate(empty)
    assert await pending(empty) == known[1:]
    assert await tables(empty) == {"schema_migrations", "first"}
    async with empty.snapshot() as connection:
        assert await connection.fetch_all("SELECT id FROM first") == []


async def test_a_comment_and_a_line_break_are_no_statements(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "-- what: a comment\n\nCREATE TABLE a (\n id $ID, -- the key\n body $BYTES);\n;\n-- the end\n"
    monkeypatch.setattr(migrations, "all_migrations", lambda: [Migration(1, "a", sql)])
    await migrate(empty)
    assert await tables(empty) == {"schema_migrations", "a"}


# The schema


async def _sqlite_schema(connection: Connection) -> Schema:
    schema: Schema = {"columns": {}, "primary keys": {}, "indices": {}, "unique": set(), "foreign keys": set()}
    rows = await connection.fetch_all("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    for table in (row["name"] for row in rows):
        columns = await connection.fetch_all(f"SELECT * FROM pragma_table_info('{table}') ORDER BY pk")
        schema["columns"] |= {(table, row["name"]): bool(row["notnull"] or row["pk"]) for row in columns}
        schema["primary keys"][table] = tuple(row["name"] for row in columns if row["pk"])
        for index in await connection.fetch_all(f"SELECT * FROM pragma_index_list('{table}')"):
            of_index = await connection.fetch_all(
                f"SELECT name FROM pragma_index_info('{index['name']}') ORDER BY seqno"
            )
            over = (table, tuple(row["name"] for row in of_index))
            if index["origin"] == "u":
                schema["unique"].add(over)
            elif index["origin"] == "c":
                schema["indices"][index["name"]] = (*over, bool(index["unique"]), bool(index["partial"]))
        for key in await connection.fetch_all(f"SELECT * FROM pragma_foreign_key_list('{table}')"):
            schema["foreign keys"].add((table, key["from"], key["table"], key["on_delete"]))
    return schema


_PG_COLUMNS = """SELECT table_name, column_name, is_nullable = 'NO' AS required FROM information_schema.columns
    WHERE table_schema = 'public'"""
_PG_INDICES = """SELECT t.relname AS "table", i.relname AS name, x.indisunique, x.indisprimary,
        x.indpred IS NOT NULL AS partial,
        EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conindid = i.oid) AS is_constraint,
        ARRAY(SELECT a.attname::text FROM UNNEST(x.indkey) WITH ORDINALITY AS k (number, place)
              JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.number ORDER BY k.place) AS columns
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
    WHERE t.relnamespace = 'public'::regnamespace"""
_PG_FOREIGN_KEYS = """SELECT c.conrelid::regclass::text AS "table", a.attname::text AS "column",
        c.confrelid::regclass::text AS target, c.confdeltype::text AS on_delete
    FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
    WHERE c.contype = 'f'"""


async def _pg_schema(connection: Connection) -> Schema:
    columns = await connection.fetch_all(_PG_COLUMNS)
    schema: Schema = {
        "columns": {(row["table_name"], row["column_name"]): row["required"] for row in columns},
        "primary keys": {},
        "indices": {},
        "unique": set(),
        "foreign keys": set(),
    }
    for index in await connection.fetch_all(_PG_INDICES):
        over = (index["table"], tuple(index["columns"]))
        if index["indisprimary"]:
            schema["primary keys"][index["table"]] = over[1]
        elif index["is_constraint"]:
            schema["unique"].add(over)
        else:
            schema["indices"][index["name"]] = (*over, index["indisunique"], index["partial"])
    for key in await connection.fetch_all(_PG_FOREIGN_KEYS):
        on_delete = {"c": "CASCADE", "a": "NO ACTION", "n": "SET NULL"}[key["on_delete"]]
        schema["foreign keys"].add((key["table"], key["column"], key["target"], on_delete))
    return schema


async def schema_of(connection: Connection) -> Schema:
    return await (_sqlite_schema(connection) if connection.dialect == "sqlite" else _pg_schema(connection))


async def test_both_databases_have_the_same_schema(postgres: Postgres, tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path}/relay.db") as sqlite, opened(postgres.create_database(empty=True)) as pg:
        await migrate(sqlite)
        await migrate(pg)
        async with sqlite.snapshot() as on_sqlite, pg.snapshot() as on_pg:
            expected, found = await schema_of(on_sqlite), await schema_of(on_pg)
    for part, value in expected.items():
        assert found[part] == value, part


async def test_the_schema_is_what_the_migrations_say(database: Database) -> None:
    """Every table and index that a migration names is there, and no other."""
    async with database.snapshot() as connection:
        schema = await schema_of(connection)
    sql = "\n".join(migration.sql for migration in all_migrations())
    assert {table for table, _ in schema["columns"]} == {"schema_migrations", *re.findall(r"CREATE TABLE (\w+)", sql)}
    assert schema["indices"].keys() == set(re.findall(r"CREATE (?:UNIQUE )?INDEX (\w+)", sql))


async def test_every_foreign_key_has_an_index_to_find_what_a_deletion_takes_along(database: Database) -> None:
    """Without one, deleting a row reads the whole of each table that refers to it."""
    async with database.snapshot() as connection:
        schema = await schema_of(connection)
    leading = {(table, columns[0]) for table, columns in schema["primary keys"].items()}
    leading |= {(table, columns[0]) for table, columns in schema["unique"]}
    leading |= {(table, columns[0]) for table, columns, _, partial in schema["indices"].values() if not partial}
    unindexed = {(table, column) for table, column, _, _ in schema["foreign keys"]} - leading
    assert unindexed == set()
