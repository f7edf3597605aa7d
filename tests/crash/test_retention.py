"""Retention on a live relay: what all have acknowledged goes; who lacks what a hard limit took is told so."""

from __future__ import annotations

import asyncio
import time

from tests.conformance.own import new_realm
from tests.conformance.realm import Team, listed
from tests.conformance.wire import Frame, Wire, events
from tests.support.relay import RelayProcess

SOON_S = 20.0


async def history(wire: Wire, team: Team) -> list[Frame]:
    return listed(await wire.call("history.read", project=team.project, after=0, limit=1000), "events")


async def begins_at(wire: Wire, team: Team, offset: int) -> None:
    """Waits until the journal begins there."""
    deadline = time.monotonic() + SOON_S
    while (first := (await history(wire, team))[0]["offset"]) != offset:
        assert time.monotonic() < deadline, f"it begins at {first} and not at {offset}"
        await asyncio.sleep(0.1)


async def test_a_journal_is_trimmed_and_who_comes_back_knows_what_it_lacks(fresh_database: str | None) -> None:
    settings = {"STARFISH_KEEP_BYTES": "1000", "STARFISH_KEEP_INTERVAL_S": "0.1"}
    with RelayProcess(fresh_database, settings=settings) as relay:
        async with new_realm(relay) as realm:
            team = await realm.team(2)
            gone, (reader, away) = team.head, team.participants
            published = [(await team.co.publish(team.project, data="x" * 298))["offset"] for _ in range(10)]
            for wire, offset in ((team.co, published[-1]), (team.pas[0], published[-1]), (team.pas[1], published[4])):
                await wire.ack(team.project, offset)
            await begins_at(team.co, team, published[5])
            await team.pas[1].close()
            wire = await realm.session(away)
            assert wire.welcome["projects"][str(team.project)]["recovered"] is True
            assert [event["offset"] for event in await shown(wire, published[-1])] == published[5:]
            wire = await realm.resumed(reader, team.project, offset=gone)
            assert (
                wire.welcome["projects"][str(team.project)] | {"recovered": False, "from": published[4]}
                == (wire.welcome["projects"][str(team.project)])
            )
            listing = (await asyncio.to_thread(relay.cli, "journal", "list")).stdout
            assert f" {published[5]} " in listing and away.uid in listing
            relay.settings["STARFISH_KEEP_HARD_BYTES"] = "1000"
            await asyncio.to_thread(relay.restart)
            co = await realm.session(team.coordinator)
            await begins_at(co, team, published[7])
            wire = await realm.session(away)
            project = wire.welcome["projects"][str(team.project)]
            assert (project["recovered"], project["from"]) == (False, published[6])
            assert [event["offset"] for event in await shown(wire, published[-1])] == published[7:]


async def shown(wire: Wire, through: int) -> list[Frame]:
    return events(await wire.until("event", offset=through), "message")


async def test_limits_of_a_projects_own_take_effect_beside_the_relay(fresh_database: str | None) -> None:
    with RelayProcess(fresh_database, settings={"STARFISH_KEEP_INTERVAL_S": "0.1"}) as relay:
        async with new_realm(relay) as realm:
            team, other = await realm.team(), await realm.team()
            for wire in (team.co, team.pa, other.co, other.pa):
                project = team.project if wire in (team.co, team.pa) else other.project
                await wire.ack(project, 1_000_000)
            await asyncio.to_thread(relay.cli, "journal", "keep", str(team.project), "--age", "1s")
            last = (await team.co.publish(team.project, data="the last"))["offset"]
            await begins_at(team.co, team, last)
            assert (await history(other.co, other))[0]["offset"] == 1
            refused = await asyncio.to_thread(relay.cli, "journal", "keep", "404", check=False)
            assert (refused.returncode, refused.stderr[:6]) == (1, "error:")
