"""Projects and who takes part in them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from db import records
from db.connection import Connection
from db.membership import MINE, among
from relay.core.model import JoinPolicy, JsonObject, Participant, Project, Role

_PROJECT = """id, name, description, site_id, batch, tasks, agent_config, agent_log, created_us, updated_us,
    join_policy"""
PROJECT = f"SELECT {_PROJECT} FROM projects WHERE id = :id"
PROJECT_BY_NAME = f"SELECT {_PROJECT} FROM projects WHERE name = :name"
PROJECTS_AMONG = f"SELECT {_PROJECT} FROM projects WHERE id {{among}}"
ALL_PROJECTS = f"SELECT {_PROJECT} FROM projects ORDER BY id LIMIT :limit OFFSET :skip"
COUNT_PROJECTS = "SELECT COUNT(*) AS n FROM projects"
_VISIBLE_PROJECTS = "FROM projects WHERE id IN (SELECT project_id FROM mine)"
VISIBLE_PROJECTS = f"{MINE} SELECT {_PROJECT} {_VISIBLE_PROJECTS} ORDER BY id LIMIT :limit OFFSET :skip"
COUNT_VISIBLE_PROJECTS = f"{MINE} SELECT COUNT(*) AS n {_VISIBLE_PROJECTS}"
IDS_OF_VISIBLE_PROJECTS = f"{MINE} SELECT project_id FROM mine"
CREATE_PROJECT = f"""INSERT INTO projects
    (name, description, site_id, batch, tasks, agent_config, agent_log, created_us, updated_us, join_policy)
    VALUES (:name, :description, :site_id, 0, :tasks, '{{}}', '[]', :now_us, :now_us, :join_policy)
    RETURNING {_PROJECT}"""
UPDATE_PROJECT = """UPDATE projects SET name = :name, description = :description, site_id = :site_id, batch = :batch,
    tasks = :tasks, agent_config = :agent_config, agent_log = :agent_log, updated_us = :updated_us,
    join_policy = :join_policy WHERE id = :id"""
SET_BATCH = "UPDATE projects SET batch = :batch, updated_us = :now_us WHERE id = :id"
SET_COORDINATOR = "UPDATE projects SET site_id = :site_id, updated_us = :now_us WHERE id = :id"
DELETE_PROJECT = "DELETE FROM projects WHERE id = :id"

_PARTICIPANT = "p.id, p.project_id, p.site_id, s.uid AS site_uid, p.role, p.notes, p.joined, p.created_us, p.updated_us"
_PARTICIPANTS = "FROM participants p JOIN sites s ON s.id = p.site_id"
PARTICIPANT = f"SELECT {_PARTICIPANT} {_PARTICIPANTS} WHERE p.id = :id"
OF_PROJECT = f"SELECT {_PARTICIPANT} {_PARTICIPANTS} WHERE p.project_id = :project_id ORDER BY p.id"
OF_SITE = f"SELECT {_PARTICIPANT} {_PARTICIPANTS} WHERE p.site_id = :site_id ORDER BY p.id"
STANDINGS = """SELECT p.site_id, p.project_id, c."offset" AS acknowledged FROM participants p
    LEFT JOIN cursors c ON c.site_id = p.site_id AND c.project_id = p.project_id WHERE p.site_id {among}"""
ALL_PARTICIPANTS = f"SELECT {_PARTICIPANT} {_PARTICIPANTS} ORDER BY p.id LIMIT :limit OFFSET :skip"
COUNT_PARTICIPANTS = "SELECT COUNT(*) AS n FROM participants"
_VISIBLE = f"""{_PARTICIPANTS} JOIN mine ON mine.project_id = p.project_id
    WHERE (mine.leads = 1 OR p.role = 'CO' OR s.owner_id = :user_id)"""
VISIBLE_PARTICIPANTS = f"{MINE} SELECT {_PARTICIPANT} {_VISIBLE} ORDER BY p.id LIMIT :limit OFFSET :skip"
COUNT_VISIBLE_PARTICIPANTS = f"{MINE} SELECT COUNT(*) AS n {_VISIBLE}"
CREATE_PARTICIPANT = """INSERT INTO participants (project_id, site_id, role, notes, joined, created_us, updated_us)
    VALUES (:project_id, :site_id, :role, :notes, :joined, :now_us, :now_us) RETURNING id"""
SET_NOTES = "UPDATE participants SET notes = :notes, updated_us = :now_us WHERE id = :id"
SET_ROLE = "UPDATE participants SET role = :role, joined = :joined, updated_us = :now_us WHERE id = :id"
SET_ROLE_OF_RUNS = "UPDATE runs SET role = :role WHERE participant_id = :id"
DELETE_PARTICIPANT = "DELETE FROM participants WHERE id = :id"
FORGET_CURSOR = """DELETE FROM cursors WHERE (site_id, project_id) IN
    (SELECT site_id, project_id FROM participants WHERE id = :id)"""


class Projects:
    """Serves `relay.core.project_ports.Projects`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def get(self, project_id: int) -> Project | None:
        row = await self._db.fetch_one(PROJECT, {"id": project_id})
        return None if row is None else records.project(row)

    async def by_name(self, name: str) -> Project | None:
        row = await self._db.fetch_one(PROJECT_BY_NAME, {"name": name})
        return None if row is None else records.project(row)

    async def many(self, project_ids: Sequence[int]) -> dict[int, Project]:
        sql = PROJECTS_AMONG.format(among=among(self._db.dialect, "ids"))
        rows = await self._db.fetch_all(sql, {"ids": json.dumps(list(project_ids))})
        return {row["id"]: records.project(row) for row in rows}

    async def visible_to(self, user_id: int | None, *, limit: int, skip: int) -> tuple[int, list[Project]]:
        page = {"limit": limit, "skip": skip}
        if user_id is None:
            total = await self._db.fetch_one(COUNT_PROJECTS)
            rows = await self._db.fetch_all(ALL_PROJECTS, page)
        else:
            total = await self._db.fetch_one(COUNT_VISIBLE_PROJECTS, {"user_id": user_id})
            rows = await self._db.fetch_all(VISIBLE_PROJECTS, page | {"user_id": user_id})
        return (total["n"] if total else 0), [records.project(row) for row in rows]

    async def ids_visible_to(self, user_id: int) -> list[int]:
        rows = await self._db.fetch_all(IDS_OF_VISIBLE_PROJECTS, {"user_id": user_id})
        return [row["project_id"] for row in rows]

    async def create(
        self,
        *,
        name: str,
        description: str,
        site_id: int,
        tasks: list[JsonObject],
        now_us: int,
        join_policy: JoinPolicy = JoinPolicy.OPEN,
    ) -> Project:
        row = await self._db.fetch_one(
            CREATE_PROJECT,
            {
                "name": name,
                "description": description,
                "site_id": site_id,
                "tasks": records.dump(tasks),
                "now_us": now_us,
                "join_policy": join_policy.value,
            },
        )
        assert row is not None
        return records.project(row)

    async def update(self, project: Project) -> None:
        await self._db.execute(
            UPDATE_PROJECT,
            {
                "id": project.id,
                "name": project.name,
                "description": project.description,
                "site_id": project.site_id,
                "batch": project.batch,
                "tasks": records.dump(project.tasks),
                "agent_config": records.dump(project.agent_config),
                "agent_log": records.dump(project.agent_log),
                "updated_us": project.updated_us,
                "join_policy": project.join_policy.value,
            },
        )

    async def set_batch(self, project_id: int, batch: int, now_us: int) -> None:
        await self._db.execute(SET_BATCH, {"id": project_id, "batch": batch, "now_us": now_us})

    async def set_coordinator(self, project_id: int, site_id: int, now_us: int) -> None:
        await self._db.execute(SET_COORDINATOR, {"id": project_id, "site_id": site_id, "now_us": now_us})

    async def delete(self, project_id: int) -> None:
        await self._db.execute(DELETE_PROJECT, {"id": project_id})


