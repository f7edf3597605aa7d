"""A hub applies each entry once, in order, in whatever order commits are noticed; its members are what they say."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import Any

import pytest

from relay.core import frames
from relay.core.hub import GAP_PATIENCE_S, LOOK_AGAIN_S, Hub, TailLimits
from relay.core.model import Entry, Kind, Role
from relay.protocol.errors import CloseCode
from tests.core.stage import Heard, Stage
from tests.support.clock import Clock, settle
from tests.support.fakes import FakeStore
from tests.support.world import NOW_US, World, draft


@pytest.fixture
async def stage(store: FakeStore, world: World) -> Stage:
    return await Stage.build(store, world)


def applied(hub: Hub) -> list[int]:
    """The offsets in the tail: what was applied, in that order."""
    tail = hub.after(0, 1_000_000)
    assert tail is not None
    return [shown.offset for shown in tail]


# Order


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_entries_are_applied_in_order_whatever_order_they_come_in(stage: Stage, order: tuple[int, ...]) -> None:
    seat = stage.connect(stage.coordinator)
    entries = await stage.commit(*(draft() for _ in range(4)))
    for index in order:
        stage.hub.advance([entries[index]])
    assert applied(stage.hub) == seat.events == [1, 2, 3, 4]
    assert stage.hub.head == 4


async def test_entries_are_applied_once_however_often_they_come(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator)
    entries = await stage.commit(*(draft() for _ in range(6)))
    for batch in (entries[:3], entries[1:5], entries[4:], entries, entries[:1]):
        stage.hub.advance(batch)
    assert seat.events == [1, 2, 3, 4, 5, 6]


async def test_an_event_is_encoded_once_for_all(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Entry] = []
    of_entry = frames.of_entry

    def count(entry: Entry) -> bytes:
        encoded.append(entry)
        return of_entry(entry)

    monkeypatch.setattr(frames, "of_entry", count)
    seats = [stage.connect(site) for site in (stage.coordinator, *stage.participants) for _ in range(3)]
    await stage.publish(draft())
    assert len(encoded) == 1
    assert all(seat.link.frames[0] is seats[0].link.frames[0] for seat in seats)


# Gaps


async def test_a_gap_that_closes_by_itself_is_not_asked_for(stage: Stage, clock: Clock) -> None:
    first, second = await stage.commit(draft(), draft())
    stage.hub.advance([second])
    await clock.advance(GAP_PATIENCE_S / 2)
    stage.hub.advance([first])
    before = stage.store.reads
    await clock.advance(1)
    assert applied(stage.hub) == [1, 2]
    assert stage.store.reads == before


async def test_what_does_not_turn_up_is_read_from_the_journal(stage: Stage, clock: Clock) -> None:
    """It was committed by another relay, whose hint was lost."""
    entries = await stage.commit(*(draft() for _ in range(5)))
    stage.hub.advance(entries[2:3])
    stage.hub.advance(entries[4:])
    assert stage.hub.head == 0
    await clock.advance(GAP_PATIENCE_S)
    assert applied(stage.hub) == [1, 2, 3, 4, 5]


async def test_a_look_reads_on_to_the_journals_head(stage: Stage) -> None:
    await stage.commit(*(draft() for _ in range(600)))
    stage.hub.look()
    await settle(100)
    assert applied(stage.hub) == list(range(1, 601))


@pytest.mark.parametrize("turns", range(12))
async def test_a_hint_at_any_moment_of_a_look_is_heeded(stage: Stage, turns: int) -> None:
    """The look's last read may have begun before what the hint tells of was committed."""
    stage.hub.look()
    for _ in range(turns):
        await asyncio.sleep(0)
    await stage.commit(draft())
    stage.hub.look()
    await settle()
    assert stage.hub.head == 1


async def test_a_look_during_an_outage_goes_on_when_it_is_over(stage: Stage, clock: Clock) -> None:
    await stage.commit(draft())
    stage.store.down = True
    stage.hub.look()
    await clock.advance(LOOK_AGAIN_S * 3)
    assert stage.hub.head == 0
    stage.store.down = False
    await clock.advance(LOOK_AGAIN_S)
    assert stage.hub.head == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
