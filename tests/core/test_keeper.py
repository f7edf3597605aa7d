"""What may be written a moment later: the newest of each, in few transactions, and nothing of it lost by an outage."""

from __future__ import annotations

import asyncio

import pytest

from relay.core.keeper import Keeper
from relay.core.model import Entry, Kind, Role
from tests.support.clock import Clock, settle
from tests.support.fakes import FakeStore
from tests.support.world import NOW_US, draft

INTERVAL_S = 0.05


@pytest.fixture
async def keeper(store: FakeStore, clock: Clock) -> Keeper:
    return Keeper(store.port, lambda: NOW_US, INTERVAL_S)


def progress(number: int, *, run: int = 1, project: int = 1, batch: int = 1) -> Entry:
    one = draft(f"{number}", kind=Kind.PROGRESS, run=run, batch=batch, sender_id=5, sender_uid="u")
    return Entry(project_id=project, offset=None, at_us=NOW_US, draft=one)


async def test_the_newest_of_each_is_written_in_one_transaction(store: FakeStore, keeper: Keeper, clock: Clock) -> None:
    for number in range(1, 101):
        keeper.acknowledged(1, 10, number)
        keeper.acknowledged(2, 10, number * 2)
        keeper.progressed(progress(number))
        keeper.changed_presence(3, number % 2 == 0)
    assert store.commits == 0
    await clock.advance(INTERVAL_S * 1.5)
    assert store.commits == 1
    assert store.state.cursors == {(1, 10): 100, (2, 10): 200}
    assert [entry.draft.data for entry in store.state.progress.values()] == [b"100"]
    assert store.state.presence == {3: (True, NOW_US)}


async def test_when_nothing_changes_nothing_runs(store: FakeStore, keeper: Keeper, clock: Clock) -> None:
    keeper.acknowledged(1, 10, 1)
    await clock.advance(1)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    commits = store.commits
    await clock.advance(100)
    assert store.commits == commits == 1


async def test_a_cursor_that_is_older_than_one_that_waits_does_not_count(
    store: FakeStore, keeper: Keeper, clock: Clock
) -> None:
    for offset in (3, 7, 5):
        keeper.acknowledged(1, 10, offset)
    await clock.advance(1)
    assert store.state.cursors == {(1, 10): 7}


async def test_what_changes_while_it_is_written_is_written_again(
    store: FakeStore, keeper: Keeper, clock: Clock
) -> None:
    store.gate.clear()
    keeper.acknowledged(1, 10, 1)
    keeper.acknowledged(2, 10, 1)
    await clock.advance(INTERVAL_S * 1.5)
    keeper.acknowledged(1, 10, 2)
    store.gate.set()
    await clock.advance(INTERVAL_S * 3)
    assert store.state.cursors == {(1, 10): 2, (2, 10): 1}
    assert store.commits == 2


async def test_during_an_outage_the_newest_waits(store: FakeStore, keeper: Keeper, clock: Clock) -> None:
    store.down = True
    for offset in range(1, 30):
        keeper.acknowledged(1, 10, offset)
        keeper.changed_presence(3, offset % 2 == 0)
        await clock.advance(1)
    assert store.commits == 0
    store.down = False
    await clock.advance(6)
    assert store.state.cursors == {(1, 10): 29}
    assert store.state.presence == {3: (False, NOW_US)}
    assert store.commits == 1


async def test_a_write_that_was_cut_off_though_it_happened_is_repeated(
    store: FakeStore, keeper: Keeper, clock: Clock
) -> None:
    store.doubtful = True
    keeper.acknowledged(1, 10, 4)
    await clock.advance(INTERVAL_S * 1.5)
    store.doubtful = False
    await clock.advance(6)
    assert store.state.cursors == {(1, 10): 4}
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_end_writes_what_waits_at_once(store: FakeStore, keeper: Keeper) -> None:
    keeper.acknowledged(1, 10, 4)
    keeper.changed_presence(3, online=True)
    async with asyncio.timeout(1):
        await keeper.close()
    assert store.state.cursors == {(1, 10): 4}
    assert store.state.presence == {3: (True, NOW_US)}
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_end_does_not_wait_for_a_storage_that_is_down(store: FakeStore, keeper: Keeper) -> None:
    store.down = True
    keeper.acknowledged(1, 10, 4)
    async with asyncio.timeout(1):
        await keeper.close()
    assert store.state.cursors == {}


# Reading what is not written yet


async def test_cursors_are_the_newest_written_or_not(store: FakeStore, keeper: Keeper, clock: Clock) -> None:
    keeper.acknowledged(1, 10, 4)
    keeper.acknowledged(1, 11, 9)
    await clock.advance(1)
    store.down = True
    keeper.acknowledged(1, 10, 6)
    keeper.acknowledged(1, 11, 3)
    keeper.acknowledged(2, 10, 1)
    await settle()
    store.down = False
    assert await keeper.cursors_of(1) == {10: 6, 11: 9}
    assert await keeper.cursors_in(10) == {1: 6, 2: 1}


@pytest.mark.parametrize("turns", range(10))
async def test_cursors_do_not_go_back_while_they_are_written(store: FakeStore, keeper: Keeper, turns: int) -> None:
    """A reader sees the waiting one or the stored one, and never neither."""
    keeper.acknowledged(1, 10, 4)
    closing = asyncio.create_task(keeper.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    assert await keeper.cursors_of(1) == {10: 4}
    await closing


@pytest.mark.parametrize("turns", range(10))
async def test_cursors_of_a_project_do_not_go_back_either(store: FakeStore, keeper: Keeper, turns: int) -> None:
    keeper.acknowledged(1, 10, 4)
    closing = asyncio.create_task(keeper.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    assert await keeper.cursors_in(10) == {1: 4}
    await closing


@pytest.mark.parametrize("turns", range(10))
async def test_where_sites_stand_does_not_go_back_either(store: FakeStore, keeper: Keeper, turns: int) -> None:
    async with store.transaction() as tx:
        site = await tx.sites.create(uid="u", name="s", description="", owner_id=1, connected=False, now_us=NOW_US)
        for project_id in (10, 11):
            await tx.participants.create(
                project_id=project_id, site_id=site.id, role=Role.PARTICIPANT, notes="", joined=0, now_us=NOW_US
            )
    keeper.acknowledged(site.id, 10, 4)
    keeper.acknowledged(site.id, 12, 4)
    closing = asyncio.create_task(keeper.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    assert await keeper.standings([site.id, 404]) == {site.id: {10: 4, 11: None}}
    await closing


async def test_a_site_that_left_has_no_waiting_cursor(store: FakeStore, keeper: Keeper, clock: Clock) -> None:
    keeper.acknowledged(1, 10, 4)
    keeper.acknowledged(1, 11, 4)
    keeper.forget(1, 10)
    keeper.forget(1, 12)
    await clock.advance(1)
    assert store.state.cursors == {(1, 11): 4}


async def test_progress_that_waits_is_found_by_batch(keeper: Keeper) -> None:
    wanted = [progress(1, run=1), progress(2, run=2)]
    for entry in (*wanted, progress(3, run=3, batch=2), progress(4, run=4, project=2)):
        keeper.progressed(entry)
    assert list(keeper.waiting_progress(1, 1).values()) == wanted
    await keeper.close()
