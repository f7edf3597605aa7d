"""Section 4, `hello`, and `welcome` in section 5 of docs/protocol.md: opening and resuming a session."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest

from tests.conformance import wire as wire_module
from tests.conformance.realm import Realm, Team
from tests.conformance.wire import Frame, Wire, events

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HELLO_TIMEOUT_S = 10.0


async def unspoken(realm: Realm) -> Wire:
    return await realm.connect((await realm.site()).headers)


async def backlog(wire: Wire, project: int) -> list[Frame]:
    """All events of a resumed session up to the head that its welcome named."""
    head = wire.welcome["projects"][str(project)]["offset"]
    return events(await wire.until("event", project=project, offset=head))


# The first frame


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"call","ref":1,"method":"projects.list","params":{}}',
        '{"type":"ack","project":1,"offset":1}',
        '{"type":"nonsense"}',
        "{not json",
        "[]",
    ],
)
async def test_a_first_frame_that_is_not_a_readable_hello_closes_4400(realm: Realm, text: str) -> None:
    wire = await unspoken(realm)
    await wire.send_text(text)
    assert await wire.closed() == 4400


async def test_a_binary_first_frame_closes_4400(realm: Realm) -> None:
    wire = await unspoken(realm)
    await wire.send_binary(b"", type="publish", ref=1)
    assert await wire.closed() == 4400


async def test_no_hello_within_10_s_closes_4408(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "TIMEOUT_S", HELLO_TIMEOUT_S + 5)
    wire = await unspoken(realm)
    began = time.monotonic()
    assert await wire.closed() == 4408
    assert HELLO_TIMEOUT_S - 1 < time.monotonic() - began < HELLO_TIMEOUT_S + 3


async def test_a_second_hello_gets_invalid_and_the_session_goes_on(realm: Realm) -> None:
    wire = await realm.session(await realm.site())
    error = await wire.error(type="hello", client="again/1")
    assert error["code"] == "invalid"
    assert await wire.is_alive()


# Welcome


async def test_welcome_has_exactly_its_fields(realm: Realm) -> None:
    team = await realm.team()
    wire = await realm.connect(team.coordinator.headers)
    await wire.send(type="hello", ref="h", client="conformance/1.0")
    welcome = await wire.next_frame()
    assert set(welcome) == {
        "type", "ref", "session", "site", "server", "ping_interval", "expires_at", "limits", "projects",
    }  # fmt: skip
    assert (welcome["type"], welcome["ref"]) == ("welcome", "h")
    assert isinstance(welcome["session"], str)
    site = team.coordinator
    assert welcome["site"] == {"id": site.id, "uid": site.uid, "name": site.name}
    assert set(welcome["server"]) == {"name", "version", "node"}
    assert welcome["server"]["name"] == "starfish-relay"
    assert welcome["ping_interval"] == 20
    assert welcome["expires_at"] is None
    assert set(welcome["limits"]) == {"frame", "inline"}
    assert set(welcome["projects"]) == {str(team.project)}


async def test_welcome_describes_each_project_with_exactly_its_fields(realm: Realm) -> None:
    team = await realm.team(participants=2)
    described = (await realm.session(team.coordinator)).welcome["projects"][str(team.project)]
    assert set(described) == {"role", "epoch", "offset", "from", "recovered", "online"}
    assert described["role"] == "coordinator"
    assert isinstance(described["epoch"], str)
    assert described["offset"] == team.head
    assert described["recovered"] is True
    assert sorted(described["online"]) == sorted(site.uid for site in team.participants)


async def test_welcome_without_hello_ref_has_no_ref(realm: Realm) -> None:
    wire = await unspoken(realm)
    assert "ref" not in await wire.hello()


async def test_welcome_of_a_site_in_no_project_has_no_projects(realm: Realm) -> None:
    wire = await realm.session(await realm.site())
    assert wire.welcome["projects"] == {}


async def test_a_participant_sees_only_the_coordinator_online(realm: Realm) -> None:
    team = await realm.team(participants=2)
    described = (await realm.session(team.participant)).welcome["projects"][str(team.project)]
    assert described["role"] == "participant"
    assert described["online"] == [team.coordinator.uid]


async def test_welcome_names_every_project_of_the_site_in_whatever_role(realm: Realm) -> None:
    one = await realm.team()
    other = await realm.team()
    await one.co.call("projects.join", name=other.name)
    projects = (await realm.session(one.coordinator)).welcome["projects"]
    assert {key: value["role"] for key, value in projects.items()} == {
        str(one.project): "coordinator",
        str(other.project): "participant",
    }


async def test_uids_are_lower_case_uuids(realm: Realm) -> None:
    team = await realm.team()
    wire = await realm.session(team.coordinator)
    assert UUID.fullmatch(wire.welcome["site"]["uid"])
    assert all(UUID.fullmatch(uid) for uid in wire.welcome["projects"][str(team.project)]["online"])


async def test_members_that_return_together_are_all_subscribed(realm: Realm) -> None:
    team = await realm.team(participants=3)
    for _ in range(5):
        for wire in (team.co, *team.pas):
            await wire.close()
        team.co, *team.pas = await asyncio.gather(*(realm.session(site) for site in team.sites))
        for wire in (team.co, *team.pas):
            assert set(wire.welcome["projects"]) == {str(team.project)}


# Resuming


async def published(team: Team, count: int = 5) -> list[int]:
    """Offsets of messages to the participants, one after the other."""
    return [(await team.co.publish(team.project, data=number))["offset"] for number in range(count)]


async def test_resume_by_offset_delivers_what_came_after_it(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team)
    epoch = await epoch_of(realm, team)
    wire = await realm.resumed(team.participant, team.project, offset=offsets[1], epoch=epoch)
    described = wire.welcome["projects"][str(team.project)]
    assert (described["from"], described["offset"], described["recovered"]) == (offsets[1], offsets[-1], True)
    assert [event["offset"] for event in await backlog(wire, team.project)] == offsets[2:]


async def epoch_of(realm: Realm, team: Team) -> str:
    described = (await realm.session(team.coordinator)).welcome["projects"][str(team.project)]
    assert isinstance(described["epoch"], str)
    return described["epoch"]


async def test_an_offset_without_an_epoch_means_the_current_one(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team)
    wire = await realm.resumed(team.participant, team.project, offset=offsets[2])
    described = wire.welcome["projects"][str(team.project)]
    assert (described["from"], described["recovered"]) == (offsets[2], True)
    assert [event["offset"] for event in await backlog(wire, team.project)] == offsets[3:]


async def test_resume_at_the_head_delivers_only_what_comes_later(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team)
    wire = await realm.resumed(team.participant, team.project, offset=offsets[-1])
    later = await team.co.publish(team.project, data="later")
    received = events(await wire.until("event", offset=later["offset"]))
    assert [event["offset"] for event in received] == [later["offset"]]


async def test_offset_new_skips_the_past(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team)
    wire = await realm.resumed(team.participant, team.project, offset="new")
    described = wire.welcome["projects"][str(team.project)]
    assert described["from"] == described["offset"] == offsets[-1]
    assert described["recovered"] is True
    later = await team.co.publish(team.project, data="later")
    received = events(await wire.until("event", offset=later["offset"]))
    assert [event["offset"] for event in received] == [later["offset"]]


async def test_another_epoch_is_not_recovered_and_delivery_starts_at_the_oldest_event(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team)
    wire = await realm.resumed(team.coordinator, team.project, offset=offsets[2], epoch="another")
    described = wire.welcome["projects"][str(team.project)]
    assert described["recovered"] is False
    assert described["epoch"] != "another"
    received = [event["offset"] for event in await backlog(wire, team.project)]
    assert received == list(range(1, offsets[-1] + 1))


async def test_an_offset_past_the_head_is_not_recovered_and_delivery_starts_at_the_oldest_event(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team)
    wire = await realm.resumed(team.coordinator, team.project, offset=offsets[-1] + 1000)
    assert wire.welcome["projects"][str(team.project)]["recovered"] is False
    received = [event["offset"] for event in await backlog(wire, team.project)]
    assert received == list(range(1, offsets[-1] + 1))


async def test_not_recovered_shows_a_participant_no_event_from_before_it_joined(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team)
    late = await realm.site(realm.guest)
    session = await realm.session(late)
    await session.call("projects.join", name=team.name)
    later = await team.co.publish(team.project, data="later")
    wire = await realm.resumed(late, team.project, offset=1, epoch="another")
    assert wire.welcome["projects"][str(team.project)]["recovered"] is False
    received = events(await wire.until("event", offset=later["offset"]))
    assert not {event["offset"] for event in received} & set(offsets)


async def test_a_project_left_out_goes_on_from_the_stored_cursor(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team)
    await team.pa.ack(team.project, offsets[2])
    await team.pa.is_alive()
    wire = await realm.session(team.participant)
    described = wire.welcome["projects"][str(team.project)]
    assert (described["from"], described["recovered"]) == (offsets[2], True)
    assert [event["offset"] for event in await backlog(wire, team.project)] == offsets[3:]


async def test_without_a_cursor_a_coordinator_starts_with_the_whole_journal(realm: Realm) -> None:
    team = await realm.team()
    offsets = await published(team)
    wire = await realm.session(team.coordinator)
    assert wire.welcome["projects"][str(team.project)]["from"] == 0
    received = [event["offset"] for event in await backlog(wire, team.project)]
    assert received == list(range(1, offsets[-1] + 1))


async def test_one_project_by_offset_leaves_the_others_to_their_cursors(realm: Realm) -> None:
    one = await realm.team()
    other = await realm.team()
    await one.pa.call("projects.join", name=other.name)
    await one.pa.expect("subscribed", project=other.project)
    there = await other.co.publish(other.project, data="there")
    here = await one.co.publish(one.project, data="here")
    wire = await realm.resumed(one.participant, one.project, offset=here["offset"])
    assert wire.welcome["projects"][str(one.project)]["from"] == here["offset"]
    assert wire.welcome["projects"][str(other.project)]["from"] < there["offset"]
    await wire.expect("event", project=other.project, offset=there["offset"])


async def test_a_hello_that_names_a_foreign_project_learns_as_little_as_of_an_absent_one(realm: Realm) -> None:
    team = await realm.team()
    outsider = await realm.site(realm.guest)

    async def answer_to(project: int) -> dict[str, Any]:
        wire = await realm.connect(outsider.headers)
        await wire.send(type="hello", ref=1, projects={str(project): {"offset": 1}})
        frame = await wire.next_frame()
        return {"type": frame["type"], "code": frame.get("code"), "projects": frame.get("projects")}

    absent, foreign = await asyncio.gather(answer_to(2**40), answer_to(team.project))
    assert foreign == absent
    assert not foreign["projects"]


async def test_no_event_is_lost_or_shown_twice_between_the_past_and_live(realm: Realm) -> None:
    team = await realm.team()
    total = 120

    async def publish_all() -> None:
        for number in range(total):
            await team.co.publish(team.project, data=number)

    async def follow() -> list[Any]:
        wire = await realm.resumed(team.participant, team.project, offset=team.head)
        received = events(await wire.until("event", data=total - 1))
        return [event["data"] for event in received]

    publishing = asyncio.create_task(publish_all())
    followers = []
    for _ in range(8):
        followers.append(asyncio.create_task(follow()))
        await team.pa.expect("event", data=len(followers) * 10)  # spread over the publishing
    for seen in await asyncio.gather(*followers):
        assert seen == list(range(total))
    await publishing
