"""The journal's queries. The order that everything rests on is kept here: a head row is held until the commit.

A sequence would not do: it hands out numbers before their transactions commit, so that a reader at 7 may be shown 9
before 8 exists, and never look back (Marten and EventStoreDB on PostgreSQL describe the same trap).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from db import records
from db.blobs import Blobs
from db.connection import Connection, Row
from db.membership import among
from relay.core.model import Draft, Entry, Role
from relay.protocol.position import JournalBounds

_COLUMNS = (
    'project_id, "offset", id, kind, sender_id, sender_uid, subject_id, run, batch, at_us, audience, receipts, '
    "is_binary, size, body"
)

CREATE = "INSERT INTO journals (project_id, epoch, head, oldest) VALUES (:project_id, :epoch, 0, 1)"
BOUNDS = "SELECT epoch, head, oldest FROM journals WHERE project_id = :project_id"
LOCK = BOUNDS + " FOR UPDATE"
MOVE_HEAD = "UPDATE journals SET head = :head WHERE project_id = :project_id"
COUNT_UP = "UPDATE journals SET head = head + :count WHERE project_id = :project_id RETURNING epoch, head, oldest"
INSERT = f"""INSERT INTO events ({_COLUMNS}) VALUES (:project_id, :offset, :id, :kind, :sender_id, :sender_uid,
    :subject_id, :run, :batch, :at_us, :audience, :receipts, :is_binary, :size, :body)"""
OFFSET_OF = 'SELECT "offset" FROM events WHERE project_id = :project_id AND sender_id = :sender_id AND id = :id'
GET = f'SELECT {_COLUMNS} FROM events WHERE project_id = :project_id AND "offset" = :offset'
READ = f"""SELECT {_COLUMNS} FROM (
    SELECT page.*, SUM(size) OVER (ORDER BY "offset") AS through FROM (
        SELECT {_COLUMNS} FROM events WHERE project_id = :project_id AND "offset" > :after {{kind}}
        ORDER BY "offset" LIMIT :limit) AS page) AS pages
    WHERE through <= :max_bytes OR through = size ORDER BY "offset" """
READ_ALL = READ.format(kind="")
READ_KIND = READ.format(kind="AND kind = :kind")
UNREAD = """SELECT COUNT(*) AS n FROM events WHERE project_id = :project_id
    AND "offset" > :after AND "offset" <= :through AND (sender_id IS NULL OR sender_id <> :site_id)"""
_ADDRESSED = {
    "sqlite": " AND (audience IS NULL OR :site_id IN (SELECT value FROM json_each(audience)))",
    "postgresql": """ AND (audience IS NULL OR :site_id IN
        (SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST(audience AS json)) AS a (value)))""",
}
AWAITING_RECEIPT = f"""SELECT {_COLUMNS.replace(", body", ", SUBSTR(body, 1, 0) AS body")} FROM events
    WHERE project_id = :project_id AND receipts ORDER BY "offset" DESC LIMIT :limit"""

# One statement, one round trip, one commit. The UPDATE takes the head rows and, if it had to wait for one, counts on
# from what the other transaction left (EvalPlanQual), so the offsets follow on even under READ COMMITTED.
# `ordinal` is 1, 2, 3 … within its project; the journals are locked in ascending order, as everywhere.
# With one project, the usual case, the plan is half as long: that takes a quarter off the time to the commit.
_ADDED = """
INSERT INTO events (project_id, "offset", id, kind, sender_id, sender_uid, run, batch, at_us, audience, receipts,
                    is_binary, size, body)
SELECT h.project_id, h.head - h.added + e.ordinal, e.id, e.kind, e.sender_id, e.sender_uid, e.run, e.batch, $3,
       e.audience, e.receipts, e.is_binary, OCTET_LENGTH(e.body), e.body
FROM heads h, UNNEST($4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::text[], $10::bigint[],
                     $11::bigint[], $12::text[], $13::boolean[], $14::boolean[], $15::bytea[])
     AS e (project_id, ordinal, id, kind, sender_id, sender_uid, run, batch, audience, receipts, is_binary, body)
