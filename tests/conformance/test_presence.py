"""Sections 5 and 6 of docs/protocol.md: presence, and the `online` lists.

Presence is transient, so a proof that none came ends with a transient event: it takes the same way, after it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conformance.realm import Realm, Site, Team, listed
from tests.conformance.shapes import TIMESTAMP
from tests.conformance.wire import Frame, Wire


async def presences(team: Team, wire: Wire, sender: Wire | None = None) -> list[tuple[str, str]]:
    """(site, state) of every presence frame that a session was sent up to now; claims everything."""
    sender = sender or (team.pa if wire.welcome["site"]["uid"] == team.coordinator.uid else team.co)
    await sender.publish(team.project, data="looked", transient=True)
    frames = await wire.until("event", data="looked")
    return [(frame["site"], frame["state"]) for frame in frames if frame["type"] == "presence"]


async def idle_team(realm: Realm, participants: int = 1) -> Team:
    """A team whose sessions have nothing unclaimed."""
    team = await realm.team(participants)
    for wire in (team.co, *team.pas):
        await presences(team, wire)
    return team


async def heartbeat(realm: Realm, site: Site, status: int) -> None:
    response = await realm.rest("POST", "sites/heartbeat/", site.account, json={"uid": site.uid, "status": status})
    assert response.status_code == 202, response.text


def drop(wire: Wire) -> None:
    """Cuts the connection without a closing handshake."""
    wire.connection.transport.abort()


def described(wire: Wire, project: int) -> Frame:
    found: Frame = wire.welcome["projects"][str(project)]
    return found


# Who sees whom


async def test_presence_has_exactly_its_fields(realm: Realm) -> None:
    team = await idle_team(realm)
    await team.pa.close()
    frame = await team.co.expect("presence")
    assert TIMESTAMP.fullmatch(frame.pop("at"))
    assert frame == {"type": "presence", "project": team.project, "site": team.participant.uid, "state": "offline"}
    await realm.session(team.participant)
    frame = await team.co.expect("presence")
    assert TIMESTAMP.fullmatch(frame.pop("at"))
    assert frame == {"type": "presence", "project": team.project, "site": team.participant.uid, "state": "online"}


async def test_a_coordinator_sees_all_and_a_participant_only_the_coordinator(realm: Realm) -> None:
    team = await idle_team(realm, participants=3)
    leaver = team.participants[2]
    await team.pas[2].close()
    await team.co.expect("presence", site=leaver.uid, state="offline")
    back = await realm.session(leaver)
    await team.co.expect("presence", site=leaver.uid, state="online")
    for pa in team.pas[:2]:
        assert await presences(team, pa) == []
    await team.co.close()
    for pa in (*team.pas[:2], back):
        assert (await pa.expect("presence"))["site"] == team.coordinator.uid


async def test_the_coordinators_return_is_seen_by_all(realm: Realm) -> None:
    team = await idle_team(realm, participants=2)
    await team.co.close()
    for pa in team.pas:
        await pa.expect("presence", site=team.coordinator.uid, state="offline")
    again = await realm.session(team.coordinator)
    for pa in team.pas:
        await pa.expect("presence", site=team.coordinator.uid, state="online")
    assert sorted(described(again, team.project)["online"]) == sorted(site.uid for site in team.participants)


async def test_a_site_is_not_told_of_itself(realm: Realm) -> None:
    team = await idle_team(realm)
    other = await realm.session(team.coordinator)
    await presences(team, other)
    assert await presences(team, team.co) == []
    assert team.coordinator.uid not in described(other, team.project)["online"]
    await other.close()
    assert await presences(team, team.co) == []


async def test_a_site_in_another_project_sees_nothing(realm: Realm) -> None:
    team, other = await idle_team(realm), await idle_team(realm)
    await team.pa.close()
    await team.co.expect("presence", site=team.participant.uid)
    assert await presences(other, other.co) == []
    assert await presences(other, other.pa) == []


async def test_presence_is_told_in_every_project_of_the_site(realm: Realm) -> None:
    one, other = await realm.team(), await realm.team()
    await one.pa.call("projects.join", name=other.name)
    await one.pa.expect("subscribed", project=other.project)
    await one.pa.close()
    await one.co.expect("presence", project=one.project, site=one.participant.uid, state="offline")
    await other.co.expect("presence", project=other.project, site=one.participant.uid, state="offline")


async def test_who_has_left_is_not_seen_any_more(realm: Realm) -> None:
    team = await idle_team(realm, participants=2)
    leaver = team.pas[1]
    await leaver.call("projects.leave", project=team.project)
    await leaver.expect("unsubscribed")
    await leaver.close()
    other = await realm.session(team.participants[1])
    assert other.welcome["projects"] == {}
    assert "online" not in [state for _, state in await presences(team, team.co)]
    online = described(await realm.session(team.coordinator), team.project)["online"]
    assert online == [team.participant.uid]


# Sessions and their ends


async def test_a_site_is_online_from_its_first_session_to_its_last(realm: Realm) -> None:
    team = await idle_team(realm, participants=2)
    site = team.participants[1]
    second, third = await realm.session(site), await realm.session(site)
    await team.pas[1].close()
    await third.close()
    assert await presences(team, team.co) == []
    await second.close()
    await team.co.expect("presence", site=site.uid, state="offline")
    assert await presences(team, team.co) == []


async def test_a_clean_close_is_told_at_once(realm: Realm) -> None:
    team = await idle_team(realm)
    await team.pa.close()
    async with asyncio.timeout(1):
        await team.co.expect("presence", site=team.participant.uid, state="offline")


async def test_a_dropped_socket_that_comes_back_is_no_news(realm: Realm) -> None:
    team = await idle_team(realm, participants=2)
    for _ in range(3):
        drop(team.pas[1])
        await team.pas[1].connection.wait_closed()
        team.pas[1] = await realm.session(team.participants[1])
    assert await presences(team, team.co) == []
    assert team.participants[1].uid in described(await realm.session(team.coordinator), team.project)["online"]


async def test_the_coordinators_dropped_socket_is_no_news_either(realm: Realm) -> None:
    team = await idle_team(realm)
    drop(team.co)
    await team.co.connection.wait_closed()
    again = await realm.session(team.coordinator)
    assert await presences(team, team.pa, sender=again) == []


# Heartbeats are presence too


async def test_a_heartbeat_brings_a_site_online_and_a_last_one_takes_it_off(realm: Realm) -> None:
    team = await idle_team(realm, participants=2)
    site = team.participants[1]
    await team.pas[1].close()
    await team.co.expect("presence", site=site.uid, state="offline")
    await heartbeat(realm, site, 1)
    await heartbeat(realm, site, 1)
    await heartbeat(realm, site, 0)
    await team.co.expect("presence", site=site.uid, state="online")
    await team.co.expect("presence", site=site.uid, state="offline")
    assert await presences(team, team.co) == []


async def test_a_session_outweighs_a_last_heartbeat(realm: Realm) -> None:
    team = await idle_team(realm)
    await heartbeat(realm, team.participant, 1)
    await heartbeat(realm, team.participant, 0)
    assert await presences(team, team.co) == []
    assert described(await realm.session(team.coordinator), team.project)["online"] == [team.participant.uid]


# The lists


@pytest.mark.parametrize("online", [True, False])
async def test_all_lists_say_the_same(realm: Realm, online: bool) -> None:
    team = await idle_team(realm, participants=2)
    site = team.participants[1]
    if not online:
        await team.pas[1].close()
        await team.co.expect("presence", site=site.uid, state="offline")
    expected = {member.uid for member in team.participants if online or member != site}
    assert set(described(await realm.session(team.coordinator), team.project)["online"]) == expected
    found = listed(await team.co.call("projects.participants", project=team.project), "participants")
    flags = {member["site"]["uid"]: member["online"] for member in found}
    assert flags == {member.uid: member.uid in expected for member in team.participants} | {team.coordinator.uid: True}
    status = {member["site"]["uid"]: member["site"]["status"] for member in found}
    assert status[site.uid] == ("Connected" if online else "Disconnected")


async def test_a_coordinator_that_is_away_is_in_no_participants_list(realm: Realm) -> None:
    team = await idle_team(realm)
    await team.co.close()
    await team.pa.expect("presence", site=team.coordinator.uid, state="offline")
    assert described(await realm.session(team.participant), team.project)["online"] == []


async def test_presence_is_not_in_the_journal(realm: Realm) -> None:
    team = await idle_team(realm)
    before = await team.co.publish(team.project)
    await team.pa.close()
    await team.co.expect("presence", site=team.participant.uid, state="offline")
    after = await team.co.publish(team.project)
    assert after["offset"] == before["offset"] + 1
    history: list[dict[str, Any]] = listed(
        await team.co.call("history.read", project=team.project, after=0, limit=1000), "events"
    )
    assert "presence" not in {event["kind"] for event in history}
