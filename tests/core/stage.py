"""A hub with its members and their sessions, on fakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.core.hub import Hub, Member, TailLimits
from relay.core.model import Draft, Entry, Kind, Role, Site
from relay.core.outbox import Outbox, OutboxLimits
from relay.protocol.errors import SessionClosed
from tests.support.fakes import FakeLink, FakeStore
from tests.support.world import NOW_US, Team, World, draft


@dataclass
class Heard:
    """A hub's watcher: it notes what it is told, with the head at that moment."""

    joined: list[tuple[int, int]] = field(default_factory=list)
    left: list[tuple[int, str, int]] = field(default_factory=list)
    roles: list[dict[int, Role]] = field(default_factory=list)
    receipts: list[int | None] = field(default_factory=list)

    def member_joined(self, hub: Hub, member: Member) -> None:
        assert hub.members[member.site_id] is member
        self.joined.append((member.site_id, hub.head))

    def roles_changed(self, hub: Hub) -> None:
        self.roles.append({member.site_id: member.role for member in hub.members.values()})

    def member_left(self, hub: Hub, member: Member, reason: str) -> None:
        assert member.site_id not in hub.members
        self.left.append((member.site_id, reason, hub.head))

    def wants_receipt(self, hub: Hub, entry: Entry) -> None:
        self.receipts.append(entry.offset)


class Seat:
    """A session of a site in one hub: its outbox, its socket, and how it was closed."""

    def __init__(self, stage: Stage, name: str, limits: OutboxLimits, room: int | None) -> None:
        self.name = name
        self.link = FakeLink(room)
        self.closed: list[SessionClosed] = []
        self.outbox = Outbox(name, self.link, stage.store.port, limits, stage.catch_up, self.closed.append)

    @property
    def events(self) -> list[int | None]:
        return self.link.events()


class Stage:
    """One project: a coordinator and two participants, none of them connected yet."""

    def __init__(self, store: FakeStore, world: World, team: Team, sites: Sequence[Site], tail: TailLimits) -> None:
        self.store = store
        self.world = world
        self.team = team
        self.coordinator, *self.participants = sites
        self.heard = Heard()
        self.catch_up = asyncio.Semaphore(3)
        self.hub = Hub(team.project.id, store.port, tail, self.heard)
        self.numbers = iter(range(1, 1_000_000))

    @classmethod
    async def build(cls, store: FakeStore, world: World, tail: TailLimits | None = None, *, load: bool = True) -> Stage:
        sites = [await world.site() for _ in range(3)]
        team = await world.project(sites[0], sites[1:])
        stage = cls(store, world, team, sites, tail or TailLimits())
        if load:
            await stage.load()
        return stage

    @property
    def project(self) -> int:
        return self.team.project.id

    async def load(self) -> None:
        async with self.store.port.snapshot() as tx:
            bounds = await tx.journal.bounds(self.project)
            assert bounds is not None
            self.hub.load(bounds, await tx.participants.of_project(self.project))

    async def commit(self, *drafts: Draft) -> list[Entry]:
        """Into the journal; the hub does not know yet. The entries have their `origin`, as a writer hands them over."""
        stored = await self.world.append(self.project, *drafts)
        return [
            Entry(project_id=self.project, offset=e.offset, at_us=NOW_US, draft=d)
            for e, d in zip(stored, drafts, strict=True)
        ]

    async def publish(self, *drafts: Draft) -> list[Entry]:
        """Into the journal, and shown."""
        entries = await self.commit(*(drafts or (draft(sender=self.coordinator),)))
        self.hub.advance(entries)
        return entries

    def member(self, site: Site) -> Member:
        return self.hub.members[site.id]

    def connect(
        self, site: Site, *, after: int | None = None, limits: OutboxLimits | None = None, room: int | None = None
    ) -> Seat:
        """A session of a member that is shown what comes after an offset (the head, left out)."""
        seat = Seat(self, f"{site.name}/{next(self.numbers)}", limits or OutboxLimits(), room)
        seat.outbox.subscribe(self.hub, self.member(site), self.hub.head if after is None else after)
        return seat

    def membership(
        self,
        change: str,
        site: Site,
        role: Role = Role.PARTICIPANT,
        *,
        participant: int,
        more: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Draft:
        """The relay's own event of a site that joined, left or was handed the coordination."""
        data = {"site": site.uid, "participant": participant, "role": role.display, "change": change} | dict(more or {})
        return draft(json.dumps(data), kind=Kind.PARTICIPANT, subject_id=site.id, **fields)
