"""Section 4, `call`, of docs/protocol.md: projects, participations and public keys; who hears of them."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from tests.conformance.realm import TASKS, Realm, Site, Team, listed, unique
from tests.conformance.shapes import SUBSCRIPTION, assert_participation, assert_project
from tests.conformance.wire import Frame, Wire, events, publication

ABSENT = 2**40
ALREADY = ("exists", "conflict")
"""What joining twice is answered with: the contract leaves it open."""


def key(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def newcomer(realm: Realm) -> tuple[Site, Wire]:
    """A site of the guest's in no project, with a session."""
    site = await realm.site(realm.guest)
    return site, await realm.session(site)


async def members(wire: Wire, project: int) -> dict[str, Frame]:
    found = listed(await wire.call("projects.participants", project=project), "participants")
    return {member["site"]["uid"]: member for member in found}


async def participations(wire: Wire) -> list[Frame]:
    return listed(await wire.call("projects.list"), "participations")


# projects.create


async def test_create_answers_with_the_project(realm: Realm) -> None:
    site, wire = await newcomer(realm)
    name = unique("project")
    made = await wire.call("projects.create", name=name, description="what for", tasks=TASKS)
    assert_project(made, name=name, description="what for", site=site.id, batch=0, tasks=TASKS)
    assert (made["agent_config"], made["agent_log"]) == ({}, [])
    assert isinstance(made["id"], int)


async def test_the_creator_is_the_coordinator(realm: Realm) -> None:
    site, wire = await newcomer(realm)
    made = await wire.call("projects.create", name=unique("project"), description="", tasks=TASKS)
    (participation,) = await participations(wire)
    assert_participation(participation, site, "coordinator")
    assert participation["project"] == made


async def test_create_subscribes_every_session_of_the_site(realm: Realm) -> None:
    site, wire = await newcomer(realm)
    other = await realm.session(site)
    made = await wire.call("projects.create", name=unique("project"), description="", tasks=TASKS)
    for session in (wire, other):
        subscribed = await session.expect("subscribed")
        assert set(subscribed) == SUBSCRIPTION
        assert isinstance(subscribed["epoch"], str)
        assert subscribed["epoch"]
        assert (subscribed["project"], subscribed["role"]) == (made["id"], "coordinator")
        assert (subscribed["recovered"], subscribed["online"]) == (True, [])


async def test_a_taken_name_exists_and_nothing_changes(realm: Realm) -> None:
    team = await realm.team()
    _, wire = await newcomer(realm)
    refusal = {"name": team.name, "description": "mine", "tasks": []}
    for session in (wire, team.co, team.pa):
        assert (await session.refused("projects.create", **refusal))["code"] == "exists"
    assert await participations(wire) == []
    (participation,) = await participations(team.co)
    assert participation["project"]["description"] == ""


async def test_two_creations_of_one_name_at_once_make_one_project(realm: Realm) -> None:
    wires = [(await newcomer(realm))[1] for _ in range(4)]
    frame = {
        "type": "call",
        "method": "projects.create",
        "params": {"name": unique("p"), "description": "", "tasks": []},
    }
    answers = await asyncio.gather(*(wire.ask(**frame) for wire in wires))
    assert sorted(answer.get("code", "ok") for answer in answers) == ["exists", "exists", "exists", "ok"]


async def test_a_name_may_have_100_characters(realm: Realm) -> None:
    _, wire = await newcomer(realm)
    name = unique("ü").ljust(100, "ü")
    assert (await wire.call("projects.create", name=name, description="", tasks=[]))["name"] == name


