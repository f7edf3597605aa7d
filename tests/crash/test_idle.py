"""Connected sites that say nothing cost no query, and next to no processor time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conformance.own import new_realm
from tests.conformance.realm import Realm, unique
from tests.conformance.wire import Wire
from tests.support.postgres import Postgres
from tests.support.relay import RelayProcess

QUIET_S = 5.0
SETTLED_S = 1.0
IDLE_CPU = 0.01


@pytest.fixture
def telling_database(postgres: Postgres) -> str:
    """A database whose server writes every statement that it is sent there into its log."""
    url = postgres.create_database()
    postgres.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET log_statement = 'all'")
    return url


def statements(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if "statement: " in line or "execute " in line]


@asynccontextmanager
async def idle_sites(relay: RelayProcess, count: int, per_project: int = 50) -> AsyncIterator[list[Wire]]:
    """That many sites, each connected and a member of a project, that have nothing more to say."""
    async with new_realm(relay) as realm:
        wires: list[Wire] = []
        for first in range(0, count, per_project):
            wires += await project_of(realm, min(per_project, count - first))
        yield wires


async def project_of(realm: Realm, members: int) -> list[Wire]:
    sites = [await realm.site() for _ in range(members)]
    wires = await asyncio.gather(*(realm.session(site) for site in sites))
    name = unique("idle")
    await wires[0].call("projects.create", name=name, description="", tasks=[])
    for wire in wires[1:]:
        await wire.call("projects.join", name=name)
        await wire.expect("subscribed")
    return list(wires)


async def settled(log: Path) -> int:
    """Waits until what was asked for last has been written down; the number of statements so far."""
    async with asyncio.timeout(30):
        while True:
            before = len(statements(log))
            await asyncio.sleep(SETTLED_S)
            if len(statements(log)) == before:
                return before


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.soak)])
async def test_idle_sites_cause_no_query(postgres: Postgres, telling_database: str, count: int) -> None:
    with RelayProcess(telling_database) as relay:
        async with idle_sites(relay, count):
            before = await settled(postgres.log)
            await asyncio.sleep(QUIET_S)
            assert statements(postgres.log)[before:] == []


@pytest.mark.soak
async def test_1000_idle_sites_take_less_than_a_hundredth_of_a_processor(fresh_database: str | None) -> None:
    with RelayProcess(fresh_database) as relay:
        async with idle_sites(relay, 1000):
            await asyncio.sleep(SETTLED_S)
            before, seconds = relay.cpu_s(), 60.0
            await asyncio.sleep(seconds)
            assert (relay.cpu_s() - before) / seconds < IDLE_CPU