async def test_a_closed_hub_does_nothing_more(stage: Stage, clock: Clock, down: bool) -> None:
    entries = await stage.commit(draft(), draft())
    stage.store.down = down
    stage.hub.advance(entries[1:])
    stage.hub.look()
    stage.hub.close()
    await clock.advance(10)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_hub_that_retention_has_overtaken_goes_on_with_the_members_of_today(
    store: FakeStore, stage: Stage, clock: Clock
) -> None:
    seat = stage.connect(stage.participants[0])
    newcomer = await stage.world.site()
    await stage.commit(*(draft() for _ in range(9)))
    joined = await stage.world.member(stage.team.project, newcomer)
    async with store.transaction() as tx:
        await tx.participants.delete(stage.team.participants[1].id)
    store.trim(stage.project, oldest=7)
    stage.hub.look()
    await settle(60)
    await clock.advance(GAP_PATIENCE_S)
    assert (stage.hub.head, stage.hub.oldest, applied_after(stage.hub, 6)) == (9, 7, [7, 8, 9])
    assert stage.hub.members[newcomer.id].participant_id == joined.id
    assert [(site, reason) for site, reason, _ in stage.heard.left] == [(stage.participants[1].id, "removed")]
    assert [closed.code for closed in seat.closed] == [CloseCode.TOO_SLOW]


async def test_a_project_that_is_gone_ends_the_look(stage: Stage) -> None:
    async with stage.store.port.transaction() as tx:
        await tx.projects.delete(stage.project)
    stage.hub.look()
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Loading


async def test_what_is_committed_while_a_hub_loads_waits_and_is_not_missed(store: FakeStore, world: World) -> None:
    """The snapshot shows some of it, or none."""
    stage = await Stage.build(store, world, load=False)
    before = await stage.commit(draft(), draft())
    stage.hub.advance(before[1:])
    async with store.port.snapshot() as tx:
        bounds = await tx.journal.bounds(stage.project)
        assert bounds is not None
        participants = await tx.participants.of_project(stage.project)
        after = await stage.commit(draft(), draft())
        stage.hub.advance(after[1:])
        stage.hub.advance(after[:1])
        assert stage.hub.head == -1
    stage.hub.load(bounds, participants)
    assert (stage.hub.head, applied_after(stage.hub, 2)) == (4, [3, 4])
    assert set(stage.hub.members) == {stage.coordinator.id, *(site.id for site in stage.participants)}


async def test_a_hint_that_comes_while_a_hub_loads_is_heeded(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world, load=False)
    async with store.port.snapshot() as tx:
        bounds = await tx.journal.bounds(stage.project)
        assert bounds is not None
        await stage.commit(draft())
        stage.hub.look()
    stage.hub.load(bounds, [])
    await settle()
    assert stage.hub.head == 1


def applied_after(hub: Hub, position: int) -> list[int]:
    return [shown.offset for shown in hub.after(position, 100) or []]


async def test_a_member_that_joined_before_the_snapshot_is_not_announced_again(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world, load=False)
    newcomer = await world.site()
    part = await world.member(stage.team.project, newcomer)
    entries = await stage.commit(stage.membership("joined", newcomer, participant=part.id))
    await stage.load()
    stage.hub.advance(entries)
    assert stage.heard.joined == []
    assert newcomer.id in stage.hub.members


# The tail


async def test_the_tail_is_bounded_by_entries(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world, TailLimits(entries=3))
    await stage.publish(*(draft() for _ in range(5)))
    assert applied_after(stage.hub, 2) == [3, 4, 5]
    assert stage.hub.after(1, 100) is None


async def test_the_tail_is_bounded_by_bytes_but_keeps_the_newest(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world, TailLimits(bytes=1000))
    await stage.publish(*(draft(bytes(200)) for _ in range(5)))
    assert stage.hub.after(0, 100) is None
    assert len(applied_after(stage.hub, 3)) == 2
    await stage.publish(draft(bytes(5000)))
    assert applied_after(stage.hub, 5) == [6]
    assert stage.hub.after(4, 100) is None