class Participants:
    """Serves `relay.core.project_ports.Participants`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def get(self, participant_id: int) -> Participant | None:
        row = await self._db.fetch_one(PARTICIPANT, {"id": participant_id})
        return None if row is None else records.participant(row)

    async def of_project(self, project_id: int) -> list[Participant]:
        rows = await self._db.fetch_all(OF_PROJECT, {"project_id": project_id})
        return [records.participant(row) for row in rows]

    async def of_site(self, site_id: int) -> list[Participant]:
        rows = await self._db.fetch_all(OF_SITE, {"site_id": site_id})
        return [records.participant(row) for row in rows]

    async def standings(self, site_ids: Sequence[int]) -> dict[int, dict[int, int | None]]:
        sql = STANDINGS.format(among=among(self._db.dialect, "ids"))
        standings: dict[int, dict[int, int | None]] = {}
        for row in await self._db.fetch_all(sql, {"ids": json.dumps(list(site_ids))}):
            standings.setdefault(row["site_id"], {})[row["project_id"]] = row["acknowledged"]
        return standings

    async def visible_to(self, user_id: int | None, *, limit: int, skip: int) -> tuple[int, list[Participant]]:
        page = {"limit": limit, "skip": skip}
        if user_id is None:
            total = await self._db.fetch_one(COUNT_PARTICIPANTS)
            rows = await self._db.fetch_all(ALL_PARTICIPANTS, page)
        else:
            total = await self._db.fetch_one(COUNT_VISIBLE_PARTICIPANTS, {"user_id": user_id})
            rows = await self._db.fetch_all(VISIBLE_PARTICIPANTS, page | {"user_id": user_id})
        return (total["n"] if total else 0), [records.participant(row) for row in rows]

    async def create(
        self, *, project_id: int, site_id: int, role: Role, notes: str, joined: int, now_us: int
    ) -> Participant:
        row = await self._db.fetch_one(
            CREATE_PARTICIPANT,
            {
                "project_id": project_id,
                "site_id": site_id,
                "role": role.value,
                "notes": notes,
                "joined": joined,
                "now_us": now_us,
            },
        )
        assert row is not None
        created = await self.get(row["id"])
        assert created is not None
        return created

    async def set_notes(self, participant_id: int, notes: str, now_us: int) -> None:
        await self._db.execute(SET_NOTES, {"id": participant_id, "notes": notes, "now_us": now_us})

    async def set_role(self, participant_id: int, role: Role, *, joined: int, now_us: int) -> None:
        values = {"id": participant_id, "role": role.value}
        await self._db.execute(SET_ROLE, values | {"joined": joined, "now_us": now_us})
        await self._db.execute(SET_ROLE_OF_RUNS, values)

    async def delete(self, participant_id: int) -> None:
        await self._db.execute(FORGET_CURSOR, {"id": participant_id})
        await self._db.execute(DELETE_PARTICIPANT, {"id": participant_id})
