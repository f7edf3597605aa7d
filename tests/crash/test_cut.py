"""The relay lives and the network does not: sockets are cut at random, stalled for a moment, throttled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.conformance.own import new_realm
from tests.crash.site import Correspondent, at_work
from tests.crash.truth import conclude, correspondents
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

PATH = "/starfish/ws/v1"


@asynccontextmanager
async def through_a_proxy(database: str | None, rng: random.Random) -> AsyncIterator[tuple[Proxy, list[Correspondent]]]:
    """Sites at work through the proxy; at the end of the block everything is concluded, on a network that works."""
    with RelayProcess(database) as relay:
        async with new_realm(relay) as realm, Proxy(relay.port) as proxy:
            sites = await correspondents(realm, rng, f"ws://127.0.0.1:{proxy.port}{PATH}", participants=3)
            async with at_work(sites):
                yield proxy, sites
                await conclude(realm, sites)


@pytest.mark.parametrize("cuts", [20, pytest.param(2000, marks=pytest.mark.soak)])
async def test_cut_sockets_lose_repeat_and_reorder_nothing(
    fresh_database: str | None, rng: random.Random, cuts: int
) -> None:
    async with through_a_proxy(fresh_database, rng) as (proxy, sites):
        for _ in range(cuts):
            await asyncio.sleep(rng.uniform(0.0, 0.1))
            proxy.cut(rng.randrange(100) if rng.random() < 0.9 else None)
    assert sum(site.sessions for site in sites) > cuts // 2


async def test_a_network_that_stalls_and_crawls_loses_nothing(fresh_database: str | None, rng: random.Random) -> None:
    async with through_a_proxy(fresh_database, rng) as (proxy, sites):
        proxy.rate = 20_000
        await asyncio.sleep(1.0)
        for _ in range(5):
            proxy.stall()
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            proxy.resume()
            proxy.cut(rng.randrange(100))
            await asyncio.sleep(rng.uniform(0.0, 0.1))
        proxy.rate = None
    assert all(site.seen for site in sites)
