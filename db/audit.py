"""The audit record: entries are added at its end, and read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from db import records
from db.connection import Connection
from relay.core.audit_chain import GENESIS, ChainHead, ChainLink, Deed, Note, Record, encode_details, follow

_ENTRY = "seq, at_us, actor, action, target, result, origin, details, hash"
HEAD = "SELECT seq, hash FROM audit_head WHERE id = 1"
MOVE_HEAD = "UPDATE audit_head SET seq = :seq, hash = :hash WHERE id = 1"
ADD = f"""INSERT INTO audit ({_ENTRY})
    VALUES (:seq, :at_us, :actor, :action, :target, :result, :origin, :details, :hash)"""
READ = f"SELECT {_ENTRY} FROM audit WHERE seq > :after AND at_us >= :since_us ORDER BY seq LIMIT :limit"
CHECKPOINT = "SELECT details FROM audit WHERE action = :action ORDER BY seq DESC LIMIT 1"
REMOVE = """DELETE FROM audit WHERE seq <= :through AND seq < (SELECT MIN(seq) FROM audit) + :limit"""


class Audit:
    """Serves `relay.core.journal_ports.Audit`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def head(self) -> ChainHead:
        return await self._head(HEAD)

    async def _head(self, sql: str) -> ChainHead:
        row = await self._db.fetch_one(sql)
        assert row is not None, "the audit record has lost its head"
        return ChainHead(seq=row["seq"], hash=row["hash"])

    async def append(self, notes: Sequence[Note]) -> None:
        # On SQLite a transaction that writes has the database to itself anyway.
        head = await self._head(HEAD if self._db.dialect == "sqlite" else f"{HEAD} FOR UPDATE")
        added = follow(head, notes)
        if not added:
            return
        await self._db.execute_many(ADD, [_values(record) for record in added])
        await self._db.execute(MOVE_HEAD, {"seq": added[-1].seq, "hash": added[-1].hash})

    async def read(self, after: int, *, limit: int, since_us: int = 0) -> list[Record]:
        rows = await self._db.fetch_all(READ, {"after": after, "since_us": since_us, "limit": limit})
        return [records.audit_record(row) for row in rows]

    async def links(self, after: int, *, limit: int) -> list[ChainLink]:
        rows: Sequence[Any] = await self._db.fetch_all(READ, {"after": after, "since_us": 0, "limit": limit})
        return [ChainLink(*row) for row in rows]

    async def checkpoint(self) -> ChainHead:
        row = await self._db.fetch_one(CHECKPOINT, {"action": Deed.PRUNE})
        if row is None:
            return GENESIS
        details = json.loads(row["details"])
        return ChainHead(seq=details["through"], hash=details["hash"])

    async def remove(self, through: int, *, limit: int) -> int:
        oldest = await self._db.fetch_one("SELECT MIN(seq) AS seq FROM audit")
        if oldest is None or oldest["seq"] is None or oldest["seq"] > through:
            return 0
        await self._db.execute(REMOVE, {"through": through, "limit": limit})
        return min(through, int(oldest["seq"]) + limit - 1) - int(oldest["seq"]) + 1


def _values(record: Record) -> dict[str, object]:
    return {
        "seq": record.seq,
        "at_us": record.at_us,
        "actor": record.actor,
        "action": record.action,
        "target": record.target,
        "result": record.result,
        "origin": record.origin,
        "details": encode_details(record.details),
        "hash": record.hash,
    }
