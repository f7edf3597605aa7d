"""The files of runs. Their bytes are in the file store."""

from __future__ import annotations

import json
from collections.abc import Sequence

from db import records
from db.connection import Connection
from db.membership import among
from relay.core.model import File, NewFile

_FILE = "id, project_id, run_id, type, task, round, name, blob, sha256, size, created_us"
CREATE_FILE = """INSERT INTO files (project_id, run_id, type, task, round, name, blob, sha256, size, created_us)
    VALUES (:project_id, :run_id, :type, :task, :round, :name, :blob, :sha256, :size, :now_us)"""
OF_RUNS = f"SELECT {_FILE} FROM files WHERE run_id {{among}} AND type = :type"
OF_ROUND = " AND task = :task AND round = :round"
NAMES = "SELECT name FROM files WHERE run_id {among}"


class Files:
    """Serves `relay.core.project_ports.Files`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def create(self, files: Sequence[NewFile], now_us: int) -> None:
        await self._db.execute_many(
            CREATE_FILE,
            [
                {
                    "project_id": file.project_id,
                    "run_id": file.run_id,
                    "type": file.type,
                    "task": file.task,
                    "round": file.round,
                    "name": file.name,
                    "blob": file.blob,
                    "sha256": file.sha256,
                    "size": file.size,
                    "now_us": now_us,
                }
                for file in files
            ],
        )

    async def of_runs(self, run_ids: Sequence[int], type_: str, of: tuple[str, str] | None = None) -> list[File]:
        sql, values = OF_RUNS.format(among=among(self._db.dialect, "ids")), {"ids": json.dumps(list(run_ids))}
        values["type"] = type_
        if of is not None:
            sql += OF_ROUND
            values["task"], values["round"] = of
        return [records.file(row) for row in await self._db.fetch_all(f"{sql} ORDER BY run_id, id", values)]

    async def names(self, run_ids: Sequence[int]) -> set[str]:
        sql = NAMES.format(among=among(self._db.dialect, "ids"))
        return {row["name"] for row in await self._db.fetch_all(sql, {"ids": json.dumps(list(run_ids))})}
