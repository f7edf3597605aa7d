"""Starts under a policy: whom they need, and starts that wait."""

from __future__ import annotations

import pytest

from tests.conformance.realm import Realm
from tests.conformance.wire import events
from tests.rounds.crew import back, crew, move, offline, start, told


async def test_a_queued_start_begins_when_the_last_site_is_there(realm: Realm) -> None:
    team = await crew(realm, participants=2)
    late, other = team.participants
    await offline(team, late)
    assert await start(team, queue_s=60, deadline_s=3600) == {"batch": 1, "runs": [], "queued": True}
    assert await told(team.pas[1], team, "queued") == {
        "batch": 1,
        "status": "Standby",
        "status_code": 2,
        "reason": "queued",
    }
    assert await team.co.call("runs.list", project=team.project) == []
    refused = await team.co.refused("runs.start", project=team.project)
    assert (refused["code"], refused["details"]) == ("conflict", {"batch": 1})
    wire = await back(realm, team, late)
    for each in (wire, team.co, team.pas[1]):
        assert (await told(each, team, "started"))["status"] == "Standby"
    runs = await team.co.call("runs.list", project=team.project, batch=1)
    assert {run["site_uid"]: run["status"] for run in runs} == {site.uid: "Standby" for site in team.sites}
    assert runs[0]["tasks"][0]["config"]["current_round"] == 1
    team.runs = {run["site_uid"]: run for run in runs}
    await move(team, other, "Preparing")


async def test_a_start_that_finds_all_there_does_not_wait(realm: Realm) -> None:
    team = await crew(realm)
    result = await start(team, queue_s=60)
    assert (result["queued"], len(result["runs"])) == (False, 2)
    assert (await told(team.pa, team, "started"))["status"] == "Standby"


async def test_a_queued_start_is_given_up_in_its_time(realm: Realm) -> None:
    team = await crew(realm)
    await offline(team, team.participant)
    await start(team, queue_s=0.2)
    assert (await told(team.co, team, "queue_expired"))["status"] == "Failed"
    await back(realm, team, team.participant)
    assert [event["data"]["reason"] for event in events(await team.shown(team.co), "batch")] == ["queued"]
    assert (await start(team))["batch"] == 2


async def test_a_queued_start_can_be_stopped(realm: Realm) -> None:
    team = await crew(realm)
    await offline(team, team.participant)
    await start(team, queue_s=60)
    conflict = await team.co.refused("runs.restart", project=team.project, batch=1)
    assert conflict["code"] == "conflict"
    assert await team.co.call("runs.stop", project=team.project, batch=1) == []
    assert (await told(team.co, team, "stopped"))["status"] == "Failed"
    assert (await team.co.refused("runs.stop", project=team.project, batch=1))["code"] == "unknown_run"
    await back(realm, team, team.participant)
    assert (await start(team))["batch"] == 2
    assert (await team.co.call("runs.list", project=team.project, batch=1)) == []


async def test_a_queued_start_does_not_wait_for_who_leaves(realm: Realm) -> None:
    team = await crew(realm, participants=2)
    gone, _ = team.participants
    await offline(team, gone)
    await start(team, queue_s=60)
    (participation,) = (
        part
        for part in await team.co.call("projects.participants", project=team.project)
        if part["site"]["uid"] == gone.uid
    )
    response = await realm.as_site("DELETE", f"project-participants/{participation['id']}/", team.coordinator)
    assert response.status_code == 204, response.text
    await told(team.co, team, "started")
    assert len(await team.co.call("runs.list", project=team.project, batch=1)) == 2


async def test_mandatory_sites_are_waited_for_and_others_are_not(realm: Realm) -> None:
    team = await crew(realm, participants=2)
    needed, other = team.participants
    await offline(team, other)
    result = await start(team, mandatory_sites=[needed.uid.upper()])
    assert {run["site_uid"] for run in result["runs"]} == {team.coordinator.uid, needed.uid}
    await team.force("Success")
    refused = await team.co.refused(
        "runs.start", project=team.project, policy={"mandatory_sites": [other.uid], "min_sites": 0}
    )
    assert (refused["code"], refused["details"]) == ("not_all_connected", {"offline": [other.uid]})


async def test_a_mandatory_site_is_a_member(realm: Realm) -> None:
    team = await crew(realm)
    stranger = await realm.site()
    refused = await team.co.refused("runs.start", project=team.project, policy={"mandatory_sites": [stranger.uid]})
    assert refused["code"] == "invalid"
    assert stranger.uid in refused["details"]["policy"]


@pytest.mark.parametrize(
    "policy",
    [
        {"mandatory_sites": "all"},
        {"mandatory_sites": [7]},
        {"queue_s": 0},
        {"queue_s": "long"},
        {"round_deadline_s": -1},
        {"round_deadline_s": 1e9},
        {"stragglers": "shoot"},
        {"late_join": "yes"},
        {"coordinator_grace_s": 0},
    ],
    ids=repr,
)
async def test_a_policy_that_cannot_be_is_invalid_and_nothing_is_begun(realm: Realm, policy: object) -> None:
    team = await crew(realm, participants=0)
    refused = await team.co.refused("runs.start", project=team.project, policy=policy)
    assert (refused["code"], list(refused["details"])) == ("invalid", ["policy"])
    assert (await start(team))["batch"] == 1
