"""What a session is sent: events in order and each once, at the pace of its socket, within bounds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from relay.core import frames
from relay.core.hub import BURST_BYTES, TailLimits
from relay.core.model import Draft
from relay.core.outbox import PAGE, RETRY_S, OutboxLimits
from relay.protocol.errors import CloseCode
from tests.core.stage import Seat, Stage
from tests.support.clock import Clock, settle
from tests.support.fakes import FakeStore
from tests.support.world import World, draft

PATIENCE_S = 20.0


@pytest.fixture
async def stage(store: FakeStore, world: World) -> Stage:
    return await Stage.build(store, world)


def message(number: int) -> bytes:
    return frames.text({"type": "ok", "ref": number})


def refs(seat: Seat) -> list[Any]:
    """The refs of the answers that were sent."""
    return [one["ref"] for one in seat.link.shown if one["type"] == "ok"]


def order(seat: Seat) -> list[Any]:
    """Offsets of events and refs of answers, in the order in which they were sent."""
    return [one["ref"] if one["type"] == "ok" else one.get("offset") for one in seat.link.shown]


def nothing_runs() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


# Keeping up


async def test_a_session_that_keeps_up_costs_no_task(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator)
    for offset in range(1, 4):
        await stage.publish()
        assert seat.events[-1] == offset, "it was sent in the same turn"
        assert nothing_runs()
    seat.outbox.reply(message(1))
    assert refs(seat) == [1]
    assert nothing_runs()
    assert seat.outbox.lag == 0


async def test_what_a_site_may_not_see_is_passed_over(stage: Stage) -> None:
    coordinator, (one, other) = stage.coordinator, stage.participants
    seats = {site.id: stage.connect(site) for site in (coordinator, one, other)}
    await stage.publish(
        draft(sender=coordinator),
        draft(sender=coordinator, audience=frozenset({one.id})),
        draft(sender=other, audience=frozenset({coordinator.id})),
        draft(sender=coordinator, audience=frozenset()),
        draft(sender=coordinator),
    )
    assert seats[coordinator.id].events == [1, 2, 3, 4, 5]
    assert seats[one.id].events == [1, 2, 5]
    assert seats[other.id].events == [1, 3, 5]
    assert [seat.outbox.lag for seat in seats.values()] == [0, 0, 0]
    assert nothing_runs()


async def test_a_session_is_not_shown_its_own_events_and_another_of_its_site_is(stage: Stage) -> None:
    sender, same_site = stage.connect(stage.coordinator), stage.connect(stage.coordinator)
    await stage.publish(draft(sender=stage.coordinator, origin=sender.name), draft(sender=stage.coordinator))
    assert sender.events == [2]
    assert same_site.events == [1, 2]


async def test_what_is_for_everybody_and_committed_together_is_written_once_up_to_a_bound(stage: Stage) -> None:
    seat, sender = stage.connect(stage.participants[0]), stage.connect(stage.coordinator)
    long = bytes(BURST_BYTES // 4)
    to_other = draft(sender=stage.coordinator, audience=frozenset({stage.participants[1].id}))
    await stage.publish(draft(), draft(origin=sender.name), draft(), to_other, *(draft(long) for _ in range(4)))
    assert seat.events == [1, 2, 3, 5, 6, 7, 8]
    assert seat.link.writes == [3, 3, 1], "the fourth is not for this site, and the last would be too much at once"
    assert sender.events == [1, 3, 4, 5, 6, 7, 8]
    assert sender.link.writes == [1, 1, 1, 3, 1]


# Catching up


async def test_who_connects_at_an_earlier_offset_is_shown_the_rest_from_the_tail_and_then_what_is_new(
    stage: Stage,
) -> None:
    await stage.publish(*(draft() for _ in range(10)))
    reads = stage.store.reads
    seat = stage.connect(stage.coordinator, after=4)
    await stage.publish()
    await settle()
    await stage.publish()
    assert seat.events == [5, 6, 7, 8, 9, 10, 11, 12]
    assert stage.store.reads == reads, "all of it was at hand"
    assert nothing_runs()


async def test_what_the_tail_no_longer_has_is_read_from_the_journal(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world, TailLimits(entries=5))
    await stage.publish(*(draft(f"{number}") for number in range(3 * PAGE)))
    seat = stage.connect(stage.coordinator, after=0)
    for _ in range(20):
        await stage.publish()
        await settle(3)
    await settle(60)
    assert seat.events == list(range(1, 3 * PAGE + 21))
    assert [one["data"] for one in seat.link.shown[: 3 * PAGE]] == list(range(3 * PAGE))


async def test_a_page_of_the_journal_is_bounded_in_bytes(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world, TailLimits(entries=1))
    await stage.publish(*(draft(bytes(1000)) for _ in range(10)))
    before = store.reads
    seat = stage.connect(stage.coordinator, after=0, limits=OutboxLimits(page_bytes=2500))
    await settle(60)
    assert seat.events == list(range(1, 11))
    assert store.reads - before >= 5


async def test_own_events_are_not_shown_either_when_they_are_read_from_the_journal(
    store: FakeStore, world: World
) -> None:
    """There the session that published is no longer known: its lane remembers."""
    stage = await Stage.build(store, world, TailLimits(entries=2))
    seat = stage.connect(stage.coordinator)
    seat.link.stall()
    for number in range(1, 11):
        own = number % 3 == 0
        await stage.publish(draft(sender=stage.coordinator, origin=seat.name if own else None))
        if own:
            seat.outbox.lanes[stage.project].sent(number)
    seat.link.drain()
    await settle(60)
    assert seat.events == [1, 2, 4, 5, 7, 8, 10]
    assert seat.outbox.lanes[stage.project].own == set(), "what was passed over is forgotten"


async def test_what_the_hub_has_not_come_to_is_not_delivered_though_it_is_in_the_journal(
    store: FakeStore, world: World
) -> None:
    """Who has left, and whose event it is, is known only then; and who reconnects would be ahead of the hub."""
    stage = await Stage.build(store, world, TailLimits(entries=1))
    await stage.publish(*(draft() for _ in range(5)))
    seat = stage.connect(stage.coordinator, after=0)
    entries = await stage.commit(draft(sender=stage.coordinator, origin=seat.name), draft())
    await settle(60)
    assert seat.events == [1, 2, 3, 4, 5]
    stage.hub.advance(entries)
    await settle(60)
    assert seat.events == [1, 2, 3, 4, 5, 7]
    assert nothing_runs()


async def test_own_events_that_the_lane_has_passed_are_not_remembered(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator)
    await stage.publish(draft(sender=stage.coordinator, origin=seat.name))
    lane = seat.outbox.lanes[stage.project]
    lane.sent(1)
    assert lane.own == set()


async def test_an_outage_during_the_catch_up_delays_it(store: FakeStore, world: World, clock: Clock) -> None:
    stage = await Stage.build(store, world, TailLimits(entries=1))
    await stage.publish(*(draft() for _ in range(5)))
    store.down = True
    seat = stage.connect(stage.coordinator, after=0)
    seat.outbox.reply(message(1))
    await clock.advance(RETRY_S * 3)
    assert (seat.events, refs(seat), seat.closed) == ([], [1], [])
    store.down = False
    await clock.advance(RETRY_S)
    await settle(60)
    assert seat.events == [1, 2, 3, 4, 5]


async def test_a_session_that_retention_has_overtaken_is_closed_and_its_next_one_knows(
    store: FakeStore, world: World
) -> None:
    stage = await Stage.build(store, world, TailLimits(entries=1))
    await stage.publish(*(draft() for _ in range(10)))
    store.trim(stage.project, oldest=7)
    overtaken, further = stage.connect(stage.coordinator, after=2), stage.connect(stage.coordinator, after=6)
    await settle(60)
    await stage.publish()
    assert [closed.code for closed in overtaken.closed] == [CloseCode.TOO_SLOW]
    assert overtaken.events == []
    assert further.events == [7, 8, 9, 10, 11]
    assert stage.hub.oldest == 7
    assert nothing_runs()


async def test_a_journal_that_retention_has_emptied_closes_who_was_on_its_way(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world)
    await stage.commit(*(draft() for _ in range(10)))
    stage.hub.look()
    await settle()
    stage.hub._tail.clear()
    store.trim(stage.project, oldest=11)
    overtaken, level = stage.connect(stage.coordinator, after=2), stage.connect(stage.coordinator, after=10)
    await settle(60)
    assert [closed.code for closed in overtaken.closed] == [CloseCode.TOO_SLOW]
    await stage.publish()
    assert (overtaken.events, level.events) == ([], [11])
    assert nothing_runs()


async def test_a_journal_that_goes_with_its_project_ends_the_catch_up(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world, TailLimits(entries=1))
    await stage.publish(*(draft() for _ in range(10)))
    async with store.transaction() as tx:
        await tx.projects.delete(stage.project)
    seat = stage.connect(stage.coordinator, after=2)
    await settle(60)
    assert (seat.events, seat.outbox.lag, seat.closed) == ([], 0, [])
    assert nothing_runs()


async def test_few_read_the_journal_at_once(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world, TailLimits(entries=1))
    stage.catch_up = asyncio.Semaphore(1)
    await stage.publish(*(draft() for _ in range(5)))
    seats = [stage.connect(stage.coordinator, after=0) for _ in range(8)]
    await settle(400)
    assert all(seat.events == [1, 2, 3, 4, 5] for seat in seats)


# A socket that is full


async def test_a_full_socket_makes_a_session_lag_and_holds_nothing_for_it(stage: Stage) -> None:
    seat, other = stage.connect(stage.coordinator), stage.connect(stage.coordinator)
    seat.link.stall()
    await stage.publish(*(draft() for _ in range(20)))
    await settle()
    assert (seat.events, seat.outbox.lag) == ([], 20)
    assert other.events == list(range(1, 21)), "the others do not wait for it"
    seat.link.drain()
    await settle()
    assert (seat.events, seat.outbox.lag) == (list(range(1, 21)), 0)
    await stage.publish()
    assert seat.events[-1] == 21
    assert nothing_runs()


async def test_a_socket_that_takes_little_at_a_time_gets_all_in_order(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator, room=3)
    for _ in range(60):
        await stage.publish()
        seat.link.drain(2)
        await settle(5)
    for _ in range(60):
        seat.link.drain(2)
        await settle(5)
    assert seat.events == list(range(1, 61))


async def test_answers_wait_in_order_and_go_before_events_that_came_after_them(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator)
    await stage.publish()
    seat.link.stall()
    for number in range(100, 105):
        seat.outbox.reply(message(number))
        await stage.publish()
    seat.link.drain()
    await settle()
    assert [one for one in order(seat) if one >= 100] == [100, 101, 102, 103, 104]
    assert [one for one in order(seat) if one < 100] == [1, 2, 3, 4, 5, 6]


async def test_answers_are_bounded_by_not_reading_on(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator, limits=OutboxLimits(replies=4))
    seat.link.stall()
    for number in range(3):
        seat.outbox.reply(message(number))
        async with asyncio.timeout(1):
            await seat.outbox.room()
    seat.outbox.reply(message(3))
    waiting = asyncio.create_task(seat.outbox.room())
    await settle()
    assert not waiting.done()
    seat.link.drain()
    await settle()
    assert waiting.done()
    assert refs(seat) == [0, 1, 2, 3]


async def test_a_reader_that_waits_for_room_is_let_go_when_the_session_ends(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator, limits=OutboxLimits(replies=1))
    seat.link.stall()
    seat.outbox.reply(message(1))
    waiting = asyncio.create_task(seat.outbox.room())
    await settle()
    seat.outbox.close()
    async with asyncio.timeout(1):
        await waiting


async def test_what_may_be_lost_conflates_to_the_newest_of_its_key(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator)
    seat.link.stall()
    for number in range(10):
        seat.outbox.transient(number % 2, message(number))
    seat.link.drain()
    await settle()
    assert sorted(refs(seat)) == [8, 9]
    assert seat.outbox.dropped == 0


async def test_what_may_be_lost_is_bounded_and_the_oldest_goes(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator, limits=OutboxLimits(transients=3))
    seat.link.stall()
    for number in range(10):
        seat.outbox.transient(number, message(number))
    seat.link.drain()
    await settle()
    assert sorted(refs(seat)) == [7, 8, 9]
    assert seat.outbox.dropped == 7


async def test_what_may_be_lost_goes_straight_to_a_socket_that_takes_it(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator)
    for number in range(3):
        seat.outbox.transient("same key", message(number))
    assert refs(seat) == [0, 1, 2]
    assert nothing_runs()


# A socket that stalls


async def test_a_socket_that_takes_nothing_for_too_long_is_closed_as_too_slow(stage: Stage, clock: Clock) -> None:
    seat = stage.connect(stage.coordinator, limits=OutboxLimits(patience_s=PATIENCE_S), room=5)
    for _ in range(10):
        await stage.publish()
    await clock.advance(PATIENCE_S - 1)
    assert seat.closed == []
    await clock.advance(2)
    await clock.advance(PATIENCE_S * 3)
    assert [closed.code for closed in seat.closed] == [CloseCode.TOO_SLOW]
    assert seat.events == [1, 2, 3, 4, 5]
    assert nothing_runs()


async def test_a_reader_that_waits_for_room_is_let_go_when_the_session_is_too_slow(stage: Stage, clock: Clock) -> None:
    """It is the reader that ends the session, and with it the outbox."""
    limits = OutboxLimits(patience_s=PATIENCE_S, replies=3)
    seat = stage.connect(stage.coordinator, limits=limits)
    seat.link.stall()
    for number in range(3):
        seat.outbox.reply(message(number))
    waiting = asyncio.create_task(seat.outbox.room())
    await clock.advance(PATIENCE_S + 1)
    assert [closed.code for closed in seat.closed] == [CloseCode.TOO_SLOW]
    assert waiting.done()
    for number in range(9):
        seat.outbox.reply(message(number))
        async with asyncio.timeout(1):
            await seat.outbox.room()
    assert nothing_runs()


async def test_a_socket_that_takes_little_is_slow_which_is_no_fault(stage: Stage, clock: Clock) -> None:
    seat = stage.connect(stage.coordinator, limits=OutboxLimits(patience_s=PATIENCE_S), room=5)
    for _ in range(10):
        await stage.publish()
    seat.link.stall()
    for _ in range(4):
        await clock.advance(PATIENCE_S * 0.9)
        seat.link.sip()
    assert seat.closed == []
    seat.link.drain()
    await settle()
    assert seat.events == list(range(1, 11))


async def test_a_session_with_nothing_to_be_sent_is_never_too_slow(stage: Stage, clock: Clock) -> None:
    seat = stage.connect(stage.coordinator)
    seat.link.stall()
    await clock.advance(PATIENCE_S * 10)
    assert seat.closed == []
    assert nothing_runs()


async def test_a_fault_in_the_pump_closes_the_session_and_not_the_relay(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seat = stage.connect(stage.coordinator)
    seat.link.stall()
    await stage.publish()

    def break_down(_frame: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(seat.link, "send", break_down)
    seat.link.drain()
    await settle()
    assert [closed.code for closed in seat.closed] == [CloseCode.OVERLOADED]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert nothing_runs()


# Coming and going


async def test_a_session_that_leaves_a_project_is_shown_no_more_of_it(stage: Stage) -> None:
    seat = stage.connect(stage.participants[0])
    await stage.publish()
    seat.link.stall()
    await stage.publish()
    seat.outbox.unsubscribe(stage.project)
    seat.link.drain()
    await stage.publish()
    await settle()
    assert seat.events == [1]
    assert stage.hub.lanes == set()
    seat.outbox.unsubscribe(stage.project)


async def test_a_session_that_leaves_in_the_middle_of_a_page_is_shown_no_more(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world, TailLimits(entries=1))
    await stage.publish(*(draft() for _ in range(20)))
    seat = stage.connect(stage.coordinator, after=0, room=4)
    await settle()
    assert seat.events == [1, 2, 3, 4]
    seat.outbox.unsubscribe(stage.project)
    seat.link.drain()
    await settle(60)
    assert seat.events == [1, 2, 3, 4]
    assert nothing_runs()


@pytest.mark.parametrize("turns", range(8))
async def test_a_session_that_leaves_and_comes_back_while_it_catches_up_is_shown_nothing_twice(
    store: FakeStore, world: World, turns: int
) -> None:
    """A page that was read for the old lane is not delivered to the new one."""
    stage = await Stage.build(store, world, TailLimits(entries=1))
    await stage.publish(*(draft() for _ in range(20)))
    seat = stage.connect(stage.coordinator, after=0)
    await settle(turns)
    shown = list(seat.events)
    seat.outbox.unsubscribe(stage.project)
    seat.outbox.subscribe(stage.hub, stage.member(stage.coordinator), 15)
    await settle(60)
    assert seat.events == [*shown, 16, 17, 18, 19, 20]


async def test_an_outbox_that_is_closed_sends_nothing_and_the_hubs_forget_it(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator)
    seat.link.stall()
    await stage.publish()
    seat.outbox.reply(message(1))
    seat.outbox.transient("k", message(2))
    seat.outbox.close()
    seat.link.drain()
    await stage.publish()
    seat.outbox.reply(message(3))
    seat.outbox.transient("k", message(4))
    await settle()
    assert seat.link.frames == []
    assert stage.hub.lanes == set()
    assert nothing_runs()


async def test_several_projects_are_caught_up_side_by_side(store: FakeStore, world: World) -> None:
    """A long backlog in one project does not hold back another."""
    long, short = [await Stage.build(store, world, TailLimits(entries=1)) for _ in range(2)]
    await long.publish(*(draft() for _ in range(4 * PAGE)))
    await short.publish(*(draft() for _ in range(3)))
    seat = long.connect(long.coordinator, after=0)
    seat.outbox.subscribe(short.hub, short.member(short.coordinator), 0)
    for _ in range(2000):
        if seat.link.events(short.project) == [1, 2, 3]:
            break
        await asyncio.sleep(0)
    assert len(seat.link.events(long.project)) <= 2 * PAGE
    await settle(200)
    assert seat.link.events(long.project) == list(range(1, 4 * PAGE + 1))


async def test_a_binary_event_arrives_as_it_was_sent(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator)
    bodies: list[str | bytes] = [b"", b"\0\xff" * 40_000, '{"a":1}', json.dumps("x" * 200)]
    drafts: list[Draft] = [draft(body) for body in bodies]
    await stage.publish(*drafts)
    shown = [one.get("payload", one.get("data")) for one in seat.link.shown]
    assert shown == [b"", b"\0\xff" * 40_000, {"a": 1}, "x" * 200]
