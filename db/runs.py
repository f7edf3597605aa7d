"""Runs and their batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from db import records
from db.connection import Connection
from db.membership import MINE
from relay.core.model import JsonObject, Participant, Run
from relay.core.run_states import Status

_RUN = """r.id, r.project_id, r.batch, r.participant_id, r.site_id, r.site_uid, r.role, r.cur_seq, r.status, r.tasks,
    r.logs, r.artifacts, r.middle_artifacts, r.agent_advice, r.agent_diagnosis, r.preparing_us, r.created_us,
    r.updated_us"""
_ACTIVE = "r.status NOT IN (0, 8)"
RUN = f"SELECT {_RUN} FROM runs r WHERE r.id = :id"
OF_BATCH = f"SELECT {_RUN} FROM runs r WHERE r.project_id = :project_id AND r.batch = :batch ORDER BY r.id"
OF_PROJECT = f"SELECT {_RUN} FROM runs r WHERE r.project_id = :project_id"
OPEN_BATCH = f"SELECT MAX(r.batch) AS batch FROM runs r WHERE r.project_id = :project_id AND {_ACTIVE}"
ALL_RUNS = f"SELECT {_RUN} FROM runs r ORDER BY r.id LIMIT :limit OFFSET :skip"
COUNT_RUNS = "SELECT COUNT(*) AS n FROM runs"
ALL_ACTIVE = f"SELECT {_RUN} FROM runs r WHERE {_ACTIVE} ORDER BY r.id"
_VISIBLE = """FROM runs r JOIN mine ON mine.project_id = r.project_id JOIN sites s ON s.id = r.site_id
    WHERE (mine.leads = 1 OR s.owner_id = :user_id)"""
VISIBLE_ACTIVE = f"{MINE} SELECT {_RUN} {_VISIBLE} AND {_ACTIVE} ORDER BY r.id"
VISIBLE_RUNS = f"{MINE} SELECT {_RUN} {_VISIBLE} ORDER BY r.id LIMIT :limit OFFSET :skip"
COUNT_VISIBLE_RUNS = f"{MINE} SELECT COUNT(*) AS n {_VISIBLE}"
CREATE_RUN = """INSERT INTO runs (project_id, batch, participant_id, site_id, site_uid, role, cur_seq, status, tasks,
    logs, artifacts, middle_artifacts, agent_advice, agent_diagnosis, created_us, updated_us)
    VALUES (:project_id, :batch, :participant_id, :site_id, :site_uid, :role, :cur_seq, :status, :tasks,
    '[]', '[]', '[]', '{}', '{}', :now_us, :now_us)"""
SET_STATE = f"""UPDATE runs SET
    preparing_us = CASE WHEN :status = {int(Status.PREPARING)} AND status <> :status THEN :now_us ELSE preparing_us END,
    status = :status, cur_seq = :cur_seq, tasks = :tasks, updated_us = :now_us
    WHERE id = :id"""

_JSON_COLUMNS = frozenset({"logs", "artifacts", "middle_artifacts", "agent_advice", "agent_diagnosis"})


class Runs:
    """Serves `relay.core.project_ports.Runs`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def get(self, run_id: int) -> Run | None:
        row = await self._db.fetch_one(RUN, {"id": run_id})
        return None if row is None else records.run(row)

    async def of_batch(self, project_id: int, batch: int) -> list[Run]:
        rows = await self._db.fetch_all(OF_BATCH, {"project_id": project_id, "batch": batch})
        return [records.run(row) for row in rows]

    async def of_project(
        self, project_id: int, *, batch: int | None = None, site_id: int | None = None, active: bool | None = None
    ) -> list[Run]:
        sql, values = OF_PROJECT, {"project_id": project_id}
        if batch is not None:
            sql += " AND r.batch = :batch"
            values["batch"] = batch
        if site_id is not None:
            sql += " AND r.site_id = :site_id"
            values["site_id"] = site_id
        if active is not None:
            sql += f" AND {_ACTIVE}" if active else f" AND NOT ({_ACTIVE})"
        rows = await self._db.fetch_all(f"{sql} ORDER BY r.batch, r.id", values)
        return [records.run(row) for row in rows]

    async def open_batch(self, project_id: int) -> int | None:
        row = await self._db.fetch_one(OPEN_BATCH, {"project_id": project_id})
        return None if row is None else row["batch"]

    async def active_for(self, user_id: int | None) -> list[Run]:
        if user_id is None:
            rows = await self._db.fetch_all(ALL_ACTIVE)
        else:
            rows = await self._db.fetch_all(VISIBLE_ACTIVE, {"user_id": user_id})
        return [records.run(row) for row in rows]

    async def visible_to(self, user_id: int | None, *, limit: int, skip: int) -> tuple[int, list[Run]]:
        page = {"limit": limit, "skip": skip}
        if user_id is None:
            total = await self._db.fetch_one(COUNT_RUNS)
            rows = await self._db.fetch_all(ALL_RUNS, page)
        else:
            total = await self._db.fetch_one(COUNT_VISIBLE_RUNS, {"user_id": user_id})
            rows = await self._db.fetch_all(VISIBLE_RUNS, page | {"user_id": user_id})
        return (total["n"] if total else 0), [records.run(row) for row in rows]

    async def create(
        self, participants: Sequence[Participant], *, batch: int, tasks: list[JsonObject], now_us: int
    ) -> list[Run]:
        first_seq = min((task["seq"] for task in tasks if isinstance(task.get("seq"), int)), default=1)
        await self._db.execute_many(
            CREATE_RUN,
            [
                {
                    "project_id": participant.project_id,
                    "batch": batch,
                    "participant_id": participant.id,
                    "site_id": participant.site_id,
                    "site_uid": participant.site_uid,
                    "role": participant.role.value,
                    "cur_seq": first_seq,
                    "status": int(Status.STANDBY),
                    "tasks": records.dump(tasks),
                    "now_us": now_us,
                }
                for participant in participants
            ],
        )
        return await self.of_batch(participants[0].project_id, batch)

    async def set_state(
        self, run_id: int, *, status: Status, cur_seq: int, tasks: list[JsonObject], now_us: int
    ) -> None:
        await self._db.execute(
            SET_STATE,
            {
                "id": run_id,
                "status": int(status),
                "cur_seq": cur_seq,
                "tasks": records.dump(tasks),
                "now_us": now_us,
            },
        )

    async def set_fields(self, run_id: int, fields: Mapping[str, Any], now_us: int) -> None:
        assert fields.keys() <= _JSON_COLUMNS, f"expected some of {_JSON_COLUMNS}, got {fields.keys()}"
        columns = "".join(f"{name} = :{name}, " for name in fields)
        values = {name: records.dump(value) for name, value in fields.items()}
        await self._db.execute(
            f"UPDATE runs SET {columns}updated_us = :now_us WHERE id = :id", values | {"id": run_id, "now_us": now_us}
        )