WHERE e.project_id = h.project_id"""
APPEND_TO_ONE = f"""
WITH heads AS (
    UPDATE journals SET head = head + $2::bigint WHERE project_id = $1
    RETURNING project_id, epoch, head, oldest, $2::bigint AS added
), added AS ({_ADDED})
SELECT project_id, epoch, head, oldest FROM heads"""
APPEND_TO_SEVERAL = f"""
WITH counts AS (
    SELECT * FROM UNNEST($1::bigint[], $2::bigint[]) AS c (project_id, added)
), held AS (
    SELECT j.project_id FROM journals j JOIN counts USING (project_id) ORDER BY j.project_id FOR UPDATE OF j
), heads AS (
    UPDATE journals j SET head = j.head + c.added FROM counts c JOIN held USING (project_id)
    WHERE j.project_id = c.project_id RETURNING j.project_id, j.epoch, j.head, j.oldest, c.added
), added AS ({_ADDED})
SELECT project_id, epoch, head, oldest FROM heads"""


_NO_PAYLOADS = _COLUMNS.replace(", body", ", CASE kind WHEN 'run' THEN body ELSE SUBSTR(body, 1, 0) END AS body")
OF_BATCH = f"""SELECT {_NO_PAYLOADS}
    FROM events WHERE project_id = :project_id AND batch = :batch AND kind {{among}} ORDER BY "offset" """


class Journal:
    """Serves `relay.core.journal_ports.Journal` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def create(self, project_id: int, epoch: str) -> None:
        await self._db.execute(CREATE, {"project_id": project_id, "epoch": epoch})

    async def lock(self, project_ids: Iterable[int]) -> dict[int, JournalBounds]:
        # SQLite has one writer at a time, and this transaction is it: there is nothing to lock.
        sql = LOCK if self._db.dialect == "postgresql" else BOUNDS
        held = {}
        for project_id in sorted(set(project_ids)):
            row = await self._db.fetch_one(sql, {"project_id": project_id})
            if row is not None:
                held[project_id] = _bounds(row)
        return held

    async def bounds(self, project_id: int) -> JournalBounds | None:
        row = await self._db.fetch_one(BOUNDS, {"project_id": project_id})
        return None if row is None else _bounds(row)

    async def offsets_of(self, project_id: int, ids: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
        found = {}
        for sender_id, event_id in ids:
            row = await self._db.fetch_one(
                OFFSET_OF, {"project_id": project_id, "sender_id": sender_id, "id": event_id}
            )
            if row is not None:
                found[sender_id, event_id] = row["offset"]
        return found

    async def append(self, entries: Sequence[Entry]) -> None:
        await self._db.execute_many(INSERT, [records.event_values(entry) for entry in entries])
        heads = {entry.project_id: entry.offset for entry in entries}
        for project_id, head in heads.items():
            await self._db.execute(MOVE_HEAD, {"project_id": project_id, "head": head})
        referring = [entry for entry in entries if entry.draft.blob is not None]
        if referring:
            await Blobs(self._db).refer(referring)

    async def read(
        self, project_id: int, after: int, *, limit: int, max_bytes: int, kind: str | None = None
    ) -> list[Entry]:
        values = {"project_id": project_id, "after": after, "limit": limit, "max_bytes": max_bytes}
        if kind is None:
            rows = await self._db.fetch_all(READ_ALL, values)
        else:
            rows = await self._db.fetch_all(READ_KIND, values | {"kind": kind})
        return [records.entry(row) for row in rows]

    async def get(self, project_id: int, offset: int) -> Entry | None:
        row = await self._db.fetch_one(GET, {"project_id": project_id, "offset": offset})
        return None if row is None else records.entry(row)

    async def unread(self, project_id: int, site_id: int, role: Role, *, after: int, through: int) -> int:
        sql = UNREAD if role is Role.COORDINATOR else UNREAD + _ADDRESSED[self._db.dialect]
        values = {"project_id": project_id, "site_id": site_id, "after": after, "through": through}
        row = await self._db.fetch_one(sql, values)
        return 0 if row is None else int(row["n"])

    async def of_batch(self, project_id: int, batch: int, kinds: Sequence[str]) -> list[Entry]:
        sql = OF_BATCH.format(among=among(self._db.dialect, "kinds", "TEXT"))
        values = {"project_id": project_id, "batch": batch, "kinds": json.dumps(list(kinds))}
        return [records.entry(row) for row in await self._db.fetch_all(sql, values)]

    async def awaiting_receipt(self, project_id: int, *, limit: int) -> list[Entry]:
        rows = await self._db.fetch_all(AWAITING_RECEIPT, {"project_id": project_id, "limit": limit})
        return [records.entry(row) for row in reversed(rows)]


async def append_at_once(
    connection: Connection, drafts: Mapping[int, Sequence[Draft]], now_us: int
) -> dict[int, JournalBounds]:
    """On PostgreSQL: append drafts to the journals of projects in one statement."""
    projects: tuple[object, object] = (list(drafts), [len(of_project) for of_project in drafts.values()])
    sql = APPEND_TO_SEVERAL
    if len(drafts) == 1:
        [(project_id, of_project)] = drafts.items()
        projects, sql = (project_id, len(of_project)), APPEND_TO_ONE
    rows = await connection.fetch_positional(sql, *projects, now_us, *_columns(drafts))
    return {row["project_id"]: _bounds(row) for row in rows}


def _columns(drafts: Mapping[int, Sequence[Draft]]) -> Iterable[list[object]]:
    """The drafts column by column, with each one's project and its ordinal there."""
    numbered = [
        (project_id, ordinal) for project_id, of_project in drafts.items() for ordinal in range(1, len(of_project) + 1)
    ]
    events = [draft for of_project in drafts.values() for draft in of_project]
    return (
        [project_id for project_id, _ in numbered],
        [ordinal for _, ordinal in numbered],
        [draft.id for draft in events],
        [draft.kind.value for draft in events],
        [draft.sender_id for draft in events],
        [draft.sender_uid for draft in events],
        [draft.run for draft in events],
        [draft.batch for draft in events],
        [records.audience(draft) for draft in events],
        [draft.receipts for draft in events],
        [draft.payload is not None for draft in events],
        [draft.payload if draft.payload is not None else draft.data or b"null" for draft in events],
    )


def append_counting_up(
    raw: sqlite3.Connection, drafts: Mapping[int, Sequence[Draft]], now_us: int
) -> dict[int, JournalBounds]:
    """On SQLite: append drafts to the journals of projects, within a transaction (`Database.transact`)."""
    bounds: dict[int, JournalBounds] = {}
    for project_id, of_project in drafts.items():
        row = raw.execute(COUNT_UP, {"project_id": project_id, "count": len(of_project)}).fetchone()
        if row is None:
            continue
        bounds[project_id] = after = _bounds(row)
        numbered = enumerate(of_project, start=after.head - len(of_project) + 1)
        entries = (Entry(project_id=project_id, offset=o, at_us=now_us, draft=draft) for o, draft in numbered)
        raw.executemany(INSERT, (records.event_values(entry) for entry in entries))
    return bounds


def _bounds(row: Row) -> JournalBounds:
    return JournalBounds(epoch=row["epoch"], head=row["head"], oldest=row["oldest"])