async def test_reading_the_tail_is_paged(stage: Stage) -> None:
    await stage.publish(*(draft() for _ in range(10)))
    page = stage.hub.after(3, 4)
    assert page is not None
    assert [shown.offset for shown in page] == [4, 5, 6, 7]
    assert stage.hub.after(10, 4) == stage.hub.after(99, 4) == []


async def test_a_hub_that_has_seen_nothing_live_has_no_tail(store: FakeStore, world: World) -> None:
    stage = await Stage.build(store, world, load=False)
    await stage.commit(draft())
    await stage.load()
    assert stage.hub.after(0, 10) is None
    assert stage.hub.after(1, 10) == []


# Members


async def test_who_joins_is_a_member_before_the_event_is_shown(stage: Stage) -> None:
    newcomer = await stage.world.site()
    seat = stage.connect(stage.coordinator)
    await stage.publish(draft(), stage.membership("joined", newcomer, participant=77), draft())
    member = stage.member(newcomer)
    assert (member.uid, member.role, member.participant_id, member.joined) == (newcomer.uid, Role.PARTICIPANT, 77, 2)
    assert stage.heard.joined == [(newcomer.id, 2)]
    assert seat.events == [1, 2, 3]
    assert stage.hub.by_uid(newcomer.uid) is member


async def test_a_coordinator_that_joins_may_see_the_whole_journal(stage: Stage) -> None:
    newcomer = await stage.world.site()
    await stage.publish(draft(), stage.membership("joined", newcomer, Role.COORDINATOR, participant=77))
    assert stage.member(newcomer).joined == 0


async def test_who_leaves_is_shown_it_and_then_is_no_member(stage: Stage) -> None:
    site, part = stage.participants[0], stage.team.participants[0]
    seat = stage.connect(site)
    everybody = frozenset({site.id})
    await stage.publish(
        stage.membership("left", site, participant=part.id, audience=everybody, more={"reason": "removed"}), draft()
    )
    assert stage.heard.left == [(site.id, "removed", 1)]
    assert seat.events[0] == 1
    assert stage.hub.by_uid(site.uid) is None


async def test_who_leaves_and_comes_back_is_a_member_anew(stage: Stage) -> None:
    site, part = stage.participants[0], stage.team.participants[0]
    await stage.publish(
        stage.membership("left", site, participant=part.id), stage.membership("joined", site, participant=900)
    )
    assert (stage.member(site).participant_id, stage.member(site).joined) == (900, 2)
    await stage.publish(stage.membership("left", site, participant=part.id))
    assert stage.member(site).participant_id == 900, "that was another participation, long gone"
    assert stage.heard.left == [(site.id, "left", 1)]


async def test_who_hands_over_and_who_is_handed_over_to_go_on_as_what_they_are_now(stage: Stage) -> None:
    heir, former, part = stage.participants[0], stage.coordinator, stage.team.participants[0]
    of_heir, of_former = stage.connect(heir), stage.connect(former)
    between = frozenset({stage.participants[1].id})
    handed = stage.membership("transferred", heir, Role.COORDINATOR, participant=part.id, more={"former": former.uid})
    await stage.publish(draft(audience=between), handed, draft(audience=between))
    assert of_heir.events == [2, 3]
    assert of_former.events == [1, 2]
    assert (stage.member(heir).role, stage.member(heir).joined) == (Role.COORDINATOR, 0)
    assert stage.member(former).role is Role.PARTICIPANT
    assert stage.hub.coordinator() is stage.member(heir)
    others = {stage.participants[1].id: Role.PARTICIPANT}
    assert stage.heard.roles == [others | {former.id: Role.PARTICIPANT, heir.id: Role.COORDINATOR}]
    await stage.publish(handed)
    assert len(stage.heard.roles) == 1, "it is so already"


