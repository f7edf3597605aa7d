"""Connections that die without a word: the relay finds out, and gives up nobody of whom a byte still moves."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

from tests.conformance.own import new_realm
from tests.conformance.realm import Realm, Site, Team
from tests.conformance.wire import Wire
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

PING_S, PONG_S, GRACE_S = 1.0, 3.0, 0.5
WITHIN_S = 30.0
"""Much more than the three together, for a machine that is busy with something else."""
JOB = ("runjob", "check_site_status")
SETTINGS = {
    "STARFISH_PING_INTERVAL_S": str(PING_S),
    "STARFISH_PING_TIMEOUT_S": str(PONG_S),
    "STARFISH_PRESENCE_GRACE_S": str(GRACE_S),
}


async def through(realm: Realm, proxy: Proxy, site: Site) -> Wire:
    direct = realm.socket_url
    realm.socket_url = f"ws://127.0.0.1:{proxy.port}/{direct.split('/', 3)[3]}"
    try:
        return await realm.session(site)
    finally:
        realm.socket_url = direct


async def told(team: Team, site: Site, state: str) -> float:
    """Waits until the coordinator is told; the seconds that it took."""
    since = time.monotonic()
    while True:
        try:
            await team.co.expect("presence", site=site.uid, state=state)
        except AssertionError:
            if time.monotonic() - since > WITHIN_S:
                raise
        else:
            return time.monotonic() - since


async def test_a_connection_that_swallows_everything_is_given_up_within_ping_pong_and_grace() -> None:
    with RelayProcess(settings=SETTINGS) as relay:
        async with new_realm(relay) as realm, Proxy(relay.port) as proxy:
            team = await realm.team()
            await team.pa.close()
            await told(team, team.participant, "offline")
            wire = await through(realm, proxy, team.participant)
            await told(team, team.participant, "online")
            await asyncio.sleep(PING_S + PONG_S + GRACE_S)
            assert await wire.is_alive(), "it answers pings, and is kept"
            proxy.stall()
            assert await told(team, team.participant, "offline") > GRACE_S
            published = await team.co.publish(team.project, data="while it was away")
            proxy.resume()
            again = await realm.resumed(team.participant, team.project, offset=team.head)
            await again.expect("event", offset=published["offset"])
            await told(team, team.participant, "online")


async def test_a_socket_a_site_and_a_transfer_are_given_up_each_by_its_own_clock() -> None:
    """A large frame crawls to a slow site for much longer than any limit: bytes move, so that nothing is given up."""
    settings = SETTINGS | {"STARFISH_OUTBOX_PATIENCE_S": "3", "STARFISH_INLINE_BYTES": str(8 * 1024 * 1024)}
    with RelayProcess(settings=settings) as relay:
        async with new_realm(relay) as realm, Proxy(relay.port) as proxy:
            team = await realm.team()
            proxy.rate = 64 * 1024
            wire = await through(realm, proxy, team.participant)
            await team.pa.close()
            payload = bytes(range(256)) * (512 * 1024 // 256)
            sent = await team.co.publish_binary(team.project, payload)
            since = time.monotonic()
            deadline = since + 60
            found = None
            while found is None:
                assert time.monotonic() < deadline, "it did not arrive"
                with suppress(AssertionError):
                    found = await wire.expect("event", offset=sent["offset"])
                assert wire.connection.close_code is None, "it was given up"
            assert found["payload"] == payload
            assert time.monotonic() - since > PING_S + PONG_S + GRACE_S, "it was slow enough to tell"
            assert await wire.is_alive()
            assert not [
                frame for frame in team.co.unclaimed if frame["type"] == "presence" and frame["state"] == "offline"
            ]


@pytest.mark.parametrize("way", ["kill", "restart"])
async def test_presence_is_right_after_a_restart_for_who_comes_back_and_who_does_not(way: str) -> None:
    settings = SETTINGS | {"STARFISH_RESTART_GRACE_S": "4"}
    with RelayProcess(settings=settings) as relay:
        async with new_realm(relay) as realm:
            team = await realm.team(2)
            back, gone = team.participants
            await written_down(relay, len(team.sites))
            if way == "kill":
                relay.kill()
                await asyncio.to_thread(relay.start)
            else:
                await asyncio.to_thread(relay.restart)
            team.co = await realm.session(team.coordinator)
            online = set(team.co.welcome["projects"][str(team.project)]["online"])
            assert online == {back.uid, gone.uid}, "within the grace both count as online"
            await realm.session(back)
            await told(team, gone, "offline")
            assert not [frame for frame in team.co.unclaimed if frame["type"] == "presence"], "the other was no news"
            listed = await asyncio.to_thread(relay.cli, *JOB)
            said = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in listed.stdout.splitlines()[3:-1]}
            live = {
                part["site"]["name"]: part["online"]
                for part in await team.co.call("projects.participants", project=team.project)
            }
            assert said == {name: "Connected" if online else "Disconnected" for name, online in live.items()}
            assert live == {team.coordinator.name: True, back.name: True, gone.name: False}


async def written_down(relay: RelayProcess, count: int) -> None:
    """Waits until the database has so many sites as connected."""
    deadline = time.monotonic() + WITHIN_S
    while (listed := (await asyncio.to_thread(relay.cli, *JOB)).stdout).count(" Connected") < count:
        assert time.monotonic() < deadline, listed
