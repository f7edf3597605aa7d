"""Trimming journals in the database: in small steps, beside appends, and after any crash."""

from __future__ import annotations

import asyncio

import pytest

from db.store import Store
from relay.core import journals, retention
from relay.core.model import Site
from relay.core.node import Limits, Node
from relay.core.retention import RetentionLimits, Trimmer
from relay.protocol.errors import ErrorCode, ReplyError
from relay.protocol.position import JournalBounds
from tests.support.world import NOW_US, Team, World, draft, offsets


@pytest.fixture
def node(store: Store) -> Node:
    return Node(store, Limits(), version="0", name="test")


@pytest.fixture
async def sites(world: World) -> list[Site]:
    return [await world.site() for _ in range(3)]


@pytest.fixture
async def team(world: World, sites: list[Site]) -> Team:
    """A project with 1,000 events of 10 bytes, all older than any limit."""
    team = await world.project(sites[0], sites[1:])
    await world.append(team.project.id, *(draft(f'"{number:08}"') for number in range(1000)))
    return team


async def acknowledge(store: Store, team: Team, *offsets: int) -> None:
    members = [team.coordinator, *team.participants]
    cursors = {(part.site_id, team.project.id): offset for part, offset in zip(members, offsets, strict=True)}
    async with store.transaction() as tx:
        await tx.cursors.advance(cursors, NOW_US)


async def kept(world: World, team: Team) -> tuple[int, int]:
    """Where the journal says it begins, and how many events there are; they are the newest ones."""
    bounds = await world.bounds(team.project.id)
    assert bounds is not None
    found = offsets(await world.read(team.project.id))
    assert found == list(range(1001 - len(found), 1001))
    return bounds.oldest, len(found)


async def test_nothing_goes_without_a_limit_and_nothing_is_asked_for(node: Node, world: World, team: Team) -> None:
    await acknowledge(world.store, team, 1000, 1000, 1000)
    assert await Trimmer(node, RetentionLimits()).trim() is False
    assert await kept(world, team) == (1, 1000)


