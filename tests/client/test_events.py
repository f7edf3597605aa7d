"""Events to the application: order, no repeat, no gap, acknowledgements, backpressure, resume."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from websockets.exceptions import ConnectionClosed

from relay.client import Closed, Event, Limits, Published, Site
from tests.client.fake import EPOCH, QUICK, TIMEOUT_S, FakeRelay, Frame, Peer, event, project, until

ONE = "00000000-0000-4000-8000-000000000001"


async def take(site: Site, count: int) -> list[Event]:
    """The next events; the last of them is in hand, and not processed yet."""
    events = site.events()
    async with asyncio.timeout(TIMEOUT_S):
        return [await anext(events) for _ in range(count)]


async def offsets(site: Site, count: int) -> list[int | None]:
    return [one.offset for one in await take(site, count)]


# What an event looks like


async def test_an_event_has_its_fields(fake: FakeRelay) -> None:
    async with fake.site() as site:
        await fake.peers[0].send(event(1, kind="command", run=7, batch=2, data={"op": "train"}, **{"from": "uid"}))
        (one,) = await take(site, 1)
        assert one == Event(
            project=12,
            offset=1,
            id=ONE,
            kind="command",
            sender="uid",
            run=7,
            batch=2,
            at=one.at,
            data={"op": "train"},
        )
        assert one.at.isoformat() == "2026-11-24T10:00:00.123456+00:00"


async def test_a_binary_event_has_its_payload_and_does_not_print_it(fake: FakeRelay) -> None:
    async with fake.site() as site:
        header = {name: value for name, value in event(1).items() if name != "data"}
        await fake.peers[0].send_binary(header, b"weights" * 100)
        (one,) = await take(site, 1)
        assert (one.data, one.payload) == (None, b"weights" * 100)
        assert "weights" not in repr(one)


async def test_a_transient_event_has_no_offset_and_is_not_acknowledged(fake: FakeRelay) -> None:
    async with fake.site() as site:
        transient = event(None, kind="progress")
        del transient["offset"]
        await fake.peers[0].send(transient, event(1))
        assert await offsets(site, 2) == [None, 1]
    assert await acks(fake.peers[0]) == [(12, 1)]


async def acks(peer: Peer) -> list[tuple[int, int]]:
    """All acknowledgements up to the close."""
    found = []
    try:
        while True:
            frame = await peer.expect("ack")
            found.append((frame["project"], frame["offset"]))
    except Exception:
        await peer.closed()
        return found


# Acknowledging


async def test_an_event_is_acknowledged_when_the_next_one_is_asked_for(fake: FakeRelay) -> None:
    async with fake.site() as site:
        peer = fake.peers[0]
        await peer.send(event(1))
        assert await offsets(site, 1) == [1]
        publishing = asyncio.create_task(site.publish(12, "message"))
        await peer.ok(await peer.expect("publish"), offset=2)  # no ack before it
        await publishing
        asking = asyncio.create_task(offsets(site, 1))
        assert await peer.expect("ack") == {"type": "ack", "project": 12, "offset": 1}
        await peer.send(event(3))
        await asking


async def test_leaving_the_block_acknowledges_the_event_in_hand(fake: FakeRelay) -> None:
    async with fake.site() as site:
        await fake.peers[0].send(event(1), event(2))
        async for one in site.events():
            if one.offset == 2:
                break
    assert (await acks(fake.peers[0]))[-1] == (12, 2)


async def test_an_exception_leaves_the_event_in_hand_unacknowledged(fake: FakeRelay) -> None:
    async def work() -> None:
        async with fake.site() as site:
            await fake.peers[0].send(event(1), event(2))
            async for one in site.events():
                if one.offset == 2:
                    raise LookupError

    with pytest.raises(LookupError):
        await work()
    assert (await acks(fake.peers[0]))[-1] == (12, 1)


async def test_acknowledgements_are_put_together_by_project(fake: FakeRelay) -> None:
    limits = Limits(ack_delay_s=0.2, connect_s=TIMEOUT_S)
    async with fake.site({12: project(), 13: project()}, limits=limits) as site:
        frames = [event(offset, project=number) for offset in range(1, 51) for number in (12, 13)]
        await fake.peers[0].send(*frames)
        await take(site, 100)
    assert await acks(fake.peers[0]) == [(12, 50), (13, 50)]


async def test_nothing_is_acknowledged_that_was_not_processed(fake: FakeRelay) -> None:
    async with fake.site({12: project(7)}) as site:
        await fake.peers[0].send(event(8), {"type": "presence", "project": 12, "site": "a", "state": "online"})
        await until(lambda: site.presence(12))
    assert await acks(fake.peers[0]) == []


async def test_an_acknowledgement_that_was_lost_is_sent_again(fake: FakeRelay) -> None:
    async with fake.site() as site:
        await fake.peers[0].send(event(1), event(2))
        await take(site, 2)
        await fake.peers[0].expect("ack")
        fake.peers[0].drop()
        peer = await fake.welcome({12: project(2)})
        assert await peer.expect("ack") == {"type": "ack", "project": 12, "offset": 1}


# Resuming


async def test_a_new_connection_goes_on_from_what_was_received(fake: FakeRelay) -> None:
    async with fake.site({12: project(4), 13: project(0, epoch="other")}) as site:
        await fake.peers[0].send(event(5), event(6))
        assert await offsets(site, 1) == [5]
        await fake.peers[0].drop_when_read()
        peer = await fake.welcome({12: project(6), 13: project(0, epoch="other")})
        assert peer.hello["projects"] == {
            "12": {"offset": 6, "epoch": EPOCH},
            "13": {"offset": 0, "epoch": "other"},
        }
        await peer.send(event(7))
        assert await offsets(site, 2) == [6, 7]


async def test_repeats_are_dropped(fake: FakeRelay) -> None:
    async with fake.site() as site:
        await fake.peers[0].send(event(1), event(2), event(2), event(1), event(5))
        assert await offsets(site, 3) == [1, 2, 5]
        fake.peers[0].drop()
        peer = await fake.welcome({12: project(5, **{"from": 0})})
        await peer.send(event(1), event(2), event(5), event(6))
        assert await offsets(site, 1) == [6]


async def test_offsets_are_counted_by_project(fake: FakeRelay) -> None:
    async with fake.site({12: project(), 13: project()}) as site:
        await fake.peers[0].send(event(2), event(1, project=13), event(1), event(2, project=13))
        assert [(one.project, one.offset) for one in await take(site, 3)] == [(12, 2), (13, 1), (13, 2)]


RUNS = [{"id": 7, "status": "Running"}]


async def answer_runs(peer: Peer) -> None:
    """Answer the client, that reads the state anew."""
    while (frame := await peer.receive())["type"] != "call":
        assert frame["type"] == "ack"
    assert (frame["method"], frame["params"]) == ("runs.list", {"project": 12})
    await peer.ok(frame, result=RUNS)


async def test_an_unrecovered_resume_is_told_in_its_place(fake: FakeRelay) -> None:
    async with fake.site() as site:
        await fake.peers[0].send(event(1), event(2))
        assert await offsets(site, 1) == [1]
        await fake.peers[0].drop_when_read()
        peer = await fake.welcome({12: project(3, epoch="e2", recovered=False, **{"from": 0})})
        await peer.send(*(event(offset, data="of the new journal") for offset in (1, 2, 3)))
        answering = asyncio.create_task(answer_runs(peer))
        old, resync, *new = await take(site, 5)
        await answering
        assert (old.offset, old.data) == (2, 2)
        assert (resync.kind, resync.project, resync.offset, resync.data) == (
            "resync",
            12,
            None,
            {"from": 0, "runs": RUNS},
        )
        assert [(one.offset, one.data) for one in new] == [(offset, "of the new journal") for offset in (1, 2, 3)]
        # What was processed of the old journal says nothing of the new one.
        assert (await peer.expect("ack"))["offset"] <= 2
        peer.drop()
        again = await fake.welcome({12: project(3, epoch="e2")})
        assert again.hello["projects"] == {"12": {"offset": 3, "epoch": "e2"}}


async def test_the_old_journals_events_are_not_acknowledged_in_the_new_one(fake: FakeRelay) -> None:
    async with fake.site() as site:
        await fake.peers[0].send(*(event(offset) for offset in range(1, 10)))
        await take(site, 9)
        fake.peers[0].drop()
        peer = await fake.welcome({12: project(3, epoch="e2", recovered=False, **{"from": 0})})
        await peer.send(event(1))
        answering = asyncio.create_task(answer_runs(peer))
        assert [one.kind for one in await take(site, 2)] == ["resync", "message"]
        await answering
    assert await acks(peer) == [(12, 1)]


async def test_a_fresh_site_whose_cursor_is_lost_is_told_too(fake: FakeRelay) -> None:
    async with fake.site({12: project(9, recovered=False, **{"from": 4})}) as site:
        reading = asyncio.create_task(take(site, 1))
        await fake.peers[0].expect("call")
        reading.cancel()  # what was not told is told to who asks next
        await asyncio.wait({reading})
        answering = asyncio.create_task(answer_runs(fake.peers[0]))
        (resync,) = await take(site, 1)
        await answering
        assert (resync.kind, resync.data) == ("resync", {"from": 4, "runs": RUNS})


@pytest.mark.parametrize("data", ["no object", None, [1]])
async def test_a_resync_of_the_relays_own_whose_data_is_no_object_ends_nothing(fake: FakeRelay, data: object) -> None:
    async with fake.site() as site:
        answering = asyncio.create_task(answer_runs(fake.peers[0]))
        await fake.peers[0].send(event(1, kind="resync", data=data) | {"from": None}, event(2))
        first, second = await take(site, 2)
        await answering
        assert (first.kind, first.data, second.offset) == ("resync", {"runs": RUNS}, 2)


async def test_the_state_is_read_until_the_relay_can_tell_it(fake: FakeRelay) -> None:
    async with fake.site({12: project(9, recovered=False)}) as site:
        reading = asyncio.create_task(take(site, 1))
        await fake.peers[0].refuse(await fake.peers[0].expect("call"), "unavailable")
        await fake.peers[0].refuse(await fake.peers[0].expect("call"), "unknown_project")
        assert (await reading)[0].data["runs"] == []


async def test_a_project_that_was_left_and_joined_again_begins_anew(fake: FakeRelay) -> None:
    async with fake.site() as site:
        peer = fake.peers[0]
        await peer.send(event(1), {"type": "unsubscribed", "project": 12, "reason": "left"}, event(2))
        await peer.send({"type": "subscribed", "project": 12, **project(8)}, event(9))
        assert await offsets(site, 2) == [1, 9]


async def test_a_project_lost_while_disconnected_is_not_asked_for_again(fake: FakeRelay) -> None:
    async with fake.site({12: project(), 13: project()}) as site:
        fake.peers[0].drop()
        peer = await fake.welcome({12: project()})
        await peer.send(event(1))
        await take(site, 1)
        assert set(site.memberships) == {12}
        peer.drop()
        assert set((await fake.welcome()).hello["projects"]) == {"12"}


async def test_a_restarted_process_asks_the_relay_where_it_stood(fake: FakeRelay) -> None:
    async with fake.site() as site:
        await fake.peers[0].send(event(1))
        await take(site, 1)
    async with fake.site():
        assert fake.peers[1].hello["projects"] == {}


async def test_no_gap_and_no_repeat_over_many_lost_connections(fake: FakeRelay) -> None:
    """A relay that resumes as it is asked to, with what it sent before now and then, and breaks off anywhere."""
    rng = random.Random(7)
    total = 400
    sent_again = 0

    async def relay(peer: Peer) -> None:
        nonlocal sent_again
        position = 0
        while position < total:
            stop = min(total, position + rng.randrange(1, 40))
            await peer.send(*(event(offset) for offset in range(position + 1, stop + 1)))
            if stop == total:
                return
            await asyncio.sleep(rng.choice((0, 0.002)))
            peer.drop()
            peer = await fake.accept()
            hello = await peer.expect("hello")
            position = max(0, hello["projects"]["12"]["offset"] - rng.randrange(3))
            sent_again += hello["projects"]["12"]["offset"] - position
            await peer.send(welcome_of(hello, project(total, **{"from": position})))

    async with fake.site() as site:
        relaying = asyncio.create_task(relay(fake.peers[0]))
        seen = [one.offset for one in await take(site, total)]
        await relaying
    assert seen == list(range(1, total + 1))
    assert len(fake.peers) > 10
    assert sent_again > 0


def welcome_of(hello: Frame, state: Frame) -> Frame:
    return {
        "type": "welcome",
        "ref": hello["ref"],
        "session": "s",
        "site": {"id": 3, "uid": "u", "name": "n"},
        "projects": {"12": state},
    }


# What the site itself has published


async def test_what_it_published_is_not_shown_by_the_replay_but_counts_as_processed(fake: FakeRelay) -> None:
    async with fake.site() as site:
        publishing = asyncio.create_task(site.publish(12, "message", data="mine"))
        frame = await fake.peers[0].expect("publish")
        fake.peers[0].drop()
        peer = await fake.welcome()
        again = await peer.expect("publish")
        await peer.send(event(1, id=frame["id"], data="mine", **{"from": site.uid}), event(2, data="another's"))
        await peer.ok(again, offset=1, duplicate=True)
        assert await publishing == Published(offset=1, duplicate=True)
        assert [one.data for one in await take(site, 1)] == ["another's"]
        await peer.send(event(3, id=frame["id"][:-1] + "f", data="mine too", **{"from": site.uid}))
        asking = asyncio.create_task(take(site, 1))
        while (await peer.expect("ack"))["offset"] < 3:
            pass
        asking.cancel()


async def test_what_another_site_answers_under_the_same_id_is_shown(fake: FakeRelay) -> None:
    async with fake.site() as site:
        publishing = asyncio.create_task(site.publish(12, "command", data="question"))
        frame = await fake.peers[0].expect("publish")
        await fake.peers[0].ok(frame, offset=1, duplicate=False)
        await publishing
        await fake.peers[0].send(event(2, id=frame["id"], data="answer"))
        assert [one.data for one in await take(site, 1)] == ["answer"]


async def test_what_another_process_of_the_site_published_is_shown(fake: FakeRelay) -> None:
    async with fake.site() as site:
        await fake.peers[0].send(event(1, **{"from": site.uid}))
        assert (await take(site, 1))[0].sender == site.uid


# Bounds


SMALL = Limits(buffer_events=4, buffer_excess=3, connect_s=TIMEOUT_S, ack_delay_s=0.0, backoff_s=0.01, stall_s=30.0)


def buffered(site: Site) -> int:
    return len(site._session.inbox._buffer)


async def test_when_the_buffer_is_full_the_socket_is_not_read_further(fake: FakeRelay) -> None:
    async with fake.site(limits=SMALL) as site:
        peer = fake.peers[0]
        flood = asyncio.create_task(peer.send(*(event(offset, data="x" * 10_000) for offset in range(1, 2001))))
        await until(lambda: buffered(site) == 4)
        done, _ = await asyncio.wait({flood}, timeout=0.3)
        assert not done, "20 MB were sent to a client that has room for 4 events"
        assert buffered(site) == 4
        assert await offsets(site, 2000) == list(range(1, 2001))
        await flood


async def test_the_buffer_is_bounded_in_bytes_too(fake: FakeRelay) -> None:
    limits = Limits(buffer_bytes=10_000, connect_s=TIMEOUT_S)
    async with fake.site(limits=limits) as site:
        await fake.peers[0].send(*(event(offset, data="x" * 6000) for offset in range(1, 10)))
        await until(lambda: buffered(site) == 2)
        await asyncio.sleep(0.05)
        assert buffered(site) == 2
        assert await offsets(site, 9) == list(range(1, 10))


async def test_leaving_with_a_full_buffer_is_not_held_up_by_it(fake: FakeRelay) -> None:
    async with fake.site(limits=SMALL) as site:
        peer = fake.peers[0]
        flood = asyncio.create_task(peer.send(*(event(offset, data="x" * 10_000) for offset in range(1, 2001))))
        await until(lambda: buffered(site) == 4)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    with pytest.raises(ConnectionClosed):
        await flood
    assert await peer.closed() in (1000, None)


async def test_publishing_from_the_loop_works_while_the_buffer_is_full(fake: FakeRelay) -> None:
    """The answer lies behind events that the loop has not asked for yet."""
    async with fake.site(limits=SMALL) as site:
        peer = fake.peers[0]
        await peer.send(*(event(offset) for offset in range(1, 9)))
        await until(lambda: buffered(site) == 4)
        publishing = asyncio.create_task(site.publish(12, "message"))
        frame = await peer.expect("publish")
        await peer.ok(frame, offset=9)
        await publishing
        assert await offsets(site, 8) == list(range(1, 9))
        assert len(fake.peers) == 1


async def test_events_that_do_not_fit_while_an_answer_is_waited_for_are_sent_again(fake: FakeRelay) -> None:
    async with fake.site(limits=SMALL) as site:
        peer = fake.peers[0]
        publishing = asyncio.create_task(site.publish(12, "message"))
        frame = await peer.expect("publish")
        await peer.send(*(event(offset) for offset in range(1, 101)))
        await peer.ok(frame, offset=101)
        await publishing
        assert buffered(site) == 12
        assert await offsets(site, 12) == list(range(1, 13))
        asking = asyncio.create_task(offsets(site, 2))
        again = await fake.welcome({12: project(101, **{"from": 12})})
        assert again.hello["projects"]["12"]["offset"] == 12
        assert await peer.closed() is None  # no closing handshake: the site did not leave
        await again.send(event(13), event(14))
        assert await asking == [13, 14]


async def test_a_stalled_loop_keeps_its_session_and_gets_its_events_later(fake: FakeRelay) -> None:
    limits = Limits(buffer_events=4, connect_s=TIMEOUT_S, backoff_s=0.01, stall_s=0.1, ack_delay_s=0.0)
    async with fake.site(limits=limits) as site:
        peer = fake.peers[0]
        await asyncio.wait_for(peer.send(*(event(n, data="x" * 10_000) for n in range(1, 2001))), TIMEOUT_S)
        assert buffered(site) == 4
        async with asyncio.timeout(TIMEOUT_S):
            await (await peer.connection.ping())
        assert await offsets(site, 4) == [1, 2, 3, 4]
        asking = asyncio.create_task(offsets(site, 1))
        again = await fake.welcome({12: project(2000, **{"from": 4})})
        assert again.hello["projects"]["12"]["offset"] == 4
        await again.send(event(5))
        assert await asking == [5]


async def test_a_change_that_is_under_way_is_not_interrupted_to_get_events_again(fake: FakeRelay) -> None:
    async with fake.site(limits=SMALL) as site:
        peer = fake.peers[0]
        starting = asyncio.create_task(site.runs.start(12))
        frame = await peer.expect("call")
        await peer.send(*(event(offset) for offset in range(1, 101)))
        await until(lambda: buffered(site) == 12)
        assert await offsets(site, 12) == list(range(1, 13))
        asking = asyncio.create_task(offsets(site, 1))
        await until(lambda: site._session._resuming)
        await peer.ok(frame, result={"batch": 1})
        assert (await starting)["batch"] == 1
        again = await fake.welcome({12: project(101, **{"from": 12})})
        await again.send(event(13))
        assert await asking == [13]


# Reading


async def test_one_task_reads_at_a_time(fake: FakeRelay) -> None:
    async with fake.site() as site:
        reading = asyncio.create_task(take(site, 1))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task at a time"):
            await anext(site.events())
        await fake.peers[0].send(event(1))
        await reading


async def test_a_reader_that_gave_up_has_lost_nothing(fake: FakeRelay) -> None:
    async with fake.site(limits=QUICK) as site:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(site.events())
        await fake.peers[0].send(event(1), event(2))
        assert await offsets(site, 2) == [1, 2]


async def test_what_was_read_before_the_end_can_still_be_had(fake: FakeRelay) -> None:
    async with fake.site() as site:
        await fake.peers[0].send(event(1), event(2))
        await until(lambda: buffered(site) == 2)
    events = site.events()
    assert [(await anext(events)).offset, (await anext(events)).offset] == [1, 2]
    with pytest.raises(Closed):
        await anext(events)
