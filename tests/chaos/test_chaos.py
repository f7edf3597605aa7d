"""Ten sites at work while the network, the relay and the database break: none lost, none twice, all in order.

`make chaos` is the long turn: 100,000 messages on each database. `make chaos SEED=N` repeats the weather of an earlier
one, act by act; what the sites are at when it strikes is up to the machine.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.chaos.truth import Leaders, conclude
from tests.chaos.weather import NETWORK, POSTGRES, PROCESSES, Weather
from tests.chaos.worker import Worker, at_work
from tests.conformance.own import new_realm
from tests.conformance.realm import Realm, settle, unique
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

SITES = 10
LANES = 4
"""Messages that a site may have under way in each project."""
PATIENCE_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """So many messages, in such a weather; an application dies every `deaths_s` seconds."""

    messages: int
    processes: dict[str, int]
    postgres: dict[str, int]
    pause_s: float
    for_s: float
    least: int
    deaths_s: float

    def ends(self, postgres: Postgres | None) -> dict[str, int]:
        return self.processes if postgres is None else self.processes | self.postgres


SHORT = Turn(
    messages=150,
    processes={"kill the relay": 1},
    postgres={"crash PostgreSQL": 1},
    pause_s=0.2,
    for_s=0.2,
    least=20,
    deaths_s=0.5,
)
LONG = Turn(messages=100_000, processes=PROCESSES, postgres=POSTGRES, pause_s=2.0, for_s=2.0, least=2_000, deaths_s=2.0)

SETTINGS = {"STARFISH_PING_INTERVAL_S": "1", "STARFISH_PING_TIMEOUT_S": "1", "STARFISH_PRESENCE_GRACE_S": "0.2"}
"""A relay that finds out soon that a site is gone."""
FAULT = re.compile(r"(session|request|task \S+) failed|Task exception was never retrieved|Exception in ASGI")
"""What the relay logs when it has a fault of its own, whatever else is broken."""


async def federation(realm: Realm, url: str, rng: random.Random) -> tuple[list[Worker], Leaders]:
    """Sites in two projects, each of them led by another one and joined by all."""
    sites = [await realm.site() for _ in range(SITES)]
    wires = [await realm.session(site) for site in sites]
    began = {}
    for leading in (0, 1):
        name = unique("chaos")
        project = (await wires[leading].call("projects.create", name=name, description="", tasks=[]))["id"]
        others = [wire for number, wire in enumerate(wires) if number != leading]
        for wire in others:
            await wire.call("projects.join", name=name)
            await wire.expect("subscribed", project=project)
        began[project] = await settle(wires[leading], others, project)
    for wire in wires:
        await wire.close()
    peers = [site.uid for site in sites[2:]]
    workers = [Worker(site, url, began, random.Random(rng.random()), lanes=LANES, peers=peers) for site in sites]
    return workers, dict(zip(began, workers, strict=False))


@asynccontextmanager
async def world(postgres: Postgres | None, seed: int) -> AsyncIterator[tuple[Realm, Weather, list[Worker], Leaders]]:
    url = None if postgres is None else postgres.create_database()
    with RelayProcess(url, settings=SETTINGS) as relay:
        async with new_realm(relay) as realm, Proxy(relay.port) as proxy:
            workers, leaders = await federation(realm, f"http://127.0.0.1:{proxy.port}", random.Random(seed))
            weather = Weather(
                seed=seed,
                relay=relay,
                proxy=proxy,
                postgres=postgres,
                progress=lambda: sum(worker.answered for worker in workers),
            )
            yield realm, weather, workers, leaders


async def deaths(workers: Sequence[Worker], rng: random.Random, every_s: float) -> None:
    """Applications are killed and started again, one after the other."""
    while True:
        await asyncio.sleep(rng.uniform(0.0, 2 * every_s))
        rng.choice(workers).die()


async def work(weather: Weather, turn: Turn, say: Callable[[str], None]) -> None:
    """Until so many messages have been answered, and everything that can break has been broken."""
    everything = set(NETWORK) | set(turn.ends(weather.postgres))
    began, told = time.monotonic(), 0
    while (done := weather.progress()) < turn.messages or not everything <= set(weather.acts):
        assert time.monotonic() - began < PATIENCE_S, f"{done} messages, after {weather.acts[-20:]}"
        if done - told >= 5_000:
            told = done
            say(f"{done} messages, {len(weather.acts)} acts, {time.monotonic() - began:.0f} s")
        await asyncio.sleep(0.1)


@pytest.mark.usefixtures("no_news_of_reconnects")
@pytest.mark.parametrize(
    "turn", [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.chaos)]
)
async def test_whatever_breaks_nothing_is_lost_repeated_or_out_of_order(
    own_postgres: Postgres | None, seed: int, turn: Turn, say: Callable[[str], None]
) -> None:
    say(f"--seed {seed}")
    async with world(own_postgres, seed) as (realm, weather, workers, leaders):
        async with at_work(workers):
            dying = asyncio.create_task(deaths(workers, random.Random(seed), turn.deaths_s))
            ends = turn.ends(own_postgres)
            async with weather.bad(ends, pause_s=turn.pause_s, for_s=turn.for_s, least=turn.least):
                await work(weather, turn, say)
            dying.cancel()
            stored = await conclude(realm, workers, leaders)
        faults = [line for line in weather.relay.log.splitlines() if FAULT.search(line)]
    say(
        f"{stored} messages, {len(weather.acts)} acts, {sum(worker.record.deaths for worker in workers)} deaths, "
        f"{sum(worker.record.repeats for worker in workers)} repeated publishes recognised"
    )
    assert not faults