async def test_what_all_have_acknowledged_goes_in_steps(
    node: Node, world: World, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP_ENTRIES", 100)
    trimmer = Trimmer(node, RetentionLimits(age_s=1))
    await acknowledge(world.store, team, 1000, 700, 900)
    assert await trimmer.trim() is True
    assert await kept(world, team) == (701, 300)
    await acknowledge(world.store, team, 1000, 1000, 1000)
    await trimmer.trim()
    assert await kept(world, team) == (1001, 0)
    await world.append(team.project.id, draft())
    assert await world.bounds(team.project.id) == JournalBounds(epoch=f"epoch{team.project.id}", head=1001, oldest=1001)


async def test_a_member_that_has_acknowledged_nothing_keeps_all_of_it_but_for_the_hard_limits(
    node: Node, world: World, team: Team
) -> None:
    async with world.store.transaction() as tx:
        await tx.cursors.advance({(team.coordinator.site_id, team.project.id): 1000}, NOW_US)
    await Trimmer(node, RetentionLimits(age_s=1, bytes=10)).trim()
    assert await kept(world, team) == (1, 1000)
    await Trimmer(node, RetentionLimits(age_s=1, hard_bytes=2_500)).trim()
    assert await kept(world, team) == (751, 250)


async def test_who_joined_later_lacks_nothing_from_before(node: Node, world: World, team: Team) -> None:
    await acknowledge(world.store, team, 1000, 1000, 1000)
    late = await world.site()
    async with world.store.transaction() as tx:
        await tx.participants.create(
            project_id=team.project.id,
            site_id=late.id,
            role=team.participants[0].role,
            notes="",
            joined=600,
            now_us=NOW_US,
        )
    await Trimmer(node, RetentionLimits(age_s=1)).trim()
    assert await kept(world, team) == (601, 400)


async def test_bytes_are_counted_on_from_what_was_counted(
    node: Node, world: World, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "COUNT_ENTRIES", 300)
    await acknowledge(world.store, team, 1000, 1000, 1000)
    trimmer = Trimmer(node, RetentionLimits(bytes=5_000))
    await trimmer.trim()
    assert await kept(world, team) == (501, 500)
    await world.append(team.project.id, draft(b"x" * 2_000))
    await trimmer.trim()
    bounds = await world.bounds(team.project.id)
    assert bounds is not None and (bounds.oldest, bounds.head) == (701, 1001)
    await Trimmer(node, RetentionLimits(bytes=5_000)).trim()
    assert await world.bounds(team.project.id) == bounds, "counted anew it comes to the same"


async def test_a_crash_between_the_two_halves_of_a_step_is_made_good(node: Node, world: World, team: Team) -> None:
    await acknowledge(world.store, team, 1000, 1000, 1000)
    async with world.store.transaction() as tx:
        await tx.retention.begin_at(team.project.id, 401)
    assert len(await world.read(team.project.id)) == 1000
    await Trimmer(node, RetentionLimits(bytes=6_000)).trim()
    assert await kept(world, team) == (401, 600)


async def test_a_pass_that_is_cut_off_anywhere_is_made_good(
    node: Node, world: World, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP_ENTRIES", 50)
    monkeypatch.setattr(retention, "STEP_PAUSE_S", 0.0)
    await acknowledge(world.store, team, 1000, 1000, 1000)
    trimmer = Trimmer(node, RetentionLimits(age_s=1))
    for turns in range(0, 60, 3):
        task = asyncio.create_task(trimmer.trim())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await Trimmer(node, RetentionLimits(age_s=1)).trim()
    assert await kept(world, team) == (1001, 0)


async def test_appends_go_on_while_a_journal_is_trimmed(
    node: Node, world: World, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each append gets its turn between two steps; and an id that goes this moment may be used again."""
    monkeypatch.setattr(retention, "STEP_ENTRIES", 20)
    sender = await world.site()
    again = draft(sender=sender)
    await world.append(team.project.id, again)
    await acknowledge(world.store, team, 1001, 1001, 1001)
    trimming = asyncio.create_task(Trimmer(node, RetentionLimits(age_s=1)).trim())
    appended = 0
    while not trimming.done():
        await node.writer.append(team.project.id, draft(sender=sender))
        appended += 1
    await trimming
    assert appended > 10, "50 steps leave room for more than a few appends"
    done = await node.writer.append(team.project.id, again)
    assert (done.offset, done.duplicate) == (1002 + appended, False)


async def test_a_hub_knows_where_its_journal_begins_now(node: Node, world: World, team: Team) -> None:
    await acknowledge(world.store, team, 1000, 300, 1000)
    async with node.use_hub(team.project.id) as hub:
        await Trimmer(node, RetentionLimits(age_s=1)).trim()
        assert hub is not None and hub.bounds.oldest == 301


async def test_a_journal_has_limits_of_its_own(node: Node, world: World, team: Team, sites: list[Site]) -> None:
    other = await world.project(sites[1], [sites[0]])
    await world.append(other.project.id, *(draft() for _ in range(10)))
    await acknowledge(world.store, team, 1000, 400, 1000)
    await journals.keep(world.store, team.project.id, age_s=1, bytes_=None, now_us=NOW_US)
    assert await Trimmer(node, RetentionLimits()).trim() is True
    mine, others = await journals.overview(world.store)
    assert (mine.holding.oldest, mine.events, mine.bytes, mine.slowest, mine.behind) == (
        401,
        600,
        6000,
        team.participants[0].site_uid,
        600,
    )
    assert (others.holding.oldest, others.events, others.behind) == (1, 10, 10)
    await journals.keep(world.store, team.project.id, age_s=None, bytes_=None, now_us=NOW_US)
    assert await Trimmer(node, RetentionLimits()).trim() is False
    with pytest.raises(ReplyError) as refused:
        await journals.keep(world.store, 404, age_s=1, bytes_=None, now_us=NOW_US)
    assert refused.value.code is ErrorCode.UNKNOWN_PROJECT
