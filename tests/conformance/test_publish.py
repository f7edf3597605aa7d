"""Section 4, `publish` and `ack`, of docs/protocol.md: addressing, kinds, receipts, transient events."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.conformance.realm import Realm, Team, listed
from tests.conformance.wire import Frame, Wire, events, new_id, publication

CLIENT_KINDS = ("command", "update", "progress", "log", "key", "message")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def seen_before_marker(team: Team, wire: Wire) -> list[Frame]:
    """Publications of the team that the session is shown before a marker that goes to all."""
    return [event for event in events(await team.shown(wire)) if event["kind"] in CLIENT_KINDS]


# The answer and the event


async def test_ok_has_exactly_its_fields(realm: Realm) -> None:
    team = await realm.team()
    ok = await team.co.publish(team.project, ref=7)
    assert ok == {"type": "ok", "ref": 7, "offset": team.head + 1, "duplicate": False}


async def test_an_event_has_exactly_its_fields(realm: Realm) -> None:
    team = await realm.team()
    id_ = new_id()
    ok = await team.co.publish(team.project, kind="command", to="participants", id=id_, data={"op": "train"})
    event = await team.pa.expect("event", kind="command")
    at = event.pop("at")
    assert TIMESTAMP.fullmatch(at), at
    assert event == {
        "type": "event",
        "project": team.project,
        "offset": ok["offset"],
        "id": id_,
        "kind": "command",
        "from": team.coordinator.uid,
        "run": None,
        "batch": None,
        "data": {"op": "train"},
    }


async def test_an_event_of_a_run_carries_the_run_and_its_batch(realm: Realm) -> None:
    team = await realm.team()
    await team.start()
    run = team.run(team.participant)
    await team.pa.publish(team.project, kind="log", run=run, data="of a run")
    event = await team.co.expect("event", kind="log")
    assert (event["run"], event["batch"]) == (run, team.batch)


async def test_an_event_is_in_the_journal_when_it_is_acknowledged_to_its_publisher(realm: Realm) -> None:
    team = await realm.team()
    other = await realm.resumed(team.coordinator, team.project, offset="new")
    ok = await team.co.publish(team.project, data="durable")
    found = listed(await other.call("history.read", project=team.project, after=team.head, limit=10), "events")
    assert [event["offset"] for event in found] == [ok["offset"]]


# To whom


@pytest.mark.parametrize("kind", CLIENT_KINDS)
async def test_left_out_a_coordinator_speaks_to_the_participants(realm: Realm, kind: str) -> None:
    team = await realm.team(participants=2)
    await team.co.publish(team.project, kind=kind, data="to all", transient=False)
    for pa in team.pas:
        assert (await pa.expect("event", kind=kind))["data"] == "to all"


@pytest.mark.parametrize("kind", [kind for kind in CLIENT_KINDS if kind != "command"])
async def test_left_out_a_participant_speaks_to_the_coordinator(realm: Realm, kind: str) -> None:
    team = await realm.team(participants=2)
    await team.pa.publish(team.project, kind=kind, data="to the coordinator", transient=False)
    assert (await team.co.expect("event", kind=kind))["from"] == team.participant.uid
    assert await seen_before_marker(team, team.pas[1]) == []


async def test_a_coordinator_addresses_participants_by_uid(realm: Realm) -> None:
    team = await realm.team(participants=3)
    to = [site.uid for site in team.participants[:2]]
    await team.co.publish(team.project, kind="command", to=to, data="to two")
    shown = [await seen_before_marker(team, pa) for pa in team.pas]
    assert [[event["data"] for event in frames] for frames in shown] == [["to two"], ["to two"], []]


@pytest.mark.parametrize("by_uid", [False, True], ids=["by role", "by uid"])
async def test_a_participant_may_address_the_coordinator(realm: Realm, by_uid: bool) -> None:
    team = await realm.team()
    to = [team.coordinator.uid] if by_uid else "coordinator"
    await team.pa.publish(team.project, to=to, data="hello")
    assert (await team.co.expect("event", kind="message"))["data"] == "hello"


async def test_a_participant_that_addresses_the_participants_is_forbidden(realm: Realm) -> None:
    team = await realm.team(participants=2)
    error = await team.pa.publish_refused(team.project, to="participants")
    assert error["code"] == "forbidden"
    assert await seen_before_marker(team, team.pas[1]) == []


async def test_a_participant_that_addresses_another_participant_is_refused(realm: Realm) -> None:
    team = await realm.team(participants=2)
    for to in ([team.participants[1].uid], [team.coordinator.uid, team.participants[1].uid]):
        error = await team.pa.publish_refused(team.project, to=to)
        assert error["code"] in ("forbidden", "invalid")
    assert await seen_before_marker(team, team.pas[1]) == []


async def test_a_participant_cannot_tell_another_member_from_a_stranger_by_addressing_it(realm: Realm) -> None:
    team = await realm.team(participants=2)
    member = await team.pa.publish_refused(team.project, to=[team.participants[1].uid], ref=1)
    stranger = await team.pa.publish_refused(team.project, to=[new_id()], ref=1)
    assert member["code"] == stranger["code"]


@pytest.mark.parametrize("to", [[], "everyone", "", ["no-uid"], ["b6f5976e-66b3-4ec4-8dc7-b0ab2a8182d1"]], ids=repr)
async def test_an_empty_list_or_an_unknown_addressee_is_invalid(realm: Realm, to: object) -> None:
    team = await realm.team()
    error = await team.co.publish_refused(team.project, to=to)
    assert error["code"] == "invalid"
    assert "to" in error["details"]


async def test_a_site_outside_the_project_is_an_unknown_addressee(realm: Realm) -> None:
    team = await realm.team()
    outsider = await realm.site()
    error = await team.co.publish_refused(team.project, to=[team.participant.uid, outsider.uid])
    assert error["code"] == "invalid"
    assert await seen_before_marker(team, team.pa) == []


# What is refused


async def test_only_a_coordinator_commands(realm: Realm) -> None:
    team = await realm.team()
    assert (await team.pa.publish_refused(team.project, kind="command"))["code"] == "forbidden"


@pytest.mark.parametrize("kind", ["run", "participant", "project", "file", "batch", "presence", "Message", ""])
async def test_no_other_kinds_are_published_by_clients(realm: Realm, kind: str) -> None:
    team = await realm.team()
    error = await team.co.publish_refused(team.project, kind=kind)
    assert error["code"] == "invalid"
    assert "kind" in error["details"]


@pytest.mark.parametrize("field", ["id", "project", "kind"])
async def test_a_missing_field_is_invalid(realm: Realm, field: str) -> None:
    team = await realm.team()
    frame = publication(team.project, {"ref": "r"})
    del frame[field]
    error = await team.co.error(**frame)
    assert error["code"] == "invalid"
    assert isinstance(error["details"][field], str)


async def test_an_id_that_is_no_uuid_is_invalid(realm: Realm) -> None:
    team = await realm.team()
    error = await team.co.publish_refused(team.project, id="not-a-uuid")
    assert error["code"] == "invalid"
    assert "id" in error["details"]


async def test_a_foreign_project_and_an_absent_one_are_refused_alike(realm: Realm) -> None:
    team = await realm.team()
    outsider = await realm.session(await realm.site())
    foreign = await outsider.publish_refused(team.project, ref=1)
    absent = await outsider.publish_refused(2**40, ref=1)
    assert foreign["code"] == absent["code"] == "unknown_project"
    assert foreign.get("details") == absent.get("details")
    assert await seen_before_marker(team, team.pa) == []


async def test_a_run_of_another_project_and_an_absent_one_are_unknown_run_alike(realm: Realm) -> None:
    team = await realm.team()
    other = await realm.team()
    await other.start()
    foreign = await team.co.publish_refused(team.project, run=other.run(other.coordinator))
    absent = await team.co.publish_refused(team.project, run=2**40)
    assert foreign["code"] == absent["code"] == "unknown_run"


# Echo


@pytest.mark.parametrize("role", ["coordinator", "participant"])
async def test_nothing_is_echoed_live_to_the_sending_session(realm: Realm, role: str) -> None:
    team = await realm.team()
    sender, other = (team.co, team.pa) if role == "coordinator" else (team.pa, team.co)
    mine = await sender.publish(team.project, data="mine")
    marker = await other.publish(team.project, data="marker")
    received = events(await sender.until("event", offset=marker["offset"]))
    assert mine["offset"] not in [event["offset"] for event in received]


@pytest.mark.parametrize("role", ["coordinator", "participant"])
async def test_the_sites_other_session_and_a_replay_show_what_it_sent(realm: Realm, role: str) -> None:
    team = await realm.team()
    site, sender = (team.coordinator, team.co) if role == "coordinator" else (team.participant, team.pa)
    other = await realm.resumed(site, team.project, offset="new")
    mine = await sender.publish(team.project, data="mine")
    live = await other.expect("event", offset=mine["offset"])
    replayed = await (await realm.resumed(site, team.project, offset=team.head)).expect("event", offset=mine["offset"])
    assert live == replayed
    assert live["from"] == site.uid


# Transient events


async def test_a_transient_event_is_answered_without_offset_and_arrives_without_one(realm: Realm) -> None:
    team = await realm.team()
    ok = await team.co.publish(team.project, data="now", transient=True)
    assert "offset" not in ok
    event = await team.pa.expect("event", data="now")
    assert event.get("offset") is None
    assert (event["kind"], event["from"]) == ("message", team.coordinator.uid)


async def test_a_transient_event_takes_no_offset_and_is_not_in_the_journal(realm: Realm) -> None:
    team = await realm.team()
    await team.co.publish(team.project, data="now", transient=True)
    kept = await team.co.publish(team.project, data="kept")
    assert kept["offset"] == team.head + 1
    late = await realm.resumed(team.participant, team.project, offset=team.head)
    received = events(await late.until("event", offset=kept["offset"]))
    assert [event["data"] for event in received] == ["kept"]


async def test_a_transient_event_reaches_only_those_addressed(realm: Realm) -> None:
    team = await realm.team(participants=2)
    await team.co.publish(team.project, data="one", transient=True, to=[team.participant.uid])
    await team.co.publish(team.project, data="both", transient=True)
    assert [event["data"] for event in events(await team.pas[0].until("event", data="both"))] == ["one", "both"]
    assert [event["data"] for event in events(await team.pas[1].until("event", data="both"))] == ["both"]


async def test_a_transient_event_is_not_echoed_to_the_sending_session(realm: Realm) -> None:
    team = await realm.team()
    await team.pa.publish(team.project, data="mine", transient=True)
    await team.co.expect("event", data="mine")
    await team.co.publish(team.project, data="marker", transient=True)
    assert [event["data"] for event in events(await team.pa.until("event", data="marker"))] == ["marker"]


async def test_a_transient_events_id_is_not_remembered(realm: Realm) -> None:
    team = await realm.team()
    id_ = new_id()
    await team.co.publish(team.project, id=id_, data="passing", transient=True)
    again = await team.co.publish(team.project, id=id_, data="passing again", transient=True)
    assert again.get("duplicate") is not True
    await team.pa.expect("event", data="passing again")
    kept = await team.co.publish(team.project, id=id_, data="kept")
    assert kept["duplicate"] is False
    assert (await team.pa.expect("event", data="kept"))["offset"] == kept["offset"]


async def test_a_binary_event_may_be_transient(realm: Realm) -> None:
    team = await realm.team()
    ok = await team.co.publish_binary(team.project, b"now", transient=True)
    assert "offset" not in ok
    event = await team.pa.expect("event", payload=b"now")
    assert event.get("offset") is None


# Progress


async def test_progress_is_transient_unless_false_is_given(realm: Realm) -> None:
    team = await realm.team()
    await team.start()
    run = team.run(team.participant)
    passing = await team.pa.publish(team.project, kind="progress", run=run, data={"step": 1})
    assert "offset" not in passing
    assert (await team.co.expect("event", kind="progress", data={"step": 1})).get("offset") is None
    kept = await team.pa.publish(team.project, kind="progress", run=run, data={"step": 2}, transient=False)
    assert (await team.co.expect("event", kind="progress", data={"step": 2}))["offset"] == kept["offset"]


async def test_the_newest_progress_of_each_run_is_kept_for_late_lookers(realm: Realm) -> None:
    team = await realm.team(participants=2)
    await team.start()
    for step in (1, 2, 3):
        for pa, site in zip(team.pas, team.participants, strict=True):
            data = {"step": step, "of": site.uid}
            await pa.publish(team.project, kind="progress", run=team.run(site), data=data)
    late = await realm.resumed(team.coordinator, team.project, offset="new")
    newest = listed(await late.call("progress.get", project=team.project, batch=team.batch), "progress")
    assert sorted((entry["run"], entry["data"]["step"], entry["data"]["of"]) for entry in newest) == sorted(
        (team.run(site), 3, site.uid) for site in team.participants
    )


async def test_a_participant_gets_no_progress_of_others(realm: Realm) -> None:
    team = await realm.team(participants=2)
    await team.start()
    for pa, site in zip(team.pas, team.participants, strict=True):
        await pa.publish(team.project, kind="progress", run=team.run(site), data=site.uid)
    newest = listed(await team.pa.call("progress.get", project=team.project, batch=team.batch), "progress")
    assert [entry["data"] for entry in newest] == [team.participant.uid]


# Receipts and acks


async def test_a_receipt_tells_when_each_addressee_has_acknowledged(realm: Realm) -> None:
    team = await realm.team(participants=2)
    ok = await team.co.publish(team.project, receipts=True)
    for pa, site in zip(team.pas, team.participants, strict=True):
        await pa.ack(team.project, ok["offset"])
        receipt = await team.co.expect("receipt")
        assert receipt == {"type": "receipt", "project": team.project, "offset": ok["offset"], "site": site.uid}


async def test_an_ack_past_the_event_is_a_receipt_too_and_comes_once(realm: Realm) -> None:
    team = await realm.team()
    first = await team.co.publish(team.project, receipts=True)
    await team.co.publish(team.project)
    last = await team.co.publish(team.project, receipts=True)
    await team.pa.ack(team.project, first["offset"] + 1)
    await team.pa.ack(team.project, last["offset"])
    received = await team.co.until("receipt", offset=last["offset"])
    assert [frame["offset"] for frame in received if frame["type"] == "receipt"] == [first["offset"], last["offset"]]


async def test_receipts_come_only_for_addressees_and_only_when_asked_for(realm: Realm) -> None:
    team = await realm.team(participants=2)
    await team.co.publish(team.project, data="without receipts")
    one = await team.co.publish(team.project, receipts=True, to=[team.participant.uid])
    last = await team.co.publish(team.project, receipts=True)
    await team.pas[1].ack(team.project, last["offset"])
    await team.co.expect("receipt", offset=last["offset"], site=team.participants[1].uid)
    await team.pas[0].ack(team.project, last["offset"])
    received = await team.co.until("receipt", offset=last["offset"], site=team.participant.uid)
    receipts = [(frame["offset"], frame["site"]) for frame in received if frame["type"] == "receipt"]
    assert sorted(receipts) == [(one["offset"], team.participant.uid), (last["offset"], team.participant.uid)]


async def test_receipts_go_to_all_sessions_of_the_publishing_site(realm: Realm) -> None:
    team = await realm.team()
    other = await realm.resumed(team.coordinator, team.project, offset="new")
    ok = await team.co.publish(team.project, receipts=True)
    await team.pa.ack(team.project, ok["offset"])
    for wire in (team.co, other):
        assert (await wire.expect("receipt"))["offset"] == ok["offset"]


async def test_a_participant_gets_receipts_of_the_coordinator(realm: Realm) -> None:
    team = await realm.team()
    ok = await team.pa.publish(team.project, kind="update", receipts=True)
    await team.co.ack(team.project, ok["offset"])
    assert (await team.pa.expect("receipt", offset=ok["offset"]))["site"] == team.coordinator.uid


async def from_of(realm: Realm, team: Team) -> int:
    """Where a new session of the participant goes on from by its stored cursor."""
    wire = await realm.session(team.participant)
    described: dict[str, Any] = wire.welcome["projects"][str(team.project)]
    await wire.close()
    from_ = described["from"]
    assert isinstance(from_, int)
    return from_


async def acked(team: Team, *offsets: int) -> None:
    for offset in offsets:
        await team.pa.ack(team.project, offset)
    await team.pa.is_alive()


async def test_an_ack_has_no_answer(realm: Realm) -> None:
    team = await realm.team()
    await team.pa.send(type="ack", ref="ignored", project=team.project, offset=team.head)
    await team.pa.call("projects.list")
    assert not [frame for frame in team.pa.unclaimed if frame["type"] in ("ok", "error")]


async def test_an_ack_never_moves_the_cursor_back(realm: Realm) -> None:
    team = await realm.team()
    last = (await team.co.publish(team.project))["offset"]
    await acked(team, last, last - 1)
    assert await from_of(realm, team) == last


async def test_an_ack_past_the_head_moves_the_cursor_to_the_head_only(realm: Realm) -> None:
    team = await realm.team()
    last = (await team.co.publish(team.project))["offset"]
    await acked(team, last + 1000)
    assert await from_of(realm, team) == last
    later = await team.co.publish(team.project)
    wire = await realm.session(team.participant)
    await wire.expect("event", offset=later["offset"])


async def test_an_ack_by_one_session_is_the_sites(realm: Realm) -> None:
    team = await realm.team()
    other = await realm.session(team.participant)
    last = (await team.co.publish(team.project))["offset"]
    await other.ack(team.project, last)
    await other.is_alive()
    assert await from_of(realm, team) == last


async def test_an_ack_in_a_foreign_project_tells_as_little_as_in_an_absent_one(realm: Realm) -> None:
    team = await realm.team()

    async def heard(project: int) -> list[tuple[str, str | None]]:
        wire = await realm.session(await realm.site())
        await wire.ack(project, 1)
        await wire.is_alive()
        return [(frame["type"], frame.get("code")) for frame in wire.unclaimed]

    assert await heard(team.project) == await heard(2**40)
