"""Sites, tokens and projects, made at once: written to the database before the relay starts."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.processes import raise_file_limit
from db.connect import Database
from db.migrate import migrate
from db.store import Store, Tx
from relay.core import accounts
from relay.core.change import new_epoch
from relay.core.model import Draft, Kind, Role, Token
from relay.core.node import Node
from tests.support.relay import RelayProcess


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """A site's place in a project, and its credential."""

    project: int
    uid: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Team:
    """A project of its own: its coordinator and its participants."""

    project: int
    coordinator: Seat
    participants: tuple[Seat, ...]

    @property
    def seats(self) -> tuple[Seat, ...]:
        return (self.coordinator, *self.participants)


@contextmanager
def relay_with(
    *team_sizes: int, database_url: str | None = None, backlog: int = 0, **settings: str
) -> Iterator[tuple[RelayProcess, list[Team]]]:
    """A running relay with one project for each size: a coordinator and so many participants.

    Args:
        database_url: a migrated PostgreSQL database; None for SQLite.
        backlog: events that each project's journal has already.
        settings: the relay's own, as environment variables.
    """
    raise_file_limit()
    with TemporaryDirectory(prefix="relay-benchmark-") as home:
        data = Path(home)
        teams = asyncio.run(_seed(database_url or f"sqlite:///{data}/relay.db", team_sizes, backlog))
        defaults = {"STARFISH_LOG_LEVEL": "warning"}
        with RelayProcess(database_url, data_dir=data, settings=defaults | settings) as relay:
            yield relay, teams


async def _seed(url: str, team_sizes: tuple[int, ...], backlog: int) -> list[Team]:
    database = Database(url)
    await database.connect()
    try:
        await migrate(database)
        store = Store(database)
        owner = await accounts.create_user(
            store, username="owner", email="", password_hash="unusable", is_operator=False, now_us=Node.now_us()
        )
        async with store.transaction() as tx:
            teams = [await _team(tx, owner.id, size) for size in team_sizes]
        for team in teams:
            await _fill(store, team, backlog)
        return teams
    finally:
        await database.disconnect()


async def _team(tx: Tx, owner_id: int, size: int) -> Team:
    coordinator_id, uid, token = await _site(tx, owner_id)
    now_us = Node.now_us()
    made = await tx.projects.create(
        name=f"project {uid}", description="", site_id=coordinator_id, tasks=[], now_us=now_us
    )
    await tx.journal.create(made.id, new_epoch())
    await _join(tx, made.id, coordinator_id, Role.COORDINATOR)
    participants = []
    for _ in range(size):
        site_id, site_uid, site_token = await _site(tx, owner_id)
        await _join(tx, made.id, site_id, Role.PARTICIPANT)
        participants.append(Seat(project=made.id, uid=site_uid, token=site_token))
    coordinator = Seat(project=made.id, uid=uid, token=token)
    return Team(project=made.id, coordinator=coordinator, participants=tuple(participants))


async def _site(tx: Tx, owner_id: int) -> tuple[int, str, str]:
    uid, now_us = str(uuid.uuid4()), Node.now_us()
    site = await tx.sites.create(
        uid=uid, name=f"site {uid}", description="", owner_id=owner_id, connected=False, now_us=now_us
    )
    secret = accounts.TOKEN_PREFIX + uuid.uuid4().hex
    token = Token(id=uid[:13], site_id=site.id, label="", created_us=now_us, expires_us=None, revoked_us=None)
    await tx.tokens.create(token, accounts.digest_of(secret))
    return site.id, uid, secret


async def _join(tx: Tx, project_id: int, site_id: int, role: Role) -> None:
    await tx.participants.create(
        project_id=project_id, site_id=site_id, role=role, notes="", joined=0, now_us=Node.now_us()
    )


async def _fill(store: Store, team: Team, backlog: int) -> None:
    data = json.dumps({"round": 1, "note": "x" * 270}).encode()
    for start in range(0, backlog, 1000):
        drafts = [
            Draft(kind=Kind.MESSAGE, id=str(uuid.uuid4()), sender_uid=team.coordinator.uid, data=data)
            for _ in range(min(1000, backlog - start))
        ]
        await store.append_fast({team.project: drafts}, Node.now_us())
