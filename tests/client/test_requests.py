"""Publishing and calling: framing, answers, what is sent again and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from relay.client import Closed, Interrupted, Limits, Published, RelayError, Site
from relay.protocol.errors import ErrorCode
from tests.client.fake import QUICK, TIMEOUT_S, FakeRelay, Frame, Peer, event

REPEATED: list[tuple[str, Callable[[Site], Any], object]] = [
    ("projects.list", lambda site: site.projects.list(), []),
    ("projects.get", lambda site: site.projects.get(12), {}),
    ("invitations.list", lambda site: site.invitations.list(12), []),
    ("requests.list", lambda site: site.requests.list(12), []),
    ("members.barred", lambda site: site.members.barred(12), []),
    ("projects.participants", lambda site: site.projects.participants(12), []),
    ("runs.list", lambda site: site.runs.list(12), []),
    ("progress.get", lambda site: site.progress(12, 1), []),
    ("cursors.list", lambda site: site.cursors(12), []),
    ("receipts.get", lambda site: site.receipts(12, 5), {}),
    ("history.read", lambda site: site.history(12), []),
    ("keys.get", lambda site: site.keys.get(12), {}),
    ("keys.put", lambda site: site.keys.put({"a": "b"}), {}),
]
CHANGES: list[tuple[str, Callable[[Site], Any]]] = [
    ("projects.create", lambda site: site.projects.create("name")),
    ("projects.join", lambda site: site.projects.join("name")),
    ("projects.leave", lambda site: site.projects.leave(12)),
    ("projects.update", lambda site: site.projects.update(12, name="n")),
    ("projects.transfer", lambda site: site.projects.transfer(12, "u")),
    ("invitations.create", lambda site: site.invitations.create(12)),
    ("invitations.revoke", lambda site: site.invitations.revoke(12, 3)),
    ("requests.approve", lambda site: site.requests.approve(12, "u")),
    ("requests.reject", lambda site: site.requests.reject(12, "u")),
    ("members.remove", lambda site: site.members.remove(12, "u")),
    ("members.unbar", lambda site: site.members.unbar(12, "u")),
    ("runs.start", lambda site: site.runs.start(12)),
    ("runs.stop", lambda site: site.runs.stop(run=1)),
    ("runs.restart", lambda site: site.runs.restart(project=12, batch=1)),
    ("runs.status", lambda site: site.runs.status(1, "Running")),
]


NOTHING = {
    "projects.leave",
    "projects.transfer",
    "keys.put",
    "invitations.revoke",
    "requests.reject",
    "members.remove",
    "members.unbar",
}
"""Methods whose result says nothing."""


# Frames and answers


async def test_a_publish_is_framed_as_the_protocol_says(fake: FakeRelay) -> None:
    async with fake.site() as site:
        peer = fake.peers[0]
        everything: dict[str, Any] = {"to": ["a", "b"], "run": 7, "transient": False, "receipts": True}
        given = UUID("0B6C0000-0000-4000-8000-000000000001")
        publishing = asyncio.create_task(site.publish(12, "update", data={"x": [1]}, id=given, **everything))
        frame = await peer.receive()
        assert frame == {
            "type": "publish",
            "ref": frame["ref"],
            "id": str(given),
            "project": 12,
            "kind": "update",
            "data": {"x": [1]},
            **everything,
        }
        await peer.ok(frame, offset=5, duplicate=True)
        assert await publishing == Published(offset=5, duplicate=True)


async def test_what_is_left_out_is_not_sent_and_no_data_is_null(fake: FakeRelay) -> None:
    async with fake.site() as site:
        publishing = asyncio.create_task(site.publish(12, "message"))
        frame = await fake.peers[0].receive()
        assert set(frame) == {"type", "ref", "id", "project", "kind", "data"}
        assert frame["data"] is None
        await fake.peers[0].ok(frame)
        assert await publishing == Published(offset=None, duplicate=False)


async def test_a_payload_goes_as_a_binary_frame(fake: FakeRelay) -> None:
    async with fake.site() as site:
        publishing = asyncio.create_task(site.publish(12, "update", payload=b"\x00weights"))
        frame = await fake.peers[0].receive()
        assert frame["payload"] == b"\x00weights"
        assert "data" not in frame
        await fake.peers[0].ok(frame, offset=1)
        await publishing


async def test_data_and_payload_at_once_is_a_mistake(fake: FakeRelay) -> None:
    async with fake.site() as site:
        with pytest.raises(ValueError, match="either data or a payload"):
            await site.publish(12, "update", data=1, payload=b"1")


async def test_every_event_has_an_id_of_its_own_and_it_is_a_uuid(fake: FakeRelay) -> None:
    ids = set()
    async with fake.site() as site:
        for _ in range(3):
            publishing = asyncio.create_task(site.publish(12, "message"))
            frame = await fake.peers[0].receive()
            await fake.peers[0].ok(frame, offset=1)
            await publishing
            uuid = UUID(frame["id"])
            assert (str(uuid), uuid.version, uuid.variant) == (frame["id"], 8, "specified in RFC 4122")
            ids.add(frame["id"])
    assert len(ids) == 3


async def test_answers_may_come_out_of_order(fake: FakeRelay) -> None:
    async with fake.site() as site:
        peer = fake.peers[0]
        publishing = [asyncio.create_task(site.publish(12, "message", data=number)) for number in range(3)]
        frames = [await peer.receive() for _ in range(3)]
        for frame in reversed(frames):
            await peer.ok(frame, offset=frame["data"] + 100)
        assert [(await done).offset for done in publishing] == [100, 101, 102]


async def test_an_error_is_raised_with_its_code_and_details(fake: FakeRelay) -> None:
    async with fake.site() as site:
        peer = fake.peers[0]
        moving = asyncio.create_task(site.runs.status(1, "Running"))
        await peer.refuse(await peer.receive(), "conflict", details={"from": "Standby", "to": "Running"})
        with pytest.raises(RelayError) as caught:
            await moving
        assert caught.value.code is ErrorCode.CONFLICT
        assert caught.value.details == {"from": "Standby", "to": "Running"}
        moving = asyncio.create_task(site.runs.status(1, "Running"))
        await peer.refuse(await peer.receive(), "of_a_later_relay")
        with pytest.raises(RelayError) as caught:
            await moving
        assert caught.value.code == "of_a_later_relay"


async def test_what_is_too_large_is_not_sent_and_the_session_goes_on(fake: FakeRelay) -> None:
    entering = asyncio.create_task((site := fake.new_site()).__aenter__())
    peer = await fake.welcome(limits={"frame": 500, "inline": 1000})
    await entering
    for too_large in ({"data": "x" * 500}, {"payload": b"x" * 1001}):
        with pytest.raises(RelayError) as caught:
            await site.publish(12, "update", **too_large)
        assert caught.value.code is ErrorCode.TOO_LARGE
    publishing = asyncio.create_task(site.publish(12, "update", payload=b"x" * 1000))
    await peer.ok(await peer.receive(), offset=1)
    await publishing
    await site.__aexit__(None, None, None)


async def test_what_is_no_json_is_the_callers_mistake_alone(fake: FakeRelay) -> None:
    async with fake.site() as site:
        with pytest.raises(TypeError):
            await site.publish(12, "message", data=object())
        publishing = asyncio.create_task(site.publish(12, "message"))
        await fake.peers[0].ok(await fake.peers[0].receive(), offset=1)
        await publishing


# The methods


async def answer(peer: Peer, calling: asyncio.Task[Any], result: Any) -> tuple[Frame, Any]:
    frame = await peer.expect("call")
    await peer.ok(frame, result=result)
    return {"method": frame["method"], "params": frame["params"]}, await calling


@pytest.mark.parametrize(
    ("call", "method", "params"),
    [
        (lambda s: s.projects.create("n"), "projects.create", {"name": "n", "description": "", "tasks": []}),
        (lambda s: s.projects.join("n"), "projects.join", {"name": "n", "notes": ""}),
        (lambda s: s.projects.join(12, notes="x"), "projects.join", {"project": 12, "notes": "x"}),
        (lambda s: s.projects.join(code="sfi_c"), "projects.join", {"code": "sfi_c", "notes": ""}),
        (lambda s: s.projects.leave(12), "projects.leave", {"project": 12}),
        (lambda s: s.projects.get(12), "projects.get", {"project": 12}),
        (
            lambda s: s.projects.update(12, tasks=({"seq": 1},), join_policy="approval"),
            "projects.update",
            {"project": 12, "tasks": [{"seq": 1}], "join_policy": "approval"},
        ),
        (lambda s: s.projects.transfer(12, "u"), "projects.transfer", {"project": 12, "site": "u"}),
        (
            lambda s: s.invitations.create(12, label="l", expires_in=60),
            "invitations.create",
            {"project": 12, "label": "l", "expires_in": 60},
        ),
        (lambda s: s.invitations.list(12), "invitations.list", {"project": 12}),
        (lambda s: s.invitations.revoke(12, 3), "invitations.revoke", {"project": 12, "invitation": 3}),
        (lambda s: s.requests.list(12), "requests.list", {"project": 12}),
        (lambda s: s.requests.approve(12, "u"), "requests.approve", {"project": 12, "site": "u"}),
        (lambda s: s.requests.reject(12, "u"), "requests.reject", {"project": 12, "site": "u"}),
        (lambda s: s.members.remove(12, "u"), "members.remove", {"project": 12, "site": "u"}),
        (lambda s: s.members.barred(12), "members.barred", {"project": 12}),
        (lambda s: s.members.unbar(12, "u"), "members.unbar", {"project": 12, "site": "u"}),
        (lambda s: s.projects.list(), "projects.list", {}),
        (lambda s: s.projects.participants(12), "projects.participants", {"project": 12}),
        (lambda s: s.runs.start(12), "runs.start", {"project": 12}),
        (
            lambda s: s.runs.start(12, policy={"min_sites": 2}),
            "runs.start",
            {"project": 12, "policy": {"min_sites": 2}},
        ),
        (lambda s: s.runs.stop(run=5), "runs.stop", {"run": 5}),
        (lambda s: s.runs.restart(project=12, batch=1), "runs.restart", {"project": 12, "batch": 1}),
        (lambda s: s.runs.status(5, "Running"), "runs.status", {"run": 5, "status": "Running"}),
        (
            lambda s: s.runs.status(5, 2, increase_round=True, update_all=True),
            "runs.status",
            {"run": 5, "status": 2, "increase_round": True, "update_all": True},
        ),
        (lambda s: s.runs.list(12), "runs.list", {"project": 12}),
        (lambda s: s.runs.list(12, batch=1, active=False), "runs.list", {"project": 12, "batch": 1, "active": False}),
        (lambda s: s.progress(12, 1), "progress.get", {"project": 12, "batch": 1}),
        (lambda s: s.cursors(12), "cursors.list", {"project": 12}),
        (lambda s: s.receipts(12, 5), "receipts.get", {"project": 12, "offset": 5}),
        (lambda s: s.keys.put({"hpke": "AAAA"}), "keys.put", {"keys": {"hpke": "AAAA"}}),
        (lambda s: s.keys.get(12), "keys.get", {"project": 12}),
    ],
)
async def test_each_method_sends_its_parameters_and_returns_the_result(
    fake: FakeRelay, call: Any, method: str, params: Frame
) -> None:
    async with fake.site() as site:
        result = {"the": "result"}
        sent, returned = await answer(fake.peers[0], asyncio.create_task(call(site)), result)
        assert sent == {"method": method, "params": params}
        assert returned == (None if method in NOTHING else result)


async def test_history_comes_as_events(fake: FakeRelay) -> None:
    async with fake.site() as site:
        binary = {name: value for name, value in event(2).items() if name != "data"}
        found = [event(1, data={"x": 1}), binary | {"payload": "AAE="}, binary | {"payload": None, "size": 10**9}]
        calling = asyncio.create_task(site.history(12, after=0, limit=3, kind="update"))
        sent, events = await answer(fake.peers[0], calling, found)
        assert sent["params"] == {"project": 12, "after": 0, "limit": 3, "kind": "update"}
        assert [(one.data, one.payload, one.size) for one in events] == [
            ({"x": 1}, None, None),
            (None, b"\x00\x01", None),
            (None, None, 10**9),
        ]


# Lost connections


async def test_a_publish_without_an_answer_is_sent_again_with_the_same_id(fake: FakeRelay) -> None:
    async with fake.site() as site:
        publishing = asyncio.create_task(site.publish(12, "update", payload=b"weights"))
        first = await fake.peers[0].receive()
        fake.peers[0].drop()
        peer = await fake.welcome()
        second = await peer.receive()
        assert second == first
        await peer.ok(second, offset=9, duplicate=True)
        assert await publishing == Published(offset=9, duplicate=True)


async def test_concurrent_publishes_keep_their_order_when_sent_again(fake: FakeRelay) -> None:
    async with fake.site() as site:
        publishing = [asyncio.create_task(site.publish(12, "message", data=number)) for number in range(8)]
        peer = fake.peers[0]
        frames = [await peer.receive() for _ in range(8)]
        assert [frame["data"] for frame in frames] == list(range(8))
        await peer.ok(frames[2], offset=1)
        await peer.ok(frames[0], offset=2)
        await publishing[0]
        peer.drop()
        publishing.append(asyncio.create_task(site.publish(12, "message", data=8)))
        for attempt in ("first", "last"):
            peer = await fake.welcome()
            again = [await peer.receive() for _ in range(7)]
            assert [frame["data"] for frame in again] == [1, 3, 4, 5, 6, 7, 8]
            assert [frame["id"] for frame in again[:6]] == [frames[number]["id"] for number in (1, 3, 4, 5, 6, 7)]
            if attempt == "first":
                peer.drop()
        for frame in again:
            await peer.ok(frame, offset=frame["data"] + 100)
        offsets = [(await done).offset for done in publishing]
        assert offsets == [2, 101, 1, 103, 104, 105, 106, 107, 108]


async def test_a_publish_made_while_disconnected_waits_for_the_connection(fake: FakeRelay) -> None:
    async with fake.site() as site:
        fake.peers[0].drop()
        peer = await fake.accept()
        publishing = asyncio.create_task(site.publish(12, "message", data="waited"))
        await peer.welcome()
        frame = await peer.receive()
        assert frame["data"] == "waited"
        await peer.ok(frame, offset=1)
        await publishing


async def test_a_publish_that_its_caller_gave_up_is_not_sent_again(fake: FakeRelay) -> None:
    async with fake.site() as site:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await site.publish(12, "message", data="given up")
        late = await fake.peers[0].receive()
        await fake.peers[0].ok(late, offset=1)  # nobody waits for it: no harm
        fake.peers[0].drop()
        publishing = asyncio.create_task(site.publish(12, "message", data="next"))
        peer = await fake.welcome()
        frame = await peer.receive()
        assert frame["data"] == "next"
        await peer.ok(frame, offset=1)
        await publishing


async def test_no_answer_of_an_old_connection_is_taken_for_one_of_the_new(fake: FakeRelay) -> None:
    async with fake.site() as site:
        publishing = asyncio.create_task(site.publish(12, "message"))
        first = await fake.peers[0].receive()
        fake.peers[0].drop()
        calling = asyncio.create_task(site.runs.list(12))
        peer = await fake.welcome()
        assert (await peer.receive())["ref"] == first["ref"]
        call = await peer.receive()
        assert call["ref"] != first["ref"]
        await peer.ok(call, result=[])
        assert await calling == []
        await peer.ok(first, offset=1)
        await publishing


@pytest.mark.parametrize(("method", "call", "result"), REPEATED, ids=[row[0] for row in REPEATED])
async def test_a_call_that_may_be_repeated_is_sent_again(fake: FakeRelay, method: str, call: Any, result: Any) -> None:
    async with fake.site() as site:
        calling = asyncio.create_task(call(site))
        first = await fake.peers[0].receive()
        assert first["method"] == method
        fake.peers[0].drop()
        peer = await fake.welcome()
        again = await peer.receive()
        assert again == first
        await peer.ok(again, result=result)
        await calling


@pytest.mark.parametrize(("method", "call"), CHANGES, ids=[row[0] for row in CHANGES])
async def test_a_call_that_changes_something_is_sent_once(fake: FakeRelay, method: str, call: Any) -> None:
    async with fake.site() as site:
        calling = asyncio.create_task(call(site))
        assert (await fake.peers[0].receive())["method"] == method
        fake.peers[0].drop()
        with pytest.raises(Interrupted, match=method) as caught:
            await calling
        assert caught.value.method == method
        peer = await fake.welcome()
        marker = asyncio.create_task(site.publish(12, "message"))
        frame = await peer.receive()
        assert frame["type"] == "publish"
        await peer.ok(frame, offset=1)
        await marker


async def test_a_change_that_was_not_sent_yet_just_waits(fake: FakeRelay) -> None:
    async with fake.site() as site:
        fake.peers[0].drop()
        peer = await fake.accept()
        starting = asyncio.create_task(site.runs.start(12))
        await asyncio.sleep(0)
        await peer.hear_hello()
        peer.drop()
        peer = await fake.welcome()
        frame = await peer.receive()
        assert frame["method"] == "runs.start"
        await peer.ok(frame, result={"batch": 1, "runs": []})
        assert (await starting)["batch"] == 1


# Bounds


async def test_beyond_the_requests_in_flight_the_caller_waits(fake: FakeRelay) -> None:
    limits = Limits(in_flight=2, connect_s=TIMEOUT_S)
    async with fake.site(limits=limits) as site:
        peer = fake.peers[0]
        publishing = [asyncio.create_task(site.publish(12, "message", data=number)) for number in range(4)]
        frames = [await peer.receive(), await peer.receive()]
        await peer.send(event(1))
        await anext(site.events())  # the client has had every chance to send more
        assert await nothing_more(peer)
        await peer.ok(frames[0], offset=1)
        assert (await peer.receive())["data"] == 2
        assert await nothing_more(peer)
        for task in publishing:
            task.cancel()
        await asyncio.gather(*publishing, return_exceptions=True)


async def nothing_more(peer: Peer) -> bool:
    """Whether the client has sent nothing else: a ping comes back, and no frame came before it."""
    async with asyncio.timeout(TIMEOUT_S):
        await (await peer.connection.ping())
    try:
        async with asyncio.timeout(0.02):
            await peer.connection.recv()
    except TimeoutError:
        return True
    return False


async def test_who_gives_up_makes_room_for_the_next(fake: FakeRelay) -> None:
    async with fake.site(limits=Limits(in_flight=1, connect_s=TIMEOUT_S)) as site:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await site.publish(12, "message", data=1)
        publishing = asyncio.create_task(site.publish(12, "message", data=2))
        peer = fake.peers[0]
        frames = [await peer.receive(), await peer.receive()]
        assert [frame["data"] for frame in frames] == [1, 2]
        await peer.ok(frames[1], offset=1)
        await publishing


async def test_who_waits_for_room_is_told_of_the_end(fake: FakeRelay) -> None:
    async with fake.site(limits=Limits(in_flight=1, connect_s=TIMEOUT_S)) as site:
        publishing = [asyncio.create_task(site.publish(12, "message")) for _ in range(2)]
        await fake.peers[0].receive()
    for result in await asyncio.gather(*publishing, return_exceptions=True):
        assert isinstance(result, Closed)


async def test_many_publishes_over_many_lost_connections_arrive_once_each_in_order(fake: FakeRelay) -> None:
    """A relay that commits, and loses the connection before every seventh answer."""
    total = 200
    journal: dict[str, int] = {}
    order: list[int] = []

    async def relay() -> None:
        peer = fake.peers[0]
        while len(journal) < total:
            frame = await peer.receive()
            duplicate = frame["id"] in journal
            if not duplicate:
                journal[frame["id"]] = len(journal) + 1
                order.append(frame["data"])
            if len(journal) % 7 == 0 and not duplicate:
                peer.drop()
                peer = await fake.welcome()
            else:
                await peer.ok(frame, offset=journal[frame["id"]], duplicate=duplicate)
        while True:
            frame = await peer.receive()
            await peer.ok(frame, offset=journal[frame["id"]], duplicate=True)

    async with fake.site(limits=QUICK) as site:
        serving = asyncio.create_task(relay())
        publishing = [asyncio.create_task(site.publish(12, "message", data=number)) for number in range(total)]
        published = await asyncio.gather(*publishing)
        serving.cancel()
    assert order == list(range(total))
    assert [one.offset for one in published] == list(range(1, total + 1))
    assert any(one.duplicate for one in published)


def test_every_method_is_either_repeated_or_told_to_be_interrupted() -> None:
    from relay.client.requests import REPEATABLE

    assert {row[0] for row in REPEATED} | {"publish", "refresh"} == REPEATABLE
    assert not {row[0] for row in CHANGES} & REPEATABLE


def test_the_methods_groups_cover_the_protocol() -> None:
    from relay.core.calls import METHODS

    assert {row[0] for row in REPEATED} | {row[0] for row in CHANGES} == set(METHODS)