async def test_a_deleted_project_has_no_members_and_nobody_looks_for_more(stage: Stage, clock: Clock) -> None:
    (entry,) = await stage.commit(draft('{"change":"deleted"}', kind=Kind.PROJECT))
    stage.hub.advance([entry])
    assert stage.hub.deleted
    assert sorted(stage.heard.left) == sorted(
        (site.id, "deleted", 1) for site in (stage.coordinator, *stage.participants)
    )
    stage.hub.advance([Entry(project_id=stage.project, offset=5, at_us=NOW_US, draft=draft())])
    await clock.advance(10)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_project_that_changed_stays(stage: Stage) -> None:
    await stage.publish(draft('{"change":"changed"}', kind=Kind.PROJECT))
    assert not stage.hub.deleted
    assert len(stage.hub.members) == 3


async def test_the_coordinator_is_found(stage: Stage) -> None:
    coordinator = stage.hub.coordinator()
    assert coordinator is not None
    assert coordinator.site_id == stage.coordinator.id
    await stage.publish(stage.membership("left", stage.coordinator, participant=stage.team.coordinator.id))
    assert stage.hub.coordinator() is None


async def test_entries_that_want_receipts_are_told_of(stage: Stage) -> None:
    await stage.publish(draft(), draft(receipts=True), draft())
    assert stage.heard.receipts == [2]


# Transient events


def passing(stage: Stage, body: str, **fields: Any) -> Entry:
    one = draft(body, kind=Kind.PROGRESS, sender=stage.participants[0], **fields)
    return Entry(project_id=stage.project, offset=None, at_us=NOW_US, draft=one)


async def test_a_transient_event_is_shown_to_who_is_online_and_may_see_it(stage: Stage) -> None:
    coordinator, other = stage.connect(stage.coordinator), stage.connect(stage.participants[1])
    sender, same_site = stage.connect(stage.participants[0]), stage.connect(stage.participants[0])
    to_coordinator = frozenset({stage.coordinator.id})
    stage.hub.transient(passing(stage, '"half"', audience=to_coordinator, origin=sender.name))
    assert [event["data"] for event in coordinator.link.shown] == ["half"]
    assert "offset" not in coordinator.link.shown[0]
    assert len(same_site.link.frames) == 1
    assert sender.link.frames == other.link.frames == []
    late = stage.connect(stage.coordinator)
    await settle()
    assert late.link.frames == []
    assert stage.hub.head == 0


async def test_transient_events_conflate_by_run_and_site_while_a_socket_is_full(stage: Stage) -> None:
    seat = stage.connect(stage.coordinator)
    seat.link.stall()
    for number in range(10):
        for run in (1, 2):
            stage.hub.transient(passing(stage, json.dumps([run, number]), run=run))
    seat.link.drain()
    await settle()
    assert sorted(event["data"] for event in seat.link.shown) == [[1, 9], [2, 9]]


# Property


@pytest.mark.parametrize("seed", range(20))
async def test_any_order_any_repetition_any_loss(store: FakeStore, world: World, clock: Clock, seed: int) -> None:
    """Batches come shuffled, twice or never; the hub ends up with all, in order, each once."""
    stage = await Stage.build(store, world)
    seat = stage.connect(stage.coordinator)
    random_of = random.Random(seed)
    entries = await stage.commit(*(draft() for _ in range(60)))
    batches = [entries[at : at + 3] for at in range(0, 60, 3)]
    hints = [batch for batch in batches for _ in range(random_of.choice([0, 1, 1, 2]))]
    random_of.shuffle(hints)
    for batch in hints:
        stage.hub.advance(batch)
        if random_of.random() < 0.2:
            await clock.advance(random_of.uniform(0, GAP_PATIENCE_S))
    stage.hub.look()
    await clock.advance(1)
    assert seat.events == list(range(1, 61))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_hub_tells_its_watcher_nothing_twice(stage: Stage) -> None:
    assert stage.heard == Heard()
    newcomer = await stage.world.site()
    entries = await stage.commit(stage.membership("joined", newcomer, participant=5), draft(receipts=True))
    for _ in range(3):
        stage.hub.advance(entries)
    assert (stage.heard.joined, stage.heard.receipts) == ([(newcomer.id, 1)], [2])