@pytest.mark.parametrize(
    ("parameter", "params"),
    [
        ("name", {}),
        ("name", {"name": None}),
        ("name", {"name": 7}),
        ("name", {"name": ""}),
        ("name", {"name": "x" * 101}),
        ("description", {"name": "p", "description": 7}),
        ("tasks", {"name": "p", "tasks": {}}),
        ("tasks", {"name": "p", "tasks": "LogisticRegression"}),
        ("tasks", {"name": "p", "tasks": ["LogisticRegression"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value)[:40],
)
async def test_create_with_wrong_parameters_is_invalid(realm: Realm, parameter: str, params: dict[str, Any]) -> None:
    _, wire = await newcomer(realm)
    error = await wire.refused("projects.create", **{"description": "", "tasks": [], **params})
    assert_invalid(error, parameter)
    assert await participations(wire) == []


def assert_invalid(error: Frame, parameter: str) -> None:
    """`invalid` with a reason at the parameter, or at a part of it (`tasks.0.seq`)."""
    assert error["code"] == "invalid"
    reasons = [reason for name, reason in error["details"].items() if name.split(".")[0].split("[")[0] == parameter]
    assert reasons, error
    assert all(isinstance(reason, str) and reason for reason in reasons)


async def test_with_several_wrong_parameters_no_right_one_is_blamed(realm: Realm) -> None:
    _, wire = await newcomer(realm)
    error = await wire.refused("projects.create", name=7, description="right", tasks=7)
    assert error["code"] == "invalid"
    assert error["details"]
    assert set(error["details"]) <= {"name", "tasks"}


# projects.join


async def test_who_has_joined_publishes_at_once(realm: Realm) -> None:
    """The frame after the call, sent before its answer, to a project to which nobody is connected."""
    coordinator, (_, wire) = await realm.site(), await newcomer(realm)
    body = {"name": unique("project"), "description": "of who is away", "tasks": [], "site": coordinator.id}
    made = await realm.rest("POST", "projects/", coordinator.account, json=body)
    assert made.status_code == 201, made.text
    found = await realm.rest("GET", "projects/lookup/", coordinator.account, params={"name": body["name"]})
    project = found.json()["id"]
    await wire.send(type="call", ref="join", method="projects.join", params={"name": body["name"]})
    await wire.send(**publication(project, {"ref": "publish"}))
    assert (await wire.answer("join"))["type"] == "ok"
    assert (await wire.answer("publish"))["type"] == "ok"


async def test_join_by_name_answers_with_the_participation(realm: Realm) -> None:
    team = await realm.team()
    site, wire = await newcomer(realm)
    participation = await wire.call("projects.join", name=team.name, notes="with 3 machines")
    assert_participation(participation, site, "participant")
    assert participation["notes"] == "with 3 machines"
    assert participation["project"]["id"] == team.project
    assert await participations(wire) == [participation]


async def test_notes_may_be_left_out(realm: Realm) -> None:
    team = await realm.team()
    _, wire = await newcomer(realm)
    assert (await wire.call("projects.join", name=team.name))["notes"] == ""


async def test_join_subscribes_every_session_of_the_site_from_that_moment(realm: Realm) -> None:
    team = await realm.team()
    site, wire = await newcomer(realm)
    other = await realm.session(site)
    await wire.call("projects.join", name=team.name)
    later = await team.co.publish(team.project, data="later")
    for session in (wire, other):
        subscribed = await session.expect("subscribed")
        assert set(subscribed) == SUBSCRIPTION
        assert (subscribed["project"], subscribed["role"]) == (team.project, "participant")
        assert subscribed["recovered"] is True
        assert subscribed["from"] > team.head - 1
        assert subscribed["online"] == [team.coordinator.uid]
        received = events(await session.until("event", offset=later["offset"]))
        assert [event["data"] for event in received if event["kind"] == "message"] == ["later"]


async def test_who_joins_later_never_gets_what_was_published_before(realm: Realm) -> None:
    team = await realm.team()
    before = await team.co.publish(team.project, data="before")
    site, wire = await newcomer(realm)
    await wire.call("projects.join", name=team.name)
    history = listed(await wire.call("history.read", project=team.project, after=0, limit=1000), "events")
    assert before["offset"] not in [event["offset"] for event in history]
    later = await team.co.publish(team.project, data="later")
    replay = await realm.resumed(site, team.project, offset=0)
    assert replay.welcome["projects"][str(team.project)]["from"] >= before["offset"]
    received = events(await replay.until("event", offset=later["offset"]))
    assert "before" not in [event["data"] for event in received]


async def test_a_join_is_an_event_for_the_coordinator_and_for_no_other_participant(realm: Realm) -> None:
    team = await realm.team(participants=2)
    site, wire = await newcomer(realm)
    participation = await wire.call("projects.join", name=team.name)
    (event,) = events(await team.shown(team.co), "participant")
    expected = {"site": site.uid, "participant": participation["id"], "role": "participant", "change": "joined"}
    assert (event["data"], event["from"]) == (expected, None)
    assert event["offset"] == team.head + 1
    for pa in team.pas:
        assert events(await team.shown(pa)) == []


async def test_a_foreign_project_is_not_joined_by_its_id(realm: Realm) -> None:
    team = await realm.team()
    _, wire = await newcomer(realm)
    foreign = await wire.refused("projects.join", project=team.project)
    absent = await wire.refused("projects.join", project=ABSENT)
    assert foreign["code"] == absent["code"] == "unknown_project"
    assert (foreign["message"], foreign["details"]) == (absent["message"], absent["details"])
    assert await participations(wire) == []
    assert events(await team.shown(team.co)) == []


async def test_an_unknown_name_is_an_unknown_project(realm: Realm) -> None:
    _, wire = await newcomer(realm)
    assert (await wire.refused("projects.join", name=unique("nothing")))["code"] == "unknown_project"


@pytest.mark.parametrize("by", ["name", "project"])
@pytest.mark.parametrize("role", ["coordinator", "participant"])
async def test_joining_twice_is_refused_and_changes_nothing(realm: Realm, role: str, by: str) -> None:
    team = await realm.team()
    wire, other = (team.co, team.pa) if role == "coordinator" else (team.pa, team.co)
    before = await participations(wire)
    target: dict[str, Any] = {"name": team.name} if by == "name" else {"project": team.project}
    assert (await wire.refused("projects.join", **target, notes="again"))["code"] in ALREADY
    assert await participations(wire) == before
    assert before[0]["role"] == role
    for session in (wire, other):
        assert events(await team.shown(session)) == []


async def test_joining_twice_at_once_makes_one_participation(realm: Realm) -> None:
    team = await realm.team()
    site, wire = await newcomer(realm)
    sessions = [wire, await realm.session(site), await realm.session(site)]
    frame = {"type": "call", "method": "projects.join", "params": {"name": team.name}}
    answers = await asyncio.gather(*(session.ask(**frame) for session in sessions))
    assert len([answer for answer in answers if answer["type"] == "ok"]) == 1
    assert all(answer["code"] in ALREADY for answer in answers if answer["type"] == "error")
    assert len(events(await team.shown(team.co), "participant")) == 1


@pytest.mark.parametrize(
    ("parameter", "params"),
    [("name", {}), ("name", {"name": 7}), ("project", {"project": "7"}), ("notes", {"name": "p", "notes": 7})],
    ids=repr,
)
async def test_join_with_wrong_parameters_is_invalid(realm: Realm, parameter: str, params: dict[str, Any]) -> None:
    _, wire = await newcomer(realm)
    assert_invalid(await wire.refused("projects.join", **params), parameter)


async def test_who_joins_the_moment_a_project_is_made_is_subscribed(realm: Realm) -> None:
    """Whether the relay has the project at hand already, or is just about to."""
    _, co = await newcomer(realm)
    others = [(await newcomer(realm))[1] for _ in range(4)]

    async def join(wire: Wire, project: Frame) -> None:
        await wire.call("projects.join", name=project["name"])
        await wire.expect("subscribed", project=project["id"])

    for _ in range(10):
        project = await co.call("projects.create", name=unique("project"), description="", tasks=[])
        await asyncio.gather(*(join(wire, project) for wire in others))


# projects.leave


async def test_leave_unsubscribes_every_session_of_the_site(realm: Realm) -> None:
    team = await realm.team()
    other = await realm.session(team.participant)
    assert await team.pa.call("projects.leave", project=team.project) == {}
    for session in (team.pa, other):
        unsubscribed = await session.expect("unsubscribed")
        assert unsubscribed == {"type": "unsubscribed", "project": team.project, "reason": "left"}
        assert await participations(session) == []


async def test_a_leave_is_an_event_for_the_coordinator_and_for_no_other_participant(realm: Realm) -> None:
    team = await realm.team(participants=2)
    leaver = (await members(team.co, team.project))[team.participants[1].uid]
    await team.pas[1].call("projects.leave", project=team.project)
    (event,) = events(await team.shown(team.co), "participant")
    expected = {"site": team.participants[1].uid, "participant": leaver["id"], "role": "participant", "change": "left"}
    assert (event["data"], event["from"]) == (expected, None)
    assert events(await team.shown(team.pa)) == []


async def test_who_has_left_gets_nothing_more_and_knows_nothing_more(realm: Realm) -> None:
    team = await realm.team(participants=2)
    leaver, site = team.pas[1], team.participants[1]
    await leaver.call("projects.leave", project=team.project)
    await leaver.expect("unsubscribed")
    later = await team.co.publish(team.project, data="later")
    await team.pa.expect("event", offset=later["offset"])
    await leaver.is_alive()
    assert [frame for frame in leaver.unclaimed if frame["type"] == "event" and frame["data"] == "later"] == []
    for method, params in (("history.read", {"after": 0, "limit": 1}), ("projects.leave", {}), ("runs.list", {})):
        assert (await leaver.refused(method, project=team.project, **params))["code"] == "unknown_project"
    assert (await leaver.publish_refused(team.project))["code"] == "unknown_project"
    assert (await leaver.refused("projects.join", project=team.project))["code"] == "unknown_project"
    assert (await team.co.publish_refused(team.project, to=[site.uid]))["code"] == "invalid"
    assert (await realm.session(site)).welcome["projects"] == {}


async def test_who_has_left_may_join_again_as_one_who_joins_later(realm: Realm) -> None:
    team = await realm.team()
    first = (await participations(team.pa))[0]
    await team.pa.call("projects.leave", project=team.project)
    await team.pa.expect("unsubscribed")
    missed = await team.co.publish(team.project, data="missed")
    again = await team.pa.call("projects.join", name=team.name)
    assert again["id"] != first["id"]
    subscribed = await team.pa.expect("subscribed")
    assert subscribed["from"] >= missed["offset"]
    later = await team.co.publish(team.project, data="later")
    received = events(await team.pa.until("event", offset=later["offset"]), "message")
    assert [event["data"] for event in received] == ["later"]


async def test_leaving_an_absent_and_a_foreign_project_are_refused_alike(realm: Realm) -> None:
    team = await realm.team()
    _, wire = await newcomer(realm)
    foreign, absent = [await wire.refused("projects.leave", project=project) for project in (team.project, ABSENT)]
    assert foreign["code"] == "unknown_project"
    assert (foreign["message"], foreign["details"]) == (absent["message"], absent["details"])


async def test_the_coordinator_cannot_leave_its_project(realm: Realm) -> None:
    """The contract is silent; docs/protocol.md decides it: a project without a coordinator could not be used."""
    team = await realm.team()
    assert (await team.co.refused("projects.leave", project=team.project))["code"] == "conflict"
    assert [item["role"] for item in await participations(team.co)] == ["coordinator"]
    assert events(await team.shown(team.pa)) == []


# projects.list, projects.participants


async def test_list_names_every_participation_of_the_site_and_no_other(realm: Realm) -> None:
    one, other = await realm.team(), await realm.team()
    await one.co.call("projects.join", name=other.name)
    found = await participations(one.co)
    assert {item["project"]["id"]: item["role"] for item in found} == {
        one.project: "coordinator",
        other.project: "participant",
    }
    assert {item["site"]["uid"] for item in found} == {one.coordinator.uid}


async def test_a_coordinator_sees_all_participants_with_online(realm: Realm) -> None:
    team = await realm.team(participants=2)
    absent = await realm.site(realm.guest)
    session = await realm.session(absent)
    await session.call("projects.join", name=team.name)
    await realm.unconnected(absent, [session], team.co)
    found = await members(team.co, team.project)
    assert set(found) == {site.uid for site in (*team.sites, absent)}
    for site in (*team.sites, absent):
        role = "coordinator" if site == team.coordinator else "participant"
        assert_participation(found[site.uid], site, role, "online")
        assert found[site.uid]["online"] is (site != absent)
        assert found[site.uid]["site"]["status"] == ("Disconnected" if site == absent else "Connected")


async def test_a_participant_sees_itself_and_the_coordinator(realm: Realm) -> None:
    team = await realm.team(participants=2)
    found = await members(team.pa, team.project)
    assert set(found) == {team.coordinator.uid, team.participant.uid}
    assert_participation(found[team.coordinator.uid], team.coordinator, "coordinator", "online")
    assert found[team.coordinator.uid]["online"] is True


# Changes over the other door: what the sites are told


async def test_a_removed_participant_is_unsubscribed_and_the_coordinator_told(realm: Realm) -> None:
    team = await realm.team(participants=2)
    removed = (await members(team.co, team.project))[team.participant.uid]
    response = await realm.rest("DELETE", f"project-participants/{removed['id']}/", realm.owner)
    assert response.status_code == 204, response.text
    unsubscribed = await team.pa.expect("unsubscribed")
    assert unsubscribed == {"type": "unsubscribed", "project": team.project, "reason": "removed"}
    left = {"site": team.participant.uid, "participant": removed["id"], "role": "participant", "change": "left"}
    event = await team.co.expect("event", kind="participant", data=left)
    assert event["from"] is None
    assert (await team.pa.refused("runs.list", project=team.project))["code"] == "unknown_project"


async def test_a_changed_project_is_an_event_for_all(realm: Realm) -> None:
    team = await realm.team()
    response = await realm.rest("PATCH", f"projects/{team.project}/", realm.owner, json={"description": "changed"})
    assert response.status_code == 200, response.text
    for wire in (team.co, team.pa):
        event = await wire.expect("event", kind="project")
        assert (event["data"], event["from"], event["run"]) == ({"change": "changed"}, None, None)
        assert (await participations(wire))[0]["project"]["description"] == "changed"


async def test_a_deleted_project_is_gone_for_all_and_the_sessions_live(realm: Realm) -> None:
    team = await realm.team()
    response = await realm.rest("DELETE", f"projects/{team.project}/", realm.owner)
    assert response.status_code == 204, response.text
    for wire in (team.co, team.pa):
        frames = await wire.until("unsubscribed", project=team.project)
        assert frames[-1] == {"type": "unsubscribed", "project": team.project, "reason": "deleted"}
        (event,) = events(frames, "project")
        assert event["data"] == {"change": "deleted"}
        assert await participations(wire) == []
        assert (await wire.refused("projects.join", name=team.name))["code"] == "unknown_project"
        assert (await wire.publish_refused(team.project))["code"] == "unknown_project"


# keys.put, keys.get


async def keys(wire: Wire, project: int) -> dict[str, Any]:
    """Of those who have any."""
    found = await wire.call("keys.get", project=project)
    return {uid: of_site for uid, of_site in found.items() if of_site}


async def put_keys(team: Team) -> dict[str, dict[str, str]]:
    put = {}
    for wire, site in zip((team.co, *team.pas), team.sites, strict=True):
        put[site.uid] = {"hpke": key(site.uid), "sign": key(site.name)}
        assert await wire.call("keys.put", keys=put[site.uid]) == {}
    return put


async def test_a_coordinator_gets_the_keys_of_all_members(realm: Realm) -> None:
    team = await realm.team(participants=2)
    assert await keys(team.co, team.project) == {}
    put = await put_keys(team)
    assert await keys(team.co, team.project) == put


async def test_a_participant_gets_the_coordinators_keys_and_its_own(realm: Realm) -> None:
    team = await realm.team(participants=2)
    put = await put_keys(team)
    visible = {team.coordinator.uid, team.participant.uid}
    assert await keys(team.pa, team.project) == {uid: put[uid] for uid in visible}
    assert set(await team.pa.call("keys.get", project=team.project)) <= visible


async def test_keys_are_the_sites_in_all_its_projects(realm: Realm) -> None:
    one, other = await realm.team(), await realm.team()
    await one.co.call("projects.join", name=other.name)
    await one.co.call("keys.put", keys={"hpke": key("k")})
    assert (await keys(one.pa, one.project))[one.coordinator.uid] == {"hpke": key("k")}
    assert (await keys(other.co, other.project))[one.coordinator.uid] == {"hpke": key("k")}


async def test_a_key_put_again_is_replaced(realm: Realm) -> None:
    team = await realm.team()
    await team.co.call("keys.put", keys={"hpke": key("old")})
    await team.co.call("keys.put", keys={"hpke": key("new")})
    assert (await keys(team.pa, team.project))[team.coordinator.uid]["hpke"] == key("new")


@pytest.mark.parametrize(
    "params",
    [{}, {"keys": None}, {"keys": []}, {"keys": "k"}, {"keys": {"hpke": 7}}, {"keys": {"hpke": "not base64!"}}],
    ids=repr,
)
async def test_keys_that_are_none_are_invalid_and_not_stored(realm: Realm, params: dict[str, Any]) -> None:
    team = await realm.team()
    assert_invalid(await team.co.refused("keys.put", **params), "keys")
    assert await keys(team.pa, team.project) == {}


@pytest.mark.parametrize("method", ["projects.leave", "projects.participants", "keys.get"])
@pytest.mark.parametrize(
    "params", [{}, {"project": "7"}, {"project": None}, {"project": 1.5}, {"project": True}], ids=repr
)
async def test_a_project_that_is_no_id_is_invalid(realm: Realm, method: str, params: dict[str, Any]) -> None:
    _, wire = await newcomer(realm)
    assert_invalid(await wire.refused(method, **params), "project")
