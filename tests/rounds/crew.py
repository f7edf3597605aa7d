"""A team at work under a policy: it starts batches, moves runs, dies, and is looked at."""

from __future__ import annotations

from typing import Any

from tests.conformance.realm import Realm, Site, Team
from tests.conformance.wire import Frame, Wire

STATUSES = (
    "Failed",
    "Pending Failed",
    "Standby",
    "Preparing",
    "Running",
    "Pending Success",
    "Pending Aggregating",
    "Aggregating",
    "Success",
)
ENDED = {"Failed", "Success"}


async def crew(realm: Realm, participants: int = 1) -> Team:
    """A team of which each site counts as online for its socket alone: registering counted as a heartbeat."""
    team = await realm.team(participants)
    for site in team.sites:
        await heartbeat(realm, site, alive=False)
    return team


async def heartbeat(realm: Realm, site: Site, *, alive: bool) -> None:
    response = await realm.rest("POST", "sites/heartbeat/", site.account, json={"uid": site.uid, "status": int(alive)})
    assert response.status_code == 202, response.text


async def start(team: Team, **policy: Any) -> Frame:
    """Start a batch; what the relay answers."""
    result: Frame = await team.co.call("runs.start", project=team.project, policy=policy)
    team.batch, team.runs = result["batch"], {run["site_uid"]: run for run in result["runs"]}
    return result


async def move(team: Team, site: Site, *statuses: str) -> None:
    """Have a site move its own run."""
    wire = team.co if site is team.coordinator else team.pas[team.participants.index(site)]
    for status in statuses:
        await wire.call("runs.status", run=team.run(site), status=status)


async def told(wire: Wire, team: Team, reason: str) -> Frame:
    """The `batch` event with this reason, waited for; its data."""
    event = await wire.expect("event", project=team.project, kind="batch", data={"reason": reason})
    data: Frame = event["data"]
    assert set(data) == {"batch", "status", "status_code", "reason"}
    assert (data["batch"], STATUSES[data["status_code"]]) == (team.batch, data["status"])
    return data


def kill(wire: Wire) -> None:
    """A process that is killed: its socket is gone, and nobody has said goodbye."""
    wire.connection.transport.abort()


async def offline(team: Team, site: Site) -> None:
    """Kill a participant, and wait until it is known to be gone."""
    kill(team.pas[team.participants.index(site)])
    await team.co.expect("presence", project=team.project, site=site.uid, state="offline")


async def back(realm: Realm, team: Team, site: Site) -> Wire:
    """A new session of a participant, that the coordinator knows of."""
    wire = await realm.session(site)
    await team.co.expect("presence", project=team.project, site=site.uid, state="online")
    team.pas[team.participants.index(site)] = wire
    return wire
