"""The database of the router that this relay takes over from: read there in one snapshot, written here by id.

The old tables are those of its Django models, `starfish_…` and `auth_…`. Rows are read as JSON, so that a column that
an older release of it lacks is simply absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from db import records
from db.connection import Connection
from db.errors import named_errors

Row = dict[str, Any]

TABLES = {
    "users": "auth_user",
    "groups": "auth_group",
    "user_groups": "auth_user_groups",
    "sites": "starfish_site",
    "projects": "starfish_project",
    "participants": "starfish_projectparticipant",
    "runs": "starfish_run",
}
CONNECT_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 600.0
COUNT_ON = """SELECT setval(pg_get_serial_sequence('{table}', 'id'), GREATEST(
    (SELECT COALESCE(MAX(id), 1) FROM {table}), nextval(pg_get_serial_sequence('{table}', 'id'))))"""


class NotTheOldRouter(Exception):
    """The database has not the old router's tables. The message says which is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Old:
    """All rows of the old router, by id."""

    users: list[Row]
    groups: list[Row]
    user_groups: list[Row]
    sites: list[Row]
    projects: list[Row]
    participants: list[Row]
    runs: list[Row]


async def read(url: str) -> Old:
    """All that the old router has, as it is at one moment; it may go on serving.

    Raises:
        NotTheOldRouter: this is another database.
        StorageUnavailable: it does not answer.
    """
    with named_errors():
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return Old(**{name: await _rows(connection, table) for name, table in TABLES.items()})
        finally:
            await connection.close()


async def _rows(connection: asyncpg.Connection[asyncpg.Record], table: str) -> list[Row]:
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
        raise NotTheOldRouter(f"it has no table {table}: is it the old router's?")
    rows = await connection.fetch(f"SELECT to_jsonb(t) AS row FROM {table} t ORDER BY id")
    return [json.loads(row["row"]) for row in rows]


class Taken:
    """Writes rows of the old router. Ids are kept, but those of users and groups, which go by name."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def ids(self, table: str) -> set[int]:
        return {row["id"] for row in await self._db.fetch_all(f"SELECT id FROM {table}")}

    async def named(self, table: str, column: str) -> dict[str, int]:
        return {row["name"]: row["id"] for row in await self._db.fetch_all(f"SELECT id, {column} AS name FROM {table}")}

    async def add(self, table: str, row: Mapping[str, Any]) -> int:
        """Add a row as it is; without an `id` it gets the next one. Returns its id."""
        columns = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        added = await self._db.fetch_one(f"INSERT INTO {table} ({columns}) VALUES ({marks}) RETURNING id", row)
        assert added is not None
        return int(added["id"])

    async def join_group(self, user_id: int, group_id: int) -> None:
        await self._db.execute(
            "INSERT INTO user_groups (user_id, group_id) VALUES (:user_id, :group_id) ON CONFLICT DO NOTHING",
            {"user_id": user_id, "group_id": group_id},
        )

    async def set_lists(self, run_id: int, lists: Mapping[str, Sequence[str]]) -> None:
        """The names of a run's files, by column."""
        marks = ", ".join(f"{column} = :{column}" for column in lists)
        values = {column: records.dump(list(names)) for column, names in lists.items()}
        await self._db.execute(f"UPDATE runs SET {marks} WHERE id = :id", {**values, "id": run_id})

    async def count_on(self) -> None:
        """Ids go on after those that were kept."""
        if self._db.dialect == "postgresql":  # SQLite looks for itself
            for table in ("users", "groups", "sites", "projects", "participants", "runs"):
                await self._db.fetch_all(COUNT_ON.format(table=table))


def user(old: Row) -> Row:
    return {
        "username": old["username"],
        "email": old.get("email") or "",
        "password_hash": old["password"],
        "is_operator": bool(old.get("is_superuser")),
        "is_active": bool(old.get("is_active", True)),
        "created_us": _us(old["date_joined"]),
    }


def site(old: Row, owner_id: int) -> Row:
    return {
        **{name: old[name] for name in ("id", "uid", "name", "description")},
        "owner_id": owner_id,
        "connected": False,
        "seen_us": _us(old["updated_at"]),
        **_times(old),
    }


def project(old: Row, name: str) -> Row:
    return {
        **{one: old[one] for one in ("id", "description", "site_id", "batch")},
        "name": name,
        "tasks": records.dump(old.get("tasks") or []),
        "agent_config": records.dump(old.get("agent_config") or {}),
        "agent_log": records.dump(old.get("agent_log") or []),
        **_times(old),
    }


def participant(old: Row) -> Row:
    return {
        **{name: old[name] for name in ("id", "project_id", "site_id", "role", "notes")},
        "joined": 0,
        **_times(old),
    }


def run(old: Row, site_id: int) -> Row:
    """Its lists of files are empty: they are those of the files that come along."""
    kept = ("id", "project_id", "batch", "participant_id", "site_uid", "role", "cur_seq", "status")
    return {
        **{name: old[name] for name in kept},
        "site_id": site_id,
        "tasks": records.dump(old.get("tasks") or []),
        **dict.fromkeys(("logs", "artifacts", "middle_artifacts"), "[]"),
        "agent_advice": records.dump(old.get("agent_advice") or {}),
        "agent_diagnosis": records.dump(old.get("agent_diagnosis") or {}),
        **_times(old),
    }


def _times(old: Row) -> Row:
    return {"created_us": _us(old["created_at"]), "updated_us": _us(old["updated_at"])}


def _us(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000_000)
