"""Section 4, `history.read` and `progress.get`, and section 10, case 3, of docs/protocol.md: reading the past."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest

from tests.conformance.realm import Realm, Team, listed
from tests.conformance.shapes import TIMESTAMP
from tests.conformance.wire import Frame, Wire, new_id

MAX_LIMIT = 1000


async def history(wire: Wire, project: int, **params: Any) -> list[Frame]:
    params = {"after": 0, "limit": MAX_LIMIT} | params
    return listed(await wire.call("history.read", project=project, **params), "events")


async def published(team: Team, count: int) -> list[int]:
    """Offsets of that many messages by the coordinator."""
    return [(await team.co.publish(team.project, data=number))["offset"] for number in range(count)]


def without_type(event: Frame) -> Frame:
    """In a list of events each may do without the `type` that a frame has."""
    return {name: value for name, value in event.items() if name != "type"}


# history.read


async def test_history_shows_an_event_as_it_was_delivered(realm: Realm) -> None:
    team = await realm.team()
    await team.start()
    await team.co.publish(team.project, kind="command", data={"op": "train"}, run=team.run(team.coordinator))
    live = [await team.pa.expect("event", kind=kind) for kind in ("run", "command")]
    read = await history(team.pa, team.project, after=team.head)
    assert [without_type(event) for event in read if event["kind"] in ("run", "command")] == [
        without_type(event) for event in live
    ]


async def test_a_coordinator_reads_the_whole_journal_from_its_beginning(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team, 3)
    read = await history(team.co, team.project)
    assert [event["offset"] for event in read] == list(range(1, offsets[-1] + 1))
    assert all(TIMESTAMP.fullmatch(event["at"]) for event in read)


async def test_after_and_limit_page_through_the_journal(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team, 7)
    pages, after = [], team.head
    while page := await history(team.pa, team.project, after=after, limit=3):
        pages.append([event["offset"] for event in page])
        after = pages[-1][-1]
    assert pages == [offsets[:3], offsets[3:6], offsets[6:]]


async def test_after_the_head_there_is_nothing(realm: Realm) -> None:
    team = await realm.team()
    assert await history(team.co, team.project, after=team.head) == []
    assert await history(team.co, team.project, after=team.head + 1000) == []


async def test_limit_counts_what_is_shown(realm: Realm) -> None:
    team = await realm.team(participants=2)
    for number in range(4):
        await team.co.publish(team.project, data=number, to=[team.participants[number % 2].uid])
    read = await history(team.pas[1], team.project, after=team.head, limit=2)
    assert [event["data"] for event in read] == [1, 3]


async def test_a_kind_is_filtered(realm: Realm) -> None:
    team = await realm.team()
    for kind in ("message", "command", "update", "command"):
        await team.co.publish(team.project, kind=kind, data=kind)
    read = await history(team.pa, team.project, after=team.head, kind="command")
    assert [(event["kind"], event["data"]) for event in read] == [("command", "command")] * 2
    joins = await history(team.co, team.project, kind="participant")
    assert {event["data"]["change"] for event in joins} == {"joined"}


async def test_a_page_may_hold_1000_events(realm: Realm) -> None:
    team = await realm.team()
    total = MAX_LIMIT + 5
    for number in range(total):
        await team.co.send(type="publish", id=new_id(), project=team.project, kind="message", data=number)
    await team.pa.expect("event", data=total - 1)
    read = await history(team.co, team.project, after=team.head)
    assert [event["data"] for event in read] == list(range(MAX_LIMIT))


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("after", -1),
        ("after", "0"),
        ("after", 1.5),
        ("limit", 0),
        ("limit", -1),
        ("limit", MAX_LIMIT + 1),
        ("limit", "10"),
        ("kind", 7),
        ("kind", "presence"),
        ("project", "7"),
    ],
)
async def test_a_wrong_parameter_is_invalid(realm: Realm, parameter: str, value: object) -> None:
    team = await realm.team()
    params = {"project": team.project, "after": 0, "limit": 10} | {parameter: value}
    error = await team.co.refused("history.read", **params)
    assert error["code"] == "invalid"
    assert set(error["details"]) == {parameter}


async def test_a_foreign_project_and_an_absent_one_are_refused_alike(realm: Realm) -> None:
    team, other = await realm.team(), await realm.team()
    foreign = await other.co.refused("history.read", project=team.project, after=0, limit=10)
    absent = await other.co.refused("history.read", project=2**40, after=0, limit=10)
    assert foreign["code"] == "unknown_project"
    assert without_ref(foreign) == without_ref(absent)


def without_ref(answer: Frame) -> Frame:
    return {name: value for name, value in answer.items() if name != "ref"}


# Binary events, where there are no binary frames


@pytest.mark.parametrize("payload", [b"", b"\x00\xff" * 500], ids=["empty", "1 KB"])
async def test_a_payload_is_base64_in_place_of_data(realm: Realm, payload: bytes) -> None:
    team = await realm.team()
    ok = await team.co.publish_binary(team.project, payload, kind="update")
    (event,) = await history(team.pa, team.project, after=team.head)
    assert (event["offset"], event["kind"]) == (ok["offset"], "update")
    assert base64.b64decode(event["payload"], validate=True) == payload
    assert "data" not in event
    assert "size" not in event


async def test_a_payload_past_the_frame_limit_is_named_by_its_size_and_read_over_rest(realm: Realm) -> None:
    team = await realm.team()
    payload = os.urandom(team.co.welcome["limits"]["frame"] + 1)
    ok = await team.co.publish_binary(team.project, payload, kind="update")
    (event,) = await history(team.pa, team.project, after=team.head)
    assert (event["payload"], event["size"]) == (None, len(payload))
    path = f"projects/{team.project}/events/{ok['offset']}/payload/"
    response = await realm.as_site("GET", path, team.participant)
    assert response.status_code == 200, response.text
    assert response.content == payload


async def test_a_page_stays_within_a_frame(realm: Realm) -> None:
    """Whole payloads of the limit's size, more of them than a frame or a memory should hold, are paged or left out."""
    team = await realm.team()
    limit = team.co.welcome["limits"]["frame"]
    payload = os.urandom(limit * 3 // 4)
    offsets = [(await team.co.publish_binary(team.project, payload, kind="update"))["offset"] for _ in range(6)]
    seen: list[int] = []
    after = team.head
    while page := await history(team.pa, team.project, after=after, limit=10):
        seen += [event["offset"] for event in page]
        after = seen[-1]
    assert seen == offsets


# progress.get


async def progress(wire: Wire, team: Team, batch: int | None = None) -> list[Frame]:
    found = await wire.call("progress.get", project=team.project, batch=batch or team.batch)
    return listed(found, "progress")


async def test_progress_is_shown_as_the_event_that_brought_it(realm: Realm) -> None:
    team = await realm.team()
    await team.start()
    id_ = new_id()
    await team.pa.publish(team.project, kind="progress", run=team.run(team.participant), id=id_, data={"step": 1})
    live = await team.co.expect("event", kind="progress")
    (newest,) = await progress(team.co, team)
    expected = {
        "run": team.run(team.participant),
        "batch": team.batch,
        "from": team.participant.uid,
        "kind": "progress",
        "id": id_,
        "at": live["at"],
        "data": {"step": 1},
    }
    assert {name: newest.get(name) for name in expected} == expected


async def test_durable_progress_is_the_newest_too(realm: Realm) -> None:
    team = await realm.team()
    await team.start()
    for step, transient in ((1, True), (2, False)):
        run = team.run(team.participant)
        await team.pa.publish(team.project, kind="progress", run=run, data=step, transient=transient)
    assert [entry["data"] for entry in await progress(team.co, team)] == [2]


async def test_progress_without_a_run_is_kept_for_nobody(realm: Realm) -> None:
    team = await realm.team()
    await team.start()
    await team.pa.publish(team.project, kind="progress", data="passing")
    await team.co.expect("event", kind="progress")
    assert await progress(team.co, team) == []


async def test_progress_of_another_batch_is_not_shown(realm: Realm) -> None:
    team = await realm.team()
    await team.start()
    await team.pa.publish(team.project, kind="progress", run=team.run(team.participant), data="first")
    await team.force("Failed")
    await team.start()
    assert await progress(team.co, team) == []
    assert [entry["data"] for entry in await progress(team.co, team, batch=1)] == ["first"]
    assert await progress(team.co, team, batch=99) == []


async def test_progress_survives_the_session_that_brought_it(realm: Realm) -> None:
    team = await realm.team()
    await team.start()
    await team.pa.publish(team.project, kind="progress", run=team.run(team.participant), data="kept")
    await team.pa.close()
    await team.co.expect("presence", state="offline")
    assert [entry["data"] for entry in await progress(team.co, team)] == ["kept"]


@pytest.mark.parametrize(("parameter", "value"), [("project", "7"), ("batch", "1"), ("batch", None)])
async def test_progress_with_a_wrong_parameter_is_invalid(realm: Realm, parameter: str, value: object) -> None:
    team = await realm.team()
    error = await team.co.refused("progress.get", **({"project": team.project, "batch": 1} | {parameter: value}))
    assert error["code"] == "invalid"
    assert set(error["details"]) == {parameter}
