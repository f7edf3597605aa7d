"""Users, sites and projects with members, straight in a `Store`."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from db.store import Store
from relay.core.model import Draft, Entry, Kind, Participant, Project, Role, Run, Site, User
from relay.core.ports import StorageUnavailable
from relay.protocol.position import JournalBounds

NOW_US = 1_764_064_800_123_456
"""2025-11-25T10:00:00.123456Z: the time in tests that do not ask for another."""

MAX_BYTES = 1 << 30


def draft(
    body: str | bytes = b"{}", *, kind: Kind = Kind.MESSAGE, sender: Site | None = None, **fields: object
) -> Draft:
    """A draft with a fresh id. `body` as text is data (JSON), as bytes the payload of a binary event."""
    values: dict[str, Any] = {"kind": kind, "id": str(uuid.uuid4())}
    values |= {"data": body.encode()} if isinstance(body, str) else {"payload": body}
    if sender is not None:
        values |= {"sender_id": sender.id, "sender_uid": sender.uid}
    return Draft(**(values | fields))


@dataclass(kw_only=True)
class Team:
    """A project, its coordinator and its participants."""

    project: Project
    coordinator: Participant
    participants: list[Participant] = field(default_factory=list)


class World:
    """Makes what a test needs, each with a name of its own, each in a transaction of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._numbers = itertools.count(1)

    def _name(self, what: str) -> str:
        return f"{what}-{next(self._numbers)}"

    async def user(self, *, operator: bool = False) -> User:
        async with self.store.transaction() as tx:
            return await tx.users.create(
                username=self._name("user"), email="", password_hash="none", is_operator=operator, now_us=NOW_US
            )

    async def site(self, owner: User | None = None) -> Site:
        owner = owner or await self.user()
        async with self.store.transaction() as tx:
            return await tx.sites.create(
                uid=str(uuid.uuid4()),
                name=self._name("site"),
                description="",
                owner_id=owner.id,
                connected=False,
                now_us=NOW_US,
            )

    async def project(self, coordinator: Site | None = None, participants: Sequence[Site] = ()) -> Team:
        """A project whose journal is empty: nobody is announced in it."""
        coordinator = coordinator or await self.site()
        async with self.store.transaction() as tx:
            project = await tx.projects.create(
                name=self._name("project"), description="", site_id=coordinator.id, tasks=[{"seq": 1}], now_us=NOW_US
            )
            await tx.journal.create(project.id, f"epoch{project.id}")
        team = Team(project=project, coordinator=await self.member(project, coordinator, Role.COORDINATOR))
        for site in participants:
            team.participants.append(await self.member(project, site))
        return team

    async def member(self, project: Project, site: Site, role: Role = Role.PARTICIPANT) -> Participant:
        async with self.store.transaction() as tx:
            return await tx.participants.create(
                project_id=project.id, site_id=site.id, role=role, notes="", joined=0, now_us=NOW_US
            )

    async def batch(self, team: Team, number: int = 1) -> list[Run]:
        """A run for each member."""
        async with self.store.transaction() as tx:
            members = [team.coordinator, *team.participants]
            return await tx.runs.create(members, batch=number, tasks=[{"seq": 1}], now_us=NOW_US)

    # --- journals

    async def append(self, project_id: int, *drafts: Draft) -> list[Entry]:
        """Append, as a change of state does: lock, count up, insert."""
        async with self.store.transaction() as tx:
            held = await tx.journal.lock([project_id])
            first = held[project_id].head + 1
            entries = [self.entry(project_id, offset, one) for offset, one in enumerate(drafts, start=first)]
            await tx.journal.append(entries)
        return entries

    @staticmethod
    def entry(project_id: int, offset: int, one: Draft) -> Entry:
        return Entry(project_id=project_id, offset=offset, at_us=NOW_US, draft=one)

    async def read(
        self,
        project_id: int,
        after: int = 0,
        *,
        limit: int = 100_000,
        max_bytes: int = MAX_BYTES,
        kind: str | None = None,
    ) -> list[Entry]:
        async with self.store.snapshot() as tx:
            return await tx.journal.read(project_id, after, limit=limit, max_bytes=max_bytes, kind=kind)

    async def bounds(self, project_id: int) -> JournalBounds | None:
        async with self.store.snapshot() as tx:
            return await tx.journal.bounds(project_id)

    async def works(self) -> bool:
        """Whether the storage answers."""
        try:
            async with self.store.transaction() as tx:
                await tx.users.by_name("nobody")
        except StorageUnavailable:
            return False
        return True


def offsets(entries: Sequence[Entry]) -> list[int | None]:
    return [entry.offset for entry in entries]
