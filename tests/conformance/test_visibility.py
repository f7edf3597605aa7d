"""Section 6 of docs/protocol.md: who sees what, by whatever way it is shown.

Each action of the matrix makes events in a project with a coordinator and three participants. Who may see each of them
is said once, in `viewers_of`, from the event itself; then every way of being shown it must give exactly that: live, in
the journal's replay, in `history.read`, and over long poll.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from tests.conformance.realm import Realm, Site, Team, listed, unique
from tests.conformance.wire import Frame, Wire, events

ABSENT = 2**40
KINDS = ("command", "update", "progress", "log", "key", "message")

Action = Callable[[Realm, Team], Awaitable[None]]


def viewers_of(event: Frame, team: Team) -> set[str]:
    """The uids of the sites that may see an event (the table of section 6)."""
    coordinator = {team.coordinator.uid}
    everyone = {site.uid for site in team.sites}
    kind, data = event["kind"], event.get("data", {})
    if event["from"] is None:
        if kind in ("batch", "project"):
            return everyone
        if kind in ("run", "file"):
            owner = next(uid for uid, run in team.runs.items() if run["id"] == data["run"])
            return coordinator | {owner}
        assert kind == "participant", event
        return everyone if data["role"] == "coordinator" else coordinator | {data["site"]}
    if event["from"] == team.coordinator.uid:
        return coordinator | set(addressed(event))
    return coordinator | {event["from"]}


def addressed(event: Frame) -> list[str]:
    """The addressees, that the actions below write into what they publish."""
    body = json.loads(event["payload"]) if "payload" in event else event["data"]
    to: list[str] = body["to"]
    return to


# The actions


async def publish_all_kinds(wire: Wire, team: Team, to: Sequence[Site] | None, **fields: Any) -> None:
    """Every kind, as text and as binary; `to` None leaves the addressing to the relay."""
    uids = [site.uid for site in (team.participants if to is None else to)]
    if to is not None:
        fields["to"] = uids
    kinds = KINDS if wire is team.co else KINDS[1:]
    for kind in kinds:
        await wire.publish(team.project, kind=kind, transient=False, data={"to": uids}, **fields)
        payload = json.dumps({"to": uids}).encode()
        await wire.publish_binary(team.project, payload, kind=kind, transient=False, **fields)


async def coordinator_to_all(_realm: Realm, team: Team) -> None:
    await publish_all_kinds(team.co, team, None)


async def coordinator_to_one(_realm: Realm, team: Team) -> None:
    await publish_all_kinds(team.co, team, team.participants[:1])


async def coordinator_to_two(_realm: Realm, team: Team) -> None:
    await publish_all_kinds(team.co, team, team.participants[1:])


async def participants_to_coordinator(_realm: Realm, team: Team) -> None:
    for pa in team.pas:
        await publish_all_kinds(pa, team, None)


async def events_of_a_run(_realm: Realm, team: Team) -> None:
    """To name a run decides nothing about who sees it."""
    await team.start()
    await publish_all_kinds(team.co, team, team.participants[:1], run=team.run(team.participants[1]))
    await publish_all_kinds(team.pas[2], team, None, run=team.run(team.participants[2]))


async def runs_move(_realm: Realm, team: Team) -> None:
    await team.start()
    for wire, site in zip((*team.pas, team.co), (*team.participants, team.coordinator), strict=True):
        await wire.call("runs.status", run=team.run(site), status="Preparing")
    await team.force("Running")
    await team.co.call("runs.stop", project=team.project, batch=team.batch)


async def members_come_and_go(realm: Realm, team: Team) -> None:
    newcomer = await realm.session(await realm.site(realm.guest))
    await newcomer.call("projects.join", name=team.name)
    await newcomer.call("projects.leave", project=team.project)


async def project_changes(realm: Realm, team: Team) -> None:
    response = await realm.rest("PATCH", f"projects/{team.project}/", realm.owner, json={"description": "changed"})
    assert response.status_code == 200, response.text


async def files_arrive(realm: Realm, team: Team) -> None:
    await team.start()
    for site, type_ in (
        (team.participants[0], "mid_artifacts"),
        (team.participants[1], "logs"),
        (team.coordinator, "artifacts"),
    ):
        form = {"run": team.run(site), "task_seq": 1, "round_seq": 1}
        response = await realm.rest(
            "POST", "runs-action/upload/", site.account, data=form, files={type_: (type_, b"content")}
        )
        assert response.status_code == 200, response.text


MATRIX: Mapping[str, tuple[Action, set[str]]] = {
    "the coordinator to all": (coordinator_to_all, set(KINDS)),
    "the coordinator to one": (coordinator_to_one, set(KINDS)),
    "the coordinator to two": (coordinator_to_two, set(KINDS)),
    "participants to the coordinator": (participants_to_coordinator, set(KINDS[1:])),
    "events of a run": (events_of_a_run, {"run", *KINDS}),
    "runs move": (runs_move, {"run", "batch"}),
    "members come and go": (members_come_and_go, {"participant"}),
    "the project changes": (project_changes, {"project"}),
    "files arrive": (files_arrive, {"run", "file"}),
}
"""What is done, and the kinds of events that must come of it."""


# The ways of being shown


def offsets(frames: Sequence[Frame]) -> list[int]:
    return [event["offset"] for event in events(frames)]


async def live(team: Team, wire: Wire, end: Mapping[str, int]) -> list[Frame]:
    """What a session has been shown since it was last looked at, up to the marker that its site may see."""
    marker = end[wire.welcome["site"]["uid"]]
    return events(await wire.until("event", project=team.project, offset=marker))[:-1]


async def markers(team: Team) -> dict[str, int]:
    """Marks the end of the action for every site: one marker that the coordinator sees, and then one for the others."""
    first = (await team.pa.publish(team.project, data="end"))["offset"]
    second = (await team.co.publish(team.project, data="end"))["offset"]
    return {site.uid: first if site == team.coordinator else second for site in team.sites}


async def read(wire: Wire, project: int, after: int, before: int) -> list[Frame]:
    found = listed(await wire.call("history.read", project=project, after=after, limit=1000), "events")
    return [event for event in found if event["offset"] < before]


async def poll(realm: Realm, site: Site, project: int, after: int, before: int) -> list[Frame]:
    """The same over plain HTTP."""
    params = {"after": after, "limit": 1000}
    response = await realm.as_site("GET", f"projects/{project}/events/", site, params=params)
    assert response.status_code == 200, response.text
    return [event for event in listed(response.json(), "events") if event["offset"] < before]


def without_type(event: Frame) -> Frame:
    return {name: value for name, value in event.items() if name != "type"}


@pytest.mark.parametrize("name", MATRIX)
async def test_every_way_shows_each_site_exactly_what_it_may_see(realm: Realm, name: str) -> None:
    action, kinds = MATRIX[name]
    team = await realm.team(participants=3)
    watching = {site.uid: await realm.resumed(site, team.project, offset="new") for site in team.sites}
    await action(realm, team)
    end = await markers(team)
    first_marker = end[team.coordinator.uid]

    whole = await live(team, watching[team.coordinator.uid], end)
    assert offsets(whole) == list(range(team.head + 1, first_marker)), "a coordinator sees every event"
    assert {event["kind"] for event in whole} >= kinds
    for site in team.sites:
        expected = [event for event in whole if site.uid in viewers_of(event, team)]
        if site != team.coordinator:
            shown = await live(team, watching[site.uid], end)
            assert [event for event in shown if event["offset"] < first_marker] == expected
        replay = await realm.resumed(site, team.project, offset=team.head)
        replayed = events(await replay.until("event", offset=first_marker + 1))
        assert [event for event in replayed if event["offset"] < first_marker] == expected
        found = await read(replay, team.project, team.head, first_marker)
        assert offsets_of(found) == offsets(expected)
        polled = await poll(realm, site, team.project, team.head, first_marker)
        assert [without_type(event) for event in polled] == [without_type(event) for event in found]


@pytest.mark.parametrize("name", [name for name in MATRIX if name != "files arrive"])
async def test_the_acting_sessions_are_shown_all_that_others_made(realm: Realm, name: str) -> None:
    action, _ = MATRIX[name]
    team = await realm.team(participants=3)
    for wire in (team.co, *team.pas):
        await team.shown(wire)
    began = (await team.co.publish(team.project, data="begin"))["offset"]
    await action(realm, team)
    end = await markers(team)
    first_marker = end[team.coordinator.uid]
    whole = await read(await realm.session(team.coordinator), team.project, began, first_marker)
    for wire, site in zip((team.co, *team.pas), team.sites, strict=True):
        shown = await live(team, wire, end)
        visible = [event for event in whole if event["from"] != site.uid and site.uid in viewers(event, team)]
        assert [offset for offset in offsets(shown) if began < offset < first_marker] == offsets_of(visible)


def viewers(event: Frame, team: Team) -> set[str]:
    """Of an event of `history.read`, whose payloads are base64."""
    if event.get("payload") is not None:
        event = event | {"payload": base64.b64decode(event["payload"])}
    return viewers_of(event, team)


def offsets_of(found: Sequence[Frame]) -> list[int]:
    return [event["offset"] for event in found]


# A site in no relation to a project learns nothing of it


def asked_of(project: int, run: int) -> list[Frame]:
    """Everything that one can ask about a project and a run of it, right or wrong."""
    of_project: list[tuple[str, Frame]] = [
        ("projects.join", {}),
        ("projects.leave", {}),
        ("projects.participants", {}),
        ("runs.start", {}),
        ("runs.start", {"policy": {"min_sites": 1}}),
        ("runs.start", {"policy": "nonsense"}),
        ("runs.stop", {"batch": 1}),
        ("runs.stop", {"run": run}),
        ("runs.restart", {"batch": 1}),
        ("runs.restart", {"run": run}),
        ("runs.list", {}),
        ("runs.list", {"batch": 1}),
        ("runs.list", {"batch": "1"}),
        ("progress.get", {"batch": 1}),
        ("history.read", {"after": 0, "limit": 10}),
        ("history.read", {"after": 0, "limit": 1001}),
        ("keys.get", {}),
    ]
    of_run: list[Frame] = [
        {"status": "Preparing"},
        {"status": "Preparing", "update_all": True},
        {"status": "Preparing", "increase_round": True, "update_all": True},
        {"status": "Nonsense"},
    ]
    frames: list[Frame] = [
        {"type": "call", "method": method, "params": {"project": project, **extra}} for method, extra in of_project
    ]
    frames += [{"type": "call", "method": "runs.status", "params": {"run": run, **extra}} for extra in of_run]
    body = {"id": "5f0c2a54-0f2e-4e0e-9d2c-5a1d1b8f7a10", "project": project, "data": 1}
    extras: tuple[Frame, ...] = ({}, {"run": run}, {"transient": True})
    for kind, extra in itertools.product(KINDS, extras):
        frames.append({"type": "publish", "kind": kind, **body, **extra})
    return frames


async def answers(wire: Wire, frames: Sequence[Frame]) -> list[Frame]:
    return [await wire.ask(ref=number, **frame) for number, frame in enumerate(frames)]


@pytest.mark.parametrize("who", ["a stranger", "a coordinator elsewhere", "a former participant"])
async def test_a_foreign_project_is_answered_like_an_absent_one(realm: Realm, who: str) -> None:
    team = await realm.team(participants=2)
    await team.start()
    outsider = await an_outsider(realm, team, who)
    foreign = await answers(outsider, asked_of(team.project, team.run(team.coordinator)))
    absent = await answers(outsider, asked_of(ABSENT, ABSENT))
    assert foreign == absent
    assert {answer["type"] for answer in foreign} == {"error"}
    assert {answer["code"] for answer in foreign} <= {"unknown_project", "unknown_run", "invalid"}
    await outsider.is_alive()
    assert [frame for frame in outsider.unclaimed if frame.get("project") == team.project] == []


async def an_outsider(realm: Realm, team: Team, who: str) -> Wire:
    if who == "a former participant":
        wire = team.pas[1]
        await wire.call("projects.leave", project=team.project)
        await wire.until("unsubscribed")
        return wire
    wire = await realm.session(await realm.site())
    if who == "a coordinator elsewhere":
        await wire.call("projects.create", name=unique("elsewhere"), description="", tasks=[])
        await wire.expect("subscribed")
    return wire


async def test_another_site_of_the_same_user_is_a_stranger_too(realm: Realm) -> None:
    """A session has the rights of its site, not those of the user that owns it."""
    team = await realm.team()
    sibling = await realm.session(await realm.site(team.coordinator.account))
    foreign = await answers(sibling, asked_of(team.project, ABSENT))
    assert foreign == await answers(sibling, asked_of(ABSENT, ABSENT))


async def test_a_stranger_is_shown_nothing_of_what_happens(realm: Realm) -> None:
    team = await realm.team()
    stranger = await realm.session(await realm.site(), {team.project: {"offset": 0}})
    assert stranger.welcome["projects"] == {}
    await coordinator_to_all(realm, team)
    await runs_move(realm, team)
    await team.pa.close()
    await team.co.expect("presence", state="offline")
    await stranger.is_alive()
    assert stranger.unclaimed == []


async def test_a_participants_run_is_unknown_to_the_others(realm: Realm) -> None:
    team = await realm.team(participants=2)
    await team.start()
    other, mine = team.run(team.participants[1]), team.run(team.participant)
    assert [run["id"] for run in listed(await team.pa.call("runs.list", project=team.project), "runs")] == [mine]
    frames: list[list[Frame]] = [
        [
            {"type": "call", "method": "runs.status", "params": {"run": run, "status": "Preparing"}},
            {"type": "call", "method": "runs.stop", "params": {"project": team.project, "run": run}},
            {"type": "call", "method": "runs.restart", "params": {"project": team.project, "run": run}},
        ]
        for run in (other, ABSENT)
    ]
    foreign, absent = [await answers(team.pa, asked) for asked in frames]
    assert foreign == absent
    assert {answer["code"] for answer in foreign} == {"unknown_run"}
