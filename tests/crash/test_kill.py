"""The relay is killed, again and again, while sites publish and receive: nothing is lost, repeated or out of order."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.conformance.own import new_realm
from tests.crash.site import Correspondent, at_work
from tests.crash.truth import conclude, correspondents
from tests.support.relay import RelayProcess


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.soak)])
async def test_what_was_answered_survives_a_kill_and_is_shown_once(
    fresh_database: str | None, rng: random.Random, kills: int
) -> None:
    with RelayProcess(fresh_database) as relay:
        async with new_realm(relay) as realm:
            sites = await correspondents(realm, rng, relay.ws_url)
            async with at_work(sites):
                for _ in range(kills):
                    await some_answers(sites, rng)
                    await kill_and_start(relay, rng)
                await some_answers(sites, rng)
                entries = await conclude(realm, sites)
    assert len(entries) > kills * len(sites), "too little was published for the kills to hit anything"
    assert all(site.sessions > kills // 2 for site in sites)


async def some_answers(sites: list[Correspondent], rng: random.Random) -> None:
    """Waits until each site is back at work, and then for a random while."""
    before = [len(site.answered) for site in sites]
    for site, count in zip(sites, before, strict=True):
        await site.until(lambda site=site, count=count: len(site.answered) > count)  # type: ignore[misc]
    await asyncio.sleep(rng.uniform(0.0, 0.3))


async def kill_and_start(relay: RelayProcess, rng: random.Random) -> None:
    """One time in four it is killed in its start, too."""
    await asyncio.to_thread(relay.kill)
    if rng.random() < 0.25:
        await asyncio.to_thread(relay.start, ready=False)
        await asyncio.sleep(rng.uniform(0.0, 1.0))
        await asyncio.to_thread(relay.kill)
    await asyncio.to_thread(relay.start)
