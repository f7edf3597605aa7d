"""Who gets into a project: invitations, requests that wait, and sites that are barred."""

from __future__ import annotations

from typing import Any

from db import records
from db.connection import Connection
from relay.core.admission_ports import Bar, Invitation, JoinRequest

_INVITATION = "id, project_id, label, created_us, expires_us, revoked_us, used_us, used_by"
CREATE_INVITATION = f"""INSERT INTO invitations (project_id, digest, label, created_us, expires_us)
    VALUES (:project_id, :digest, :label, :now_us, :expires_us) RETURNING {_INVITATION}"""
INVITATION_BY_DIGEST = f"SELECT {_INVITATION} FROM invitations WHERE digest = :digest"
INVITATIONS = f"SELECT {_INVITATION} FROM invitations WHERE project_id = :project_id ORDER BY id DESC LIMIT :limit"
COUNT_OPEN_INVITATIONS = """SELECT COUNT(*) AS n FROM invitations
    WHERE project_id = :project_id AND revoked_us IS NULL AND used_us IS NULL AND expires_us > :now_us"""
USE_INVITATION = "UPDATE invitations SET used_us = :now_us, used_by = :site_uid WHERE id = :id"
REVOKE_INVITATION = """UPDATE invitations SET revoked_us = COALESCE(revoked_us, :now_us)
    WHERE id = :id AND project_id = :project_id AND used_us IS NULL RETURNING id"""
PURGE_INVITATIONS = "DELETE FROM invitations WHERE project_id = :project_id AND expires_us < :before_us"

_REQUEST = "project_id, site_id, notes, asked_us, expires_us, rejected_us"
REQUEST = f"""SELECT {_REQUEST} FROM join_requests
    WHERE project_id = :project_id AND site_id = :site_id AND expires_us > :now_us"""
ASK = f"""INSERT INTO join_requests ({_REQUEST})
    VALUES (:project_id, :site_id, :notes, :asked_us, :expires_us, :rejected_us)
    ON CONFLICT (project_id, site_id) DO UPDATE SET notes = excluded.notes, asked_us = excluded.asked_us,
    expires_us = excluded.expires_us, rejected_us = excluded.rejected_us"""
WAITING = f"""SELECT {_REQUEST} FROM join_requests
    WHERE project_id = :project_id AND rejected_us IS NULL AND expires_us > :now_us
    ORDER BY asked_us, site_id LIMIT :limit"""
REJECT = "UPDATE join_requests SET rejected_us = :now_us WHERE project_id = :project_id AND site_id = :site_id"
FORGET_REQUEST = "DELETE FROM join_requests WHERE project_id = :project_id AND site_id = :site_id"
PURGE_REQUESTS = "DELETE FROM join_requests WHERE project_id = :project_id AND expires_us <= :now_us"

BAR = """INSERT INTO barred_sites (project_id, site_id, since_us) VALUES (:project_id, :site_id, :now_us)
    ON CONFLICT (project_id, site_id) DO NOTHING"""
BARRED = """SELECT project_id, site_id, since_us FROM barred_sites WHERE project_id = :project_id
    ORDER BY since_us DESC, site_id LIMIT :limit"""
IS_BARRED = "SELECT 1 AS one FROM barred_sites WHERE project_id = :project_id AND site_id = :site_id"
UNBAR = "DELETE FROM barred_sites WHERE project_id = :project_id AND site_id = :site_id RETURNING site_id"


class Invitations:
    """Serves `relay.core.admission_ports.Invitations`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def create(self, *, project_id: int, digest: bytes, label: str, now_us: int, expires_us: int) -> Invitation:
        values = {
            "project_id": project_id,
            "digest": digest,
            "label": label,
            "now_us": now_us,
            "expires_us": expires_us,
        }
        row = await self._db.fetch_one(CREATE_INVITATION, values)
        assert row is not None
        return records.invitation(row)

    async def by_digest(self, digest: bytes) -> Invitation | None:
        row = await self._db.fetch_one(INVITATION_BY_DIGEST, {"digest": digest})
        return None if row is None else records.invitation(row)

    async def of_project(self, project_id: int, *, limit: int) -> list[Invitation]:
        rows = await self._db.fetch_all(INVITATIONS, {"project_id": project_id, "limit": limit})
        return [records.invitation(row) for row in reversed(rows)]

    async def count_open(self, project_id: int, now_us: int) -> int:
        row = await self._db.fetch_one(COUNT_OPEN_INVITATIONS, {"project_id": project_id, "now_us": now_us})
        assert row is not None
        return int(row["n"])

    async def use(self, invitation_id: int, site_uid: str, now_us: int) -> None:
        await self._db.execute(USE_INVITATION, {"id": invitation_id, "site_uid": site_uid, "now_us": now_us})

    async def revoke(self, project_id: int, invitation_id: int, now_us: int) -> bool:
        values = {"id": invitation_id, "project_id": project_id, "now_us": now_us}
        return await self._db.fetch_one(REVOKE_INVITATION, values) is not None

    async def purge(self, project_id: int, before_us: int) -> None:
        await self._db.execute(PURGE_INVITATIONS, {"project_id": project_id, "before_us": before_us})


class Admission:
    """Serves `relay.core.admission_ports.Admission`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def request(self, project_id: int, site_id: int, now_us: int) -> JoinRequest | None:
        row = await self._db.fetch_one(REQUEST, {"project_id": project_id, "site_id": site_id, "now_us": now_us})
        return None if row is None else records.join_request(row)

    async def ask(self, request: JoinRequest) -> None:
        await self._db.execute(ASK, _values(request))

    async def waiting(self, project_id: int, now_us: int, *, limit: int) -> list[JoinRequest]:
        rows = await self._db.fetch_all(WAITING, {"project_id": project_id, "now_us": now_us, "limit": limit})
        return [records.join_request(row) for row in rows]

    async def reject(self, project_id: int, site_id: int, now_us: int) -> None:
        await self._db.execute(REJECT, {"project_id": project_id, "site_id": site_id, "now_us": now_us})

    async def settle(self, project_id: int, site_id: int) -> None:
        await self._db.execute(FORGET_REQUEST, {"project_id": project_id, "site_id": site_id})
        await self.unbar(project_id, site_id)

    async def bar(self, project_id: int, site_id: int, now_us: int) -> None:
        await self._db.execute(BAR, {"project_id": project_id, "site_id": site_id, "now_us": now_us})

    async def is_barred(self, project_id: int, site_id: int) -> bool:
        values = {"project_id": project_id, "site_id": site_id}
        return await self._db.fetch_one(IS_BARRED, values) is not None

    async def barred(self, project_id: int, *, limit: int) -> list[Bar]:
        rows = await self._db.fetch_all(BARRED, {"project_id": project_id, "limit": limit})
        return [records.bar(row) for row in rows]

    async def unbar(self, project_id: int, site_id: int) -> bool:
        values = {"project_id": project_id, "site_id": site_id}
        return await self._db.fetch_one(UNBAR, values) is not None

    async def purge(self, project_id: int, now_us: int) -> None:
        await self._db.execute(PURGE_REQUESTS, {"project_id": project_id, "now_us": now_us})


def _values(request: JoinRequest) -> dict[str, Any]:
    return {
        "project_id": request.project_id,
        "site_id": request.site_id,
        "notes": request.notes,
        "asked_us": request.asked_us,
        "expires_us": request.expires_us,
        "rejected_us": request.rejected_us,
    }
