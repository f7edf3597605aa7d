"""Accidents with a name, replayed: each happened to somebody once, and cost a training."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from relay.client import Limits, Unauthenticated
from relay.client import Site as Client
from tests.conformance.realm import Realm, Site, Team
from tests.conformance.wire import events, new_id
from tests.core.test_run_states import ALLOWED
from tests.rounds.conftest import realm_on
from tests.rounds.crew import ENDED, STATUSES, back, crew, kill, move, offline, start, told
from tests.rounds.test_end import reasons, side_by_side, statuses
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

QUICK = Limits(backoff_s=0.05, backoff_max_s=0.2, stable_s=0.2, ack_delay_s=0.01, close_s=1.0)
HOUR_S, WEEK_S = 3600.0, 7 * 24 * 3600.0


def client_of(site: Site, port: int) -> Client:
    account = site.account
    return client_at(port, user=account.name, password=account.password, uid=site.uid)


def client_at(port: int, **who: Any) -> Client:
    return Client(f"http://127.0.0.1:{port}", proxy=False, transports=("websocket",), limits=QUICK, **who)


async def commands(client: Client, count: int) -> list[int]:
    """What that many `command` events say, as they come."""
    said = []
    async with asyncio.timeout(20):
        async for event in client.events():
            assert event.kind != "resync"
            if event.kind == "command":
                said.append(event.data)
                if len(said) == count:
                    break
    return said


async def leave_it_to(team: Team, number: int = 0) -> Site:
    """The participant's session is taken over by a client: the wire's own is gone."""
    site = team.participants[number]
    await offline(team, site)
    return site


# The network


async def test_six_minutes_without_a_network_in_the_middle_of_a_round(realm: Realm, shared_relay: RelayProcess) -> None:
    """Far longer than a lost socket is forgiven: the site is known to be offline. The round goes on, and so does it."""
    team = await crew(realm, 2)
    site = await leave_it_to(team)
    async with Proxy(shared_relay.port) as proxy, client_of(site, proxy.port) as client:
        await team.co.expect("presence", site=site.uid, state="online")
        await start(team, round_deadline_s=60, stragglers="leave_out", coordinator_grace_s=60)
        run = team.run(site)
        for status in ("Preparing", "Running"):
            await client.runs.status(run, status)
        proxy.refusing = True
        proxy.cut()
        await team.co.expect("presence", site=site.uid, state="offline")
        for number in range(5):
            await team.co.publish(team.project, kind="command", data=number)
        update = asyncio.create_task(client.publish(team.project, "update", data="weights", run=run))
        moved = asyncio.create_task(client.runs.status(run, "Pending Success"))
        await move(team, team.participants[1], "Preparing", "Running", "Pending Success")
        proxy.refusing = False
        assert not (await update).duplicate
        await moved
        assert await commands(client, 5) == list(range(5))
        assert (await team.co.expect("event", kind="update", run=run))["data"] == "weights"
        await team.force("Success")
        assert await statuses(team) == ["Success"] * 3
    assert set(await reasons(team)) == {"started", "all_runs"}


async def test_the_answer_to_a_large_publish_is_lost(realm: Realm, shared_relay: RelayProcess) -> None:
    team = await crew(realm)
    site = await leave_it_to(team)
    async with Proxy(shared_relay.port) as proxy, client_of(site, proxy.port) as client:
        proxy.half_open()
        id_, weights = new_id(), bytes(8 * 1024 * 1024)
        update = asyncio.create_task(client.publish(team.project, "update", payload=weights, id=id_))
        shown = await team.co.expect("event", kind="update", id=id_)
        assert shown["payload"] == weights
        assert not update.done()
        proxy.cut()
        published = await update
        assert (published.offset, published.duplicate) == (shown["offset"], True)
        await client.publish(team.project, "message", data="after it")
        assert events(await team.co.until("event", data="after it"), "update") == []
    stored = await team.co.call("history.read", project=team.project, after=team.head, limit=1000, kind="update")
    assert [(entry["id"], entry["offset"]) for entry in stored] == [(id_, shown["offset"])]


# Time


def token(relay: RelayProcess, site: Site, expires_in: str) -> str:
    return relay.cli("token", "create", "--site", site.uid, "--expires-in", expires_in).stdout.split()[-1]


async def test_a_token_expires_while_the_site_is_offline(own_relay: RelayProcess) -> None:
    """A site that was given one token needs another; one that was given a source of tokens goes on by itself."""
    async with realm_on(own_relay) as realm:
        team = await crew(realm, 2)
        sites = [await leave_it_to(team, number) for number in (0, 1)]
        one, another = [await asyncio.to_thread(token, own_relay, site, "1h") for site in sites]
        current = [another]
        later = await asyncio.to_thread(token, own_relay, sites[1], "90d")
        async with (
            client_at(own_relay.port, token=one) as fixed,
            client_at(own_relay.port, token=lambda: current[0]) as renewing,
        ):
            await team.co.publish(team.project, kind="command", data=0)
            assert await commands(fixed, 1) == await commands(renewing, 1) == [0]
            await asyncio.to_thread(own_relay.kill)
            current[0] = later
            own_relay.set_clock(ahead_s=2 * HOUR_S)
            await asyncio.to_thread(own_relay.start)
            team.co = await realm.session(team.coordinator)
            await team.co.publish(team.project, kind="command", data=1)
            assert await commands(renewing, 1) == [1]
            with pytest.raises(Unauthenticated):
                await commands(fixed, 1)
        async with client_of(sites[0], own_relay.port) as again:
            assert (await commands(again, 2))[-1] == 1


async def test_a_week_offline(own_relay: RelayProcess) -> None:
    async with realm_on(own_relay) as realm:
        team = await crew(realm)
        site = await leave_it_to(team)
        await team.co.publish(team.project, kind="command", data=0)
        async with client_of(site, own_relay.port) as client:
            assert await commands(client, 1) == [0]
            await start(team)
            await client.runs.status(team.run(site), "Preparing")
        for number in range(1, 301):
            await team.co.publish(team.project, kind="command", data=number)
        await asyncio.to_thread(own_relay.kill)
        own_relay.set_clock(ahead_s=WEEK_S)
        await asyncio.to_thread(own_relay.start)
        team.co = await realm.session(team.coordinator)
        await team.co.publish(team.project, kind="command", data=301)
        async with client_of(site, own_relay.port) as client:
            assert await commands(client, 301) == list(range(1, 302))
            await client.runs.status(team.run(site), "Running")
        assert await statuses(team) == ["Standby", "Running"]


# Deaths, in each status


def way_to_success(status: str) -> list[str]:
    """The shortest way that a run may go alone."""
    ways = deque([[status]])
    while (way := ways.popleft())[-1] != "Success":
        ways.extend([*way, to.display] for now, to in sorted(ALLOWED) if now.display == way[-1] and to is not now)
    return way[1:]


@pytest.mark.parametrize("status", STATUSES)
async def test_a_site_is_killed_and_comes_back(realm: Realm, status: str) -> None:
    await side_by_side(participant_comes_back(realm, status), coordinator_comes_back(realm, status))


async def participant_comes_back(realm: Realm, status: str) -> None:
    team = await crew(realm)
    await start(team, deadline_s=60)
    await team.force(status)
    await offline(team, team.participant)
    wire = await back(realm, team, team.participant)
    (run,) = await wire.call("runs.list", project=team.project)
    assert run["status"] == status
    await move(team, team.participant, *way_to_success(status))
    assert (await team.statuses())[team.participant.uid] == "Success"


async def coordinator_comes_back(realm: Realm, status: str) -> None:
    team = await crew(realm)
    await start(team, coordinator_grace_s=60)
    await team.force(status)
    kill(team.co)
    await team.pa.expect("presence", site=team.coordinator.uid, state="offline")
    if status not in ENDED:
        await told(team.pa, team, "paused")
    team.co = await realm.session(team.coordinator)
    if status not in ENDED:
        await told(team.pa, team, "resumed")
    assert await statuses(team) == [status] * 2
    await team.force("Success")
    assert await statuses(team) == ["Success"] * 2


async def test_a_participant_is_killed_in_each_status_and_stays_away(realm: Realm) -> None:
    async def case(status: str) -> None:
        team = await crew(realm)
        await start(team, deadline_s=1.5)
        await team.force(status)
        kill(team.pa)
        if status not in ENDED:
            await told(team.co, team, "deadline")
        assert await statuses(team) == ([status] * 2 if status in ENDED else ["Failed"] * 2)

    await side_by_side(*(case(status) for status in STATUSES))


async def test_the_coordinator_is_killed_in_each_status_and_stays_away(realm: Realm) -> None:
    async def case(status: str) -> None:
        team = await crew(realm)
        await start(team, coordinator_grace_s=0.5)
        await team.force(status)
        kill(team.co)
        if status not in ENDED:
            await told(team.pa, team, "coordinator_lost")
        (run,) = await team.pa.call("runs.list", project=team.project)
        assert run["status"] == (status if status in ENDED else "Failed")

    await side_by_side(*(case(status) for status in STATUSES))
