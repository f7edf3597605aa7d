"""A relay, one that lies before it, and sites with identities."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.client import Event, Limits, Site
from relay.client.sealed import Identity
from tests.e2e.hostile import HostileRelay
from tests.support.relay import RelayProcess

USER, PASSWORD = "sealed-anna", "a password of hers"
TIMEOUT_S = 20.0
LIMITS = Limits(backoff_s=0.05, backoff_max_s=0.2, connect_s=TIMEOUT_S)
TASKS = [{"seq": 1, "model": "m", "config": {"total_round": 2, "current_round": 1}}]


@dataclass(kw_only=True)
class Ward:
    """Makes sites on one relay, whose identities are files of their own."""

    relay: RelayProcess
    home: Path

    async def register(self) -> str:
        """A new site with an identity; its uid, by which its key file is named, too."""
        uid = str(uuid.uuid4())
        body = {"uid": uid, "name": f"site-{uid}", "description": "made by a test"}
        async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as http:
            answer = await http.post(f"{self.relay.url}/starfish/api/v1/sites/", json=body, auth=(USER, PASSWORD))
        assert answer.status_code == 201, answer.text
        Identity.generate().save(self.home / uid)
        return uid

    def identity(self, uid: str) -> Identity:
        return Identity.load(self.home / uid)

    def site(self, uid: str, *, by: str = "", sealed: bool = True, **options: Any) -> Site:
        """That site's session, `by` another URL than the relay's."""
        if sealed:
            options.setdefault("identity", self.identity(uid))
        defaults: dict[str, Any] = {"limits": LIMITS, "transports": ["websocket"]}
        return Site(by or self.relay.url, user=USER, password=PASSWORD, uid=uid, proxy=False, **(defaults | options))

    @asynccontextmanager
    async def team(self, *, by: str = "", **options: Any) -> AsyncIterator[tuple[Site, Site, int]]:
        """A coordinator, a participant (`by` another URL, with options) and their project; nothing waits to be read."""
        uids = await asyncio.gather(self.register(), self.register())
        async with asyncio.timeout(3 * TIMEOUT_S), self.site(uids[0]) as co, self.site(uids[1], by=by, **options) as pa:
            project = await self.found(co, pa)
            yield co, pa, project

    async def found(self, co: Site, *participants: Site) -> int:
        """A project of these."""
        name = f"project-{uuid.uuid4()}"
        project: int = (await co.projects.create(name, tasks=TASKS))["id"]
        for pa in participants:
            await pa.projects.join(name)
            await first(co, lambda event, uid=pa.uid: event.kind == "participant" and event.data["site"] == uid)  # type: ignore[misc]
        return project


async def first(site: Site, wanted: Callable[[Event], bool] = lambda event: event.sender is not None) -> Event:
    """The next event that is wanted; by default, of another site."""
    async with asyncio.timeout(TIMEOUT_S):
        async for event in site.events():
            if wanted(event):
                return event
    raise AssertionError("the events have ended")


@pytest.fixture(scope="package")
def relay() -> Iterator[RelayProcess]:
    with RelayProcess() as process:
        process.cli("user", "create", USER, "--no-input", env={"STARFISH_USER_PASSWORD": PASSWORD})
        yield process


@pytest.fixture
def ward(relay: RelayProcess, tmp_path: Path) -> Ward:
    return Ward(relay=relay, home=tmp_path)


@pytest.fixture
async def hostile(relay: RelayProcess) -> AsyncIterator[HostileRelay]:
    async with HostileRelay(relay.url) as between:
        yield between
