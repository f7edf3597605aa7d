"""Who gets into a project and who is put out, by docs/protocol.md: join policies, invitations, requests, removal."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from typing import Any

import pytest

from tests.conformance.realm import TASKS, Realm, Site, Team, unique
from tests.conformance.shapes import PROJECT, TIMESTAMP, assert_participation
from tests.conformance.wire import Frame, Wire, events

STREAM = "application/offset+octet-stream"
INVITATION = {"id", "label", "state", "used_by", "created_at", "expires_at"}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def newcomer(realm: Realm) -> tuple[Site, Wire]:
    site = await realm.site(realm.guest)
    return site, await realm.session(site)


async def closed_team(realm: Realm, policy: str) -> Team:
    team = await realm.team()
    changed = await team.co.call("projects.update", project=team.project, join_policy=policy)
    assert changed["join_policy"] == policy
    for wire in (team.co, team.pa):
        await wire.expect("event", kind="project", data={"change": "changed"})
    return team


def told(refusal: Frame) -> tuple[Any, ...]:
    return refusal["code"], refusal["message"], refusal["details"]


async def is_outside(wire: Wire, team: Team) -> bool:
    for method in ("projects.participants", "runs.list", "history.read", "keys.get", "projects.get"):
        assert (await wire.refused(method, project=team.project))["code"] == "unknown_project"
    assert await wire.call("projects.list") == []
    return not [frame for frame in wire.unclaimed if frame["type"] in ("event", "subscribed", "presence")]


# projects.get, projects.update


async def test_a_project_is_open_unless_it_is_made_otherwise(realm: Realm) -> None:
    team = await realm.team()
    for wire in (team.co, team.pa):
        project = await wire.call("projects.get", project=team.project)
        assert set(project) == PROJECT | {"join_policy"}
        assert (project["name"], project["join_policy"]) == (team.name, "open")
    made = await team.co.call("projects.create", name=unique("p"), tasks=[], join_policy="invitation")
    assert (await team.co.call("projects.get", project=made["id"]))["join_policy"] == "invitation"
    _, wire = await newcomer(realm)
    assert (await wire.refused("projects.join", name=made["name"]))["code"] == "unknown_project"


async def test_update_changes_what_is_given_and_nothing_else(realm: Realm) -> None:
    team = await realm.team()
    before = await team.co.call("projects.get", project=team.project)
    name = unique("renamed")
    changed = await team.co.call("projects.update", project=team.project, name=name, tasks=TASKS[:1])
    assert changed == before | {"name": name, "tasks": TASKS[:1], "updated_at": changed["updated_at"]}
    assert await team.pa.call("projects.get", project=team.project) == changed
    other = await realm.team()
    refused = await team.co.refused("projects.update", project=team.project, name=other.name)
    assert refused["code"] == "exists"
    wrong: list[dict[str, Any]] = [{}, {"join_policy": "secret"}, {"name": ""}, {"tasks": {}}]
    for params in wrong:
        assert (await team.co.refused("projects.update", project=team.project, **params))["code"] == "invalid"
    assert (await team.pa.refused("projects.update", project=team.project, name="x"))["code"] == "forbidden"
    assert (await other.co.refused("projects.update", project=team.project, name="x"))["code"] == "unknown_project"
    assert await team.pa.call("projects.get", project=team.project) == changed


# A join by name that does not lead in


@pytest.mark.parametrize("policy", ["invitation", "approval"])
async def test_a_closed_project_and_none_are_told_alike(realm: Realm, policy: str) -> None:
    team = await closed_team(realm, policy)
    _, wire = await newcomer(realm)
    absent = await wire.refused("projects.join", name=unique("nothing"))
    assert absent["code"] == "unknown_project"
    for _ in range(2):
        assert told(await wire.refused("projects.join", name=team.name, notes="let me in")) == told(absent)
    assert await is_outside(wire, team)


# invitations.*


async def test_a_code_lets_one_site_in_once_whatever_the_policy(realm: Realm) -> None:
    for policy in ("open", "invitation", "approval"):
        team = await closed_team(realm, policy)
        made = await team.co.call("invitations.create", project=team.project, label="for the north")
        assert set(made) == INVITATION | {"code"}
        assert (made["label"], made["state"], made["used_by"]) == ("for the north", "open", None)
        assert TIMESTAMP.fullmatch(made["expires_at"]) and made["expires_at"] > made["created_at"]
        site, wire = await newcomer(realm)
        part = await wire.call("projects.join", code=made["code"], notes="here")
        assert_participation(part, site, "participant")
        assert (part["project"]["id"], part["notes"]) == (team.project, "here")
        assert (await wire.expect("subscribed"))["project"] == team.project
        await team.co.expect("event", kind="participant", data={"site": site.uid, "change": "joined"})
        _, other = await newcomer(realm)
        assert (await other.refused("projects.join", code=made["code"]))["code"] == "unknown_project"
        (listed,) = await team.co.call("invitations.list", project=team.project)
        assert listed == {name: made[name] for name in INVITATION} | {"state": "used", "used_by": site.uid}


async def test_a_code_that_is_not_good_is_told_like_one_that_never_was(realm: Realm) -> None:
    team = await closed_team(realm, "invitation")
    _, wire = await newcomer(realm)
    never = told(await wire.refused("projects.join", code="sfi_" + "x" * 32))
    assert never[0] == "unknown_project"
    revoked, expired = [
        await team.co.call("invitations.create", project=team.project, expires_in=expires_in)
        for expires_in in (60, 0.001)
    ]
    for _ in range(2):
        assert await team.co.call("invitations.revoke", project=team.project, invitation=revoked["id"]) == {}
    for made in (revoked, expired):
        assert told(await wire.refused("projects.join", code=made["code"])) == never
    states = [one["state"] for one in await team.co.call("invitations.list", project=team.project)]
    assert states == ["revoked", "expired"]
    assert await is_outside(wire, team)


async def test_a_member_does_not_use_a_code_up(realm: Realm) -> None:
    team = await closed_team(realm, "invitation")
    made = await team.co.call("invitations.create", project=team.project)
    for wire in (team.co, team.pa):
        assert (await wire.refused("projects.join", code=made["code"]))["code"] == "exists"
    assert [one["state"] for one in await team.co.call("invitations.list", project=team.project)] == ["open"]


async def test_a_code_lets_in_one_of_those_who_come_at_once(realm: Realm) -> None:
    team = await closed_team(realm, "invitation")
    code = (await team.co.call("invitations.create", project=team.project))["code"]
    wires = [(await newcomer(realm))[1] for _ in range(3)]
    frame = {"type": "call", "method": "projects.join", "params": {"code": code}}
    answers = await asyncio.gather(*(wire.ask(**frame) for wire in wires))
    assert sorted(answer.get("code", "ok") for answer in answers) == ["ok", "unknown_project", "unknown_project"]


async def test_what_is_no_invitation_of_the_project_is_not_revoked(realm: Realm) -> None:
    team, other = await realm.team(), await realm.team()
    theirs = await other.co.call("invitations.create", project=other.project)
    used = await team.co.call("invitations.create", project=team.project)
    await (await newcomer(realm))[1].call("projects.join", code=used["code"])
    for invitation in (theirs["id"], used["id"], 2**40):
        refused = await team.co.refused("invitations.revoke", project=team.project, invitation=invitation)
        assert (refused["code"], set(refused["details"])) == ("invalid", {"invitation"})
    assert [one["state"] for one in await other.co.call("invitations.list", project=other.project)] == ["open"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("projects.join", {"name": "n", "code": "c"}),
        ("projects.join", {"code": ""}),
        ("projects.join", {"code": "x" * 101}),
        ("invitations.create", {"expires_in": 0}),
        ("invitations.create", {"expires_in": 400 * 86400}),
        ("invitations.create", {"label": "x" * 101}),
        ("invitations.revoke", {}),
        ("members.remove", {}),
        ("members.remove", {"site": 7}),
        ("requests.approve", {"site": "x" * 37}),
        ("projects.transfer", {}),
    ],
    ids=repr,
)
async def test_parameters_that_are_wrong_are_invalid(realm: Realm, method: str, params: dict[str, Any]) -> None:
    team = await realm.team()
    given = params if method == "projects.join" else {"project": team.project} | params
    assert (await team.co.refused(method, **given))["code"] == "invalid"


# requests.*


async def test_who_asks_is_seen_by_the_coordinator_and_let_in_by_it(realm: Realm) -> None:
    team = await closed_team(realm, "approval")
    site, wire = await newcomer(realm)
    for notes in ("with 3 machines", "with 4 machines"):
        await wire.refused("projects.join", name=team.name, notes=notes)
    event = await team.co.expect("event", kind="request")
    said = {"site": site.uid, "name": site.name, "change": "asked", "notes": "with 3 machines"}
    assert (event["data"], event["from"]) == (said, None)
    (waiting,) = await team.co.call("requests.list", project=team.project)
    assert set(waiting) == {"site", "name", "notes", "at", "expires_at"}
    assert (waiting["site"], waiting["name"], waiting["notes"]) == (site.uid, site.name, "with 4 machines")
    assert await is_outside(wire, team)
    part = await team.co.call("requests.approve", project=team.project, site=site.uid)
    assert_participation(part, site, "participant")
    assert part["notes"] == "with 4 machines"
    assert (await wire.expect("subscribed"))["project"] == team.project
    assert await team.co.call("requests.list", project=team.project) == []
    assert (await team.co.refused("requests.approve", project=team.project, site=site.uid))["code"] == "unknown_site"
    assert events(await team.shown(team.co), "request") == [], "it is told once"
    assert events(await team.shown(team.pa)) == []


async def test_who_is_rejected_is_told_nothing_and_asks_in_vain(realm: Realm) -> None:
    team = await closed_team(realm, "approval")
    site, wire = await newcomer(realm)
    absent = told(await wire.refused("projects.join", name=unique("nothing")))
    await wire.refused("projects.join", name=team.name)
    assert await team.co.call("requests.reject", project=team.project, site=site.uid) == {}
    changes = [event["data"]["change"] for event in events(await team.shown(team.co), "request")]
    assert changes == ["asked", "rejected"]
    assert told(await wire.refused("projects.join", name=team.name)) == absent
    assert events(await team.shown(team.co)) == []
    assert await team.co.call("requests.list", project=team.project) == []
    for method in ("requests.approve", "requests.reject"):
        assert (await team.co.refused(method, project=team.project, site=site.uid))["code"] == "unknown_site"
    assert await is_outside(wire, team)
    code = (await team.co.call("invitations.create", project=team.project))["code"]
    assert (await wire.call("projects.join", code=code))["role"] == "participant"


async def test_nobody_asks_where_an_invitation_is_wanted(realm: Realm) -> None:
    team = await closed_team(realm, "invitation")
    site, wire = await newcomer(realm)
    await wire.refused("projects.join", name=team.name)
    assert await team.co.call("requests.list", project=team.project) == []
    assert (await team.co.refused("requests.approve", project=team.project, site=site.uid))["code"] == "unknown_site"
    assert events(await team.shown(team.co)) == []


# members.*


async def test_who_is_removed_is_told_at_once_and_does_not_come_back_by_itself(realm: Realm) -> None:
    team = await realm.team(participants=2)
    other = await realm.session(team.participant)
    await team.start()
    uid = team.participant.uid
    assert await team.co.call("members.remove", project=team.project, site=uid) == {}
    for wire in (team.pa, other):
        unsubscribed = (await wire.until("unsubscribed"))[-1]
        assert unsubscribed == {"type": "unsubscribed", "project": team.project, "reason": "removed"}
    await team.co.expect("event", kind="participant", data={"site": uid, "change": "left", "reason": "removed"})
    assert events(await team.shown(team.pas[1]), "participant") == []
    assert uid not in await team.statuses(), "its run went with it"
    assert await is_outside(team.pa, team)
    assert (await team.co.publish_refused(team.project, to=[uid]))["code"] == "invalid"
    absent = told(await team.pa.refused("projects.join", name=unique("nothing")))
    assert told(await team.pa.refused("projects.join", name=team.name)) == absent
    (barred,) = await team.co.call("members.barred", project=team.project)
    assert (barred["site"], barred["name"]) == (uid, team.participant.name)
    assert TIMESTAMP.fullmatch(barred["since"])
    assert await team.co.call("members.unbar", project=team.project, site=uid) == {}
    assert await team.co.call("members.barred", project=team.project) == []
    assert (await team.co.refused("members.unbar", project=team.project, site=uid))["code"] == "unknown_site"
    assert (await team.pa.call("projects.join", name=team.name))["role"] == "participant"


@pytest.mark.parametrize("by", ["left", "removed", "deleted"])
async def test_an_event_stream_says_why_it_ends(realm: Realm, by: str) -> None:
    team = await realm.team()
    request = realm.http.build_request(
        "GET",
        f"/projects/{team.project}/events/",
        headers=team.participant.headers | {"Accept": "text/event-stream"},
    )
    response = await realm.http.send(request, stream=True)
    lines = response.aiter_lines()
    assert await anext(lines) == ": welcome"
    match by:
        case "left":
            await team.pa.call("projects.leave", project=team.project)
        case "removed":
            await team.co.call("members.remove", project=team.project, site=team.participant.uid)
        case _:
            assert (await realm.rest("DELETE", f"projects/{team.project}/", realm.owner)).status_code == 204
    async with asyncio.timeout(20):
        said = [line.removeprefix("data: ") async for line in lines if line.startswith("data: ")]
    assert json.loads(said[-1]) == {"type": "unsubscribed", "project": team.project, "reason": by}


async def test_a_code_and_an_approval_let_in_who_was_removed(realm: Realm) -> None:
    team = await realm.team()
    uid = team.participant.uid
    await team.co.call("members.remove", project=team.project, site=uid)
    code = (await team.co.call("invitations.create", project=team.project))["code"]
    await team.pa.call("projects.join", code=code)
    assert await team.co.call("members.barred", project=team.project) == []
    await team.co.call("projects.update", project=team.project, join_policy="approval")
    await team.co.call("members.remove", project=team.project, site=uid)
    await team.pa.refused("projects.join", name=team.name)
    await team.co.call("requests.approve", project=team.project, site=uid)
    assert await team.co.call("members.barred", project=team.project) == []
    assert [part["role"] for part in await team.pa.call("projects.list")] == ["participant"]


async def test_who_leaves_by_itself_is_not_barred(realm: Realm) -> None:
    team = await realm.team()
    await team.pa.call("projects.leave", project=team.project)
    assert await team.co.call("members.barred", project=team.project) == []
    assert (await team.pa.call("projects.join", name=team.name))["role"] == "participant"


async def test_who_is_removed_loses_its_blobs(realm: Realm) -> None:
    team = await realm.team()
    content = b"weights for those who take part"
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content)), "Content-Type": STREAM}
    metadata = {"Upload-Metadata": "project " + b64(str(team.project))}
    made = await realm.as_site("POST", "blobs/", team.coordinator, headers=headers | metadata, content=content)
    assert made.status_code == 201, made.text
    blob = made.headers["location"].rpartition("/")[2]
    await team.co.publish(team.project, data={"blob": {"id": blob}})
    assert (await realm.as_site("GET", f"blobs/{blob}", team.participant)).content == content
    await team.co.call("members.remove", project=team.project, site=team.participant.uid)
    refused = await realm.as_site("GET", f"blobs/{blob}", team.participant)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_blob")


async def test_neither_the_coordinator_nor_a_stranger_is_removed(realm: Realm) -> None:
    team = await realm.team()
    refused = await team.co.refused("members.remove", project=team.project, site=team.coordinator.uid)
    assert refused["code"] == "conflict"
    for uid in ((await newcomer(realm))[0].uid, str(uuid.uuid4())):
        refused = await team.co.refused("members.remove", project=team.project, site=uid)
        assert (refused["code"], set(refused["details"])) == ("invalid", {"site"})
    assert events(await team.shown(team.pa)) == []


# projects.transfer


async def test_the_coordination_is_handed_on_and_all_are_told(realm: Realm) -> None:
    team = await realm.team(participants=2)
    former, heir = team.coordinator, team.participant
    assert await team.co.call("projects.transfer", project=team.project, site=heir.uid) == {}
    said = {"site": heir.uid, "role": "coordinator", "change": "transferred", "former": former.uid}
    for wire in (team.co, *team.pas):
        await wire.expect("event", kind="participant", data=said)
    for wire, role in ((team.pa, "coordinator"), (team.co, "participant"), (team.pas[1], "participant")):
        subscribed = await wire.expect("subscribed")
        assert (subscribed["project"], subscribed["role"], subscribed["recovered"]) == (team.project, role, True)
        others = {former.uid, team.participants[1].uid} if wire is team.pa else {heir.uid}
        assert set(subscribed["online"]) == others
        assert (await wire.call("projects.list"))[0]["role"] == role
    assert (await team.pa.call("projects.get", project=team.project))["site"] == heir.id
    command = await team.pa.publish(team.project, kind="command", data="train")
    for wire in (team.co, team.pas[1]):
        assert (await wire.until("event", offset=command["offset"]))[-1]["from"] == heir.uid
    update = await team.co.publish(team.project, kind="update", data="weights")
    await team.pa.expect("event", offset=update["offset"])
    assert (await team.co.publish_refused(team.project, kind="command"))["code"] == "forbidden"
    assert (await team.co.refused("members.remove", project=team.project, site=heir.uid))["code"] == "forbidden"
    started = await team.pa.call("runs.start", project=team.project)
    roles = {run["site_uid"]: run["role"] for run in started["runs"]}
    assert (roles[heir.uid], roles[former.uid]) == ("coordinator", "participant")


async def test_it_is_handed_on_neither_while_a_batch_is_open_nor_to_who_is_no_participant(realm: Realm) -> None:
    team = await realm.team()
    for uid in ((await newcomer(realm))[0].uid, str(uuid.uuid4())):
        refused = await team.co.refused("projects.transfer", project=team.project, site=uid)
        assert (refused["code"], set(refused["details"])) == ("invalid", {"site"})
    to_itself = await team.co.refused("projects.transfer", project=team.project, site=team.coordinator.uid)
    assert to_itself["code"] == "conflict"
    await team.start()
    refused = await team.co.refused("projects.transfer", project=team.project, site=team.participant.uid)
    assert (refused["code"], refused["details"]) == ("conflict", {"batch": team.batch})
    await team.force("Success")
    assert events(await team.shown(team.pa), "participant") == []
    await team.co.call("projects.transfer", project=team.project, site=team.participant.uid)
    runs = await team.pa.call("runs.list", project=team.project)
    assert {run["site_uid"]: run["role"] for run in runs} == {
        team.participant.uid: "coordinator",
        team.coordinator.uid: "participant",
    }


async def test_a_new_session_after_a_transfer_goes_on_where_the_site_was(realm: Realm) -> None:
    team = await realm.team()
    before = await team.co.publish(team.project, data="before")
    await team.pa.until("event", offset=before["offset"])
    await team.pa.send(type="ack", project=team.project, offset=before["offset"])
    await team.pa.is_alive()
    await team.co.call("projects.transfer", project=team.project, site=team.participant.uid)
    again = await realm.session(team.participant)
    state = again.welcome["projects"][str(team.project)]
    assert (state["role"], state["from"]) == ("coordinator", before["offset"])
    await again.expect("event", kind="participant", data={"change": "transferred"})


# By polling


async def test_the_polling_api_says_so_and_a_code_in_the_place_of_the_name_leads_in(realm: Realm) -> None:
    team = await closed_team(realm, "approval")
    site, wire = await newcomer(realm)
    body = {"name": team.name, "description": "d", "site": site.id, "tasks": []}
    for _ in range(2):
        answer = await realm.rest("POST", "projects/", realm.guest, json=body)
        assert answer.status_code == 403, answer.text
        assert "does not admit this site" in answer.json()["detail"]
    assert (await realm.rest("GET", f"projects/lookup/?site_id={site.id}", realm.guest)).json() == []
    assert [one["site"] for one in await team.co.call("requests.list", project=team.project)] == [site.uid]
    code = (await team.co.call("invitations.create", project=team.project))["code"]
    for good in (code, "sfi_never-a-code"):
        answer = await realm.rest("POST", "projects/", realm.guest, json=body | {"name": good})
        assert answer.status_code == (201 if good == code else 403), answer.text
    assert (await wire.expect("subscribed"))["project"] == team.project
    taken = {"name": team.name, "description": "d", "site": team.participant.id, "tasks": []}
    assert (await realm.rest("POST", "projects/", realm.guest, json=taken)).status_code == 201, "it is in already"
