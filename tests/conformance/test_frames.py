"""Section 3 of docs/protocol.md: text and binary frames, refs, bad frames, limits."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.conformance.realm import Realm, Team, unique
from tests.conformance.wire import Wire, binary_frame, events, new_id, publication

NOT_FRAMES = {
    "not JSON": "{not json",
    "empty": "",
    "two objects": '{"type":"ack"} {"type":"ack"}',
    "an array": '[{"type":"hello"}]',
    "a string": '"hello"',
    "a number": "42",
    "null": "null",
    "NaN is not JSON": '{"type":"publish","data":NaN}',
}

WRONG_TYPES: dict[str, dict[str, Any]] = {
    "type is a number": {"type": 7},
    "call: method is a number": {"type": "call", "method": 7, "params": {}},
    "call: params is an array": {"type": "call", "method": "projects.list", "params": []},
    "publish: id is a number": {"type": "publish", "id": 7, "project": 1, "kind": "message", "data": 1},
    "publish: project is a string": {"type": "publish", "id": new_id(), "project": "1", "kind": "message", "data": 1},
    "publish: kind is an array": {"type": "publish", "id": new_id(), "project": 1, "kind": [], "data": 1},
    "publish: to is a number": {"type": "publish", "id": new_id(), "project": 1, "kind": "log", "to": 5, "data": 1},
    "publish: to holds a number": {
        "type": "publish",
        "id": new_id(),
        "project": 1,
        "kind": "log",
        "to": [5],
        "data": 1,
    },
    "publish: run is a string": {"type": "publish", "id": new_id(), "project": 1, "kind": "log", "run": "5", "data": 1},
    "publish: transient is a number": publication(1, {"transient": 1}),
    "publish: receipts is a string": publication(1, {"receipts": "yes"}),
    "refresh: token is a number": {"type": "refresh", "token": 5},
}

UNREADABLE_BINARY = {
    "no bytes at all": b"",
    "a truncated length": b"\x00\x00\x00",
    "a header of no bytes": struct.pack(">I", 0) + b"payload",
    "a header longer than the frame": struct.pack(">I", 1000) + b'{"type":"publish"}',
    "a header length of 4 GiB": struct.pack(">I", 0xFFFFFFFF) + b'{"type":"publish"}',
    "a header cut short": struct.pack(">I", 10) + json.dumps({"type": "publish", "kind": "update"}).encode(),
    "a header that is not JSON": struct.pack(">I", 4) + b"\xff\xfe\x00\x01payload",
    "a header that is an array": struct.pack(">I", 2) + b"[]payload",
}


async def alone(realm: Realm) -> Wire:
    """A session of a site that is in no project."""
    return await realm.session(await realm.site())


# Refs and unknown things


@pytest.mark.parametrize("ref", ["a", "", "a ref with \u00fcnicode \U0001f41f", "7", 7, 0, -1, 2**53 - 1])
async def test_ref_is_echoed_exactly(realm: Realm, ref: str | int) -> None:
    wire = await alone(realm)
    await wire.send(type="call", ref=ref, method="projects.list", params={})
    answer = await wire.next_frame()
    assert answer["type"] == "ok"
    assert answer["ref"] == ref
    assert type(answer["ref"]) is type(ref)


async def test_every_frame_with_a_ref_gets_exactly_one_answer(realm: Realm) -> None:
    team = await realm.team()
    await team.co.send(**publication(team.project, {"ref": "p"}))
    await team.co.send(type="call", ref="c", method="projects.list", params={})
    await team.co.send(type="call", ref="e", method="no.such", params={})
    await team.co.send(type="nonsense", ref="u")
    answers = [await team.co.answer(ref) for ref in ("p", "c", "e", "u")]
    assert [answer["type"] for answer in answers] == ["ok", "ok", "error", "error"]
    await team.co.is_alive()
    assert not [frame for frame in team.co.unclaimed if frame["type"] in ("ok", "error")]


async def test_a_publish_without_ref_is_answered_without_ref(realm: Realm) -> None:
    team = await realm.team()
    await team.co.send(**publication(team.project, {}))
    answer = await team.co.expect("ok")
    assert "ref" not in answer


async def test_a_publish_with_ref_but_a_refusal_carries_the_ref(realm: Realm) -> None:
    team = await realm.team()
    error = await team.co.publish_refused(team.project, ref="mine", run=2**40)
    assert error["ref"] == "mine"


async def test_unknown_fields_are_ignored(realm: Realm) -> None:
    team = await realm.team()
    await team.co.publish(team.project, data="x", colour="red", nested={"a": [1]})
    event = await team.pa.expect("event", kind="message", data="x")
    assert "colour" not in event
    answer = await team.co.ok(type="call", method="projects.list", params={}, colour="red")
    assert answer["result"]


async def test_an_unknown_type_gets_unknown_type_with_its_ref_and_the_session_lives(realm: Realm) -> None:
    wire = await alone(realm)
    error = await wire.error(type="subscribe", ref="r")
    assert error["code"] == "unknown_type"
    assert await wire.is_alive()


async def test_unknown_types_are_not_bad_frames(realm: Realm) -> None:
    wire = await alone(realm)
    for _ in range(12):
        assert (await wire.error(type="subscribe"))["code"] == "unknown_type"
    assert await wire.is_alive()


async def test_an_unknown_method_gets_unknown_method(realm: Realm) -> None:
    wire = await alone(realm)
    assert (await wire.refused("projects.destroy"))["code"] == "unknown_method"


# Bad frames


@pytest.mark.parametrize("text", NOT_FRAMES.values(), ids=NOT_FRAMES.keys())
async def test_what_is_not_a_json_object_is_a_bad_frame(realm: Realm, text: str) -> None:
    wire = await alone(realm)
    await wire.send_text(text)
    error = await wire.expect("error")
    assert error["code"] == "bad_frame"
    assert error.get("ref") is None
    assert await wire.is_alive()


@pytest.mark.parametrize("frame", WRONG_TYPES.values(), ids=WRONG_TYPES.keys())
async def test_a_wrong_type_in_a_known_field_is_a_bad_frame_with_its_ref(realm: Realm, frame: dict[str, Any]) -> None:
    wire = await alone(realm)
    await wire.send(**frame | {"ref": "r"})
    error = await wire.expect("error")
    assert error["code"] == "bad_frame"
    assert error["ref"] == "r"
    assert await wire.is_alive()


@pytest.mark.parametrize("ref", [[1], {"a": 1}, 1.5])
async def test_a_ref_that_is_no_string_or_integer_is_a_bad_frame(realm: Realm, ref: object) -> None:
    wire = await alone(realm)
    await wire.send(type="call", ref=ref, method="projects.list", params={})
    error = await wire.expect("error")
    assert error["code"] == "bad_frame"
    assert error.get("ref") is None


async def test_an_ack_with_a_wrong_type_is_a_bad_frame(realm: Realm) -> None:
    team = await realm.team()
    await team.pa.send(type="ack", project=team.project, offset="7")
    assert (await team.pa.expect("error"))["code"] == "bad_frame"
    assert await team.pa.is_alive()


@pytest.mark.parametrize("data", UNREADABLE_BINARY.values(), ids=UNREADABLE_BINARY.keys())
async def test_an_unreadable_binary_frame_is_a_bad_frame(realm: Realm, data: bytes) -> None:
    wire = await alone(realm)
    await wire.send_bytes(data)
    assert (await wire.expect("error"))["code"] == "bad_frame"
    assert await wire.is_alive()


async def test_a_binary_frame_that_is_not_a_publish_is_refused_and_does_nothing(realm: Realm) -> None:
    wire = await alone(realm)
    await wire.send_binary(b"", type="call", ref="b", method="projects.create", params={"name": unique("p")})
    error = await wire.expect("error")
    assert error["code"] in ("bad_frame", "invalid")
    assert await wire.call("projects.list") == []


async def test_the_ninth_bad_frame_leaves_the_session_open_and_the_tenth_closes_4400(realm: Realm) -> None:
    wire = await alone(realm)
    for _ in range(9):
        await wire.send_text("nonsense")
        assert (await wire.expect("error"))["code"] == "bad_frame"
    assert await wire.is_alive()
    await wire.send_text("nonsense")
    assert await wire.closed() == 4400


async def test_bad_binary_and_bad_text_frames_count_together(realm: Realm) -> None:
    wire = await alone(realm)
    for _ in range(5):
        await wire.send_text("nonsense")
        await wire.send_bytes(b"\x00")
    assert await wire.closed() == 4400


async def test_deeply_nested_json_harms_nobody(realm: Realm) -> None:
    wire = await alone(realm)
    depth = 100_000
    await wire.send_text('{"type":"call","ref":1,"method":"projects.list","params":' + "[" * depth + "]" * depth + "}")
    await wire.expect("error")
    assert await wire.is_alive()


# Binary frames


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", bytes(range(256)) * 300, b'{"type":"error"}'], ids=["empty", "NUL", "all bytes", "JSON"]
)
async def test_a_binary_publish_arrives_as_a_binary_event_with_the_same_bytes(realm: Realm, payload: bytes) -> None:
    team = await realm.team()
    id_ = new_id()
    ok = await team.co.publish_binary(team.project, payload, kind="update", id=id_)
    event = await team.pa.expect("event", kind="update")
    assert event["payload"] == payload
    assert "data" not in event
    assert (event["id"], event["offset"], event["from"]) == (id_, ok["offset"], team.coordinator.uid)


async def test_a_binary_event_is_binary_in_a_replay_too(realm: Realm) -> None:
    team = await realm.team()
    payload = os.urandom(5000)
    ok = await team.pa.publish_binary(team.project, payload, kind="update")
    again = await realm.resumed(team.coordinator, team.project, offset=team.head)
    event = await again.expect("event", offset=ok["offset"])
    assert event["payload"] == payload


async def test_text_and_binary_events_keep_their_order(realm: Realm) -> None:
    team = await realm.team()
    for number in range(6):
        if number % 2:
            await team.co.publish_binary(team.project, bytes([number]))
        else:
            await team.co.publish(team.project, data=number)
    received = events(await team.pa.until("event", payload=b"\x05"))
    assert [event.get("data", event.get("payload")) for event in received] == [0, b"\x01", 2, b"\x03", 4, b"\x05"]


async def test_a_binary_publish_is_idempotent_by_its_id(realm: Realm) -> None:
    team = await realm.team()
    id_ = new_id()
    first = await team.co.publish_binary(team.project, b"one", id=id_)
    again = await team.co.publish_binary(team.project, b"one", id=id_)
    assert (again["offset"], again["duplicate"]) == (first["offset"], True)


@pytest.mark.parametrize(
    "data",
    [
        None,
        False,
        0,
        -1.5,
        1e300,
        9007199254740993,
        2**63,
        '\u0000 \u2028 \U0001f41f "\\',
        [],
        {},
        {"": [None, {"a": {"b": [1, "2", 3.25]}}]},
        {"type": "error", "ref": 1, "project": 999},
    ],
    ids=repr,
)
async def test_data_is_opaque_and_arrives_as_it_was_sent(realm: Realm, data: object) -> None:
    team = await realm.team()
    ok = await team.co.publish(team.project, data=data)
    event = await team.pa.expect("event", offset=ok["offset"])
    assert event["data"] == data
    assert type(event["data"]) is type(data)


# Limits


async def test_the_default_limits_are_announced(realm: Realm) -> None:
    wire = await alone(realm)
    assert wire.welcome["limits"] == {"frame": 1024 * 1024, "inline": 16 * 1024 * 1024}


async def test_a_text_frame_of_just_the_limit_is_served(realm: Realm) -> None:
    team = await realm.team()
    limit = team.co.welcome["limits"]["frame"]
    text = json.dumps(publication(team.project, {"ref": "big", "data": ""}))
    padding = "x" * (limit - len(text))
    await team.co.send_text(text.replace('"data": ""', f'"data": "{padding}"'))
    assert (await team.co.answer("big"))["type"] == "ok"
    event = await team.pa.expect("event", kind="message")
    assert event["data"] == padding


async def test_a_text_frame_past_the_limit_gets_too_large_or_close_1009(realm: Realm) -> None:
    team = await realm.team()
    limit = team.co.welcome["limits"]["frame"]
    await team.co.send(**publication(team.project, {"ref": "big", "data": "x" * (limit + 1)}))
    await assert_too_large(team.co)
    await assert_nothing_was_published(realm, team)


async def test_a_payload_of_just_the_limit_is_served(realm: Realm) -> None:
    team = await realm.team()
    payload = os.urandom(1024) * (team.co.welcome["limits"]["inline"] // 1024)
    await team.co.publish_binary(team.project, payload, kind="update")
    event = await team.pa.expect("event", kind="update")
    assert event["payload"] == payload


async def test_a_payload_past_the_limit_gets_too_large_or_close_1009(realm: Realm) -> None:
    team = await realm.team()
    payload = bytes(team.co.welcome["limits"]["inline"] + 1)
    with contextlib.suppress(ConnectionClosed):
        await team.co.send_bytes(binary_frame(publication(team.project, {"ref": "big"}, data=False), payload))
    await assert_too_large(team.co)
    await assert_nothing_was_published(realm, team)


async def test_a_frame_far_past_any_limit_closes_1009_or_gets_too_large(realm: Realm) -> None:
    wire = await alone(realm)
    with contextlib.suppress(ConnectionClosed):  # the relay need not read it to its end
        await wire.send_bytes(binary_frame({"type": "publish", "ref": "big"}, bytes(40 * 1024 * 1024)))
    await assert_too_large(wire)


async def assert_too_large(wire: Wire) -> None:
    """Either the error, and the session lives, or the close."""
    try:
        error = await wire.expect("error")
    except AssertionError:
        assert await wire.closed() == 1009
    else:
        assert error["code"] == "too_large"
        assert error.get("ref") in ("big", None)
        assert await wire.is_alive()


async def assert_nothing_was_published(realm: Realm, team: Team) -> None:
    witness = await realm.session(team.coordinator)
    marker = await witness.publish(team.project, data="marker")
    assert marker["offset"] == team.head + 1
