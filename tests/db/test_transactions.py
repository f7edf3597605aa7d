"""Transactions end: committed whole or rolled back whole, also under cancellation, and their connections come back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from db.connect import Database
from db.connection import Limits
from db.store import Store
from relay.core.ports import AlreadyThere, StorageUnavailable
from tests.support.world import NOW_US, World, draft, offsets

CONNECTIONS = 3
BUSY_TIMEOUT_S = 0.3

BUSY = """SELECT state, query FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"""
"""What other sessions are at, as the PostgreSQL server sees it."""


@pytest.fixture
async def narrow(database_url: str, database: Database) -> AsyncIterator[World]:
    """A storage with few connections and little patience: a leaked connection is soon missed."""
    async with _world(database_url, BUSY_TIMEOUT_S) as world:
        yield world


@pytest.fixture
async def patient(database_url: str, database: Database) -> AsyncIterator[World]:
    """As few connections, and as much patience as a busy machine may need."""
    async with _world(database_url, 60.0) as world:
        yield world


@asynccontextmanager
async def _world(database_url: str, acquire_timeout_s: float) -> AsyncIterator[World]:
    limits = Limits(acquire_timeout_s=acquire_timeout_s, readers=CONNECTIONS, pg_connections=CONNECTIONS)
    opened = Database(database_url, limits)
    await opened.connect()
    try:
        yield World(Store(opened))
    finally:
        await opened.disconnect()


async def make_users(store: Store, *names: str, then: Exception | None = None) -> None:
    """In one transaction; which raises at its end, if it is to."""
    async with store.transaction() as tx:
        for name in names:
            await tx.users.create(username=name, email="", password_hash="", is_operator=False, now_us=NOW_US)
        if then is not None:
            raise then


async def exists(store: Store, name: str) -> bool:
    async with store.snapshot() as tx:
        return await tx.users.by_name(name) is not None


async def all_connections_work(world: World) -> None:
    """As many transactions as there are connections, all open at the same time; and no session is in one afterwards."""
    everybody = asyncio.Barrier(CONNECTIONS)

    async def read() -> None:
        async with world.store.snapshot() as tx:
            await everybody.wait()
            assert await tx.users.by_name("nobody") is None

    async with asyncio.timeout(5):
        await asyncio.gather(*(read() for _ in range(CONNECTIONS)))
        assert await world.works()
        if world.store.database.dialect == "postgresql":
            async with world.store.database.autocommit() as connection:
                assert list(await connection.fetch_all(BUSY)) == []


# Whole or not at all


async def test_a_transaction_that_raises_stores_nothing(narrow: World) -> None:
    with pytest.raises(RuntimeError, match="mine"):
        await make_users(narrow.store, "a", then=RuntimeError("mine"))
    assert not await exists(narrow.store, "a")
    await all_connections_work(narrow)


async def test_a_transaction_is_seen_by_others_when_it_has_committed_and_not_before(narrow: World) -> None:
    async with narrow.store.transaction() as tx:
        await tx.users.create(username="a", email="", password_hash="", is_operator=False, now_us=NOW_US)
        seen = asyncio.create_task(exists(narrow.store, "a"))
        assert not await seen
    assert await exists(narrow.store, "a")


async def test_a_taken_name_is_already_there_and_stores_nothing(narrow: World) -> None:
    await make_users(narrow.store, "taken")
    with pytest.raises(AlreadyThere):
        await make_users(narrow.store, "new", "taken")
    assert not await exists(narrow.store, "new")
    await all_connections_work(narrow)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO tokens (id, site_id, label, digest, created_us) VALUES ('t', 404, '', x, 0)",
        "INSERT INTO site_keys (site_id, name, value) VALUES (404, '', '')",
        "INSERT INTO cursors (site_id, project_id) VALUES (1, NULL)",
        "SELECT no_such_column FROM users",
        "SELECT 1 FROM no_such_table",
        "SELEKT 1",
    ],
    ids=["unknown column", "foreign key", "not null", "unknown column in select", "unknown table", "syntax"],
)
async def test_a_fault_of_ours_is_neither_already_there_nor_unavailable(narrow: World, statement: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the two drivers have no common error
        async with narrow.store.database.transaction() as connection:
            await connection.execute(statement)
    assert not isinstance(caught.value, AlreadyThere | StorageUnavailable), repr(caught.value)
    await all_connections_work(narrow)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
async def test_a_value_that_fits_no_column_is_neither_already_there_nor_unavailable(narrow: World, value: int) -> None:
    """`unavailable` would have the client send it again for ever."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        async with narrow.store.snapshot() as tx:
            await tx.runs.get(value)
    assert not isinstance(caught.value, AlreadyThere | StorageUnavailable), repr(caught.value)
    await all_connections_work(narrow)


async def test_a_snapshot_sees_one_state(narrow: World) -> None:
    project = (await narrow.project()).project
    await narrow.append(project.id, draft())
    async with narrow.store.snapshot() as tx:
        before = await tx.journal.bounds(project.id)
        await asyncio.create_task(narrow.append(project.id, draft(), draft()))  # a task: on a connection of its own
        assert before is not None and before.head == 1
        assert offsets(await tx.journal.read(project.id, 0, limit=9, max_bytes=999)) == [1]
        assert await tx.journal.bounds(project.id) == before
    assert offsets(await narrow.read(project.id)) == [1, 2, 3]


async def test_a_snapshot_cannot_write(narrow: World) -> None:
    user = await narrow.user()
    with pytest.raises(StorageUnavailable, match="unavailable"):
        async with narrow.store.snapshot() as tx:
            await tx.users.set_active(user.id, active=False)


async def test_a_snapshot_within_a_transaction_is_apart_from_it(narrow: World) -> None:
    """It sees what was there before, and its end does not end the transaction."""

    async def look_and_fail() -> None:
        async with narrow.store.transaction() as tx:
            await tx.users.create(username="a", email="", password_hash="", is_operator=False, now_us=NOW_US)
            assert not await exists(narrow.store, "a")
            raise RuntimeError("after the look")

    with pytest.raises(RuntimeError, match="after the look"):
        await look_and_fail()
    assert not await exists(narrow.store, "a")


# Waiting


async def test_who_waits_too_long_for_a_connection_is_told_that_the_storage_is_unavailable(narrow: World) -> None:
    async with asyncio.TaskGroup() as group:
        release = asyncio.Event()

        async def hold(ready: asyncio.Event) -> None:
            async with narrow.store.transaction():
                ready.set()
                await release.wait()

        readies = [asyncio.Event() for _ in range(CONNECTIONS if narrow.store.database.dialect != "sqlite" else 1)]
        for ready in readies:
            group.create_task(hold(ready))
            await ready.wait()
        with pytest.raises(StorageUnavailable):
            async with narrow.store.transaction():
                pass
        release.set()
    await all_connections_work(narrow)


async def test_who_waits_too_long_for_a_lock_is_told_that_the_storage_is_unavailable(
    narrow: World, database: Database
) -> None:
    """The lock is another relay's, or the command line's."""
    project = (await narrow.project()).project
    other = Store(database)
    async with other.transaction() as tx:
        await tx.journal.lock([project.id])
        with pytest.raises(StorageUnavailable):
            await asyncio.create_task(narrow.store.append_fast({project.id: [draft()]}, NOW_US))
        with pytest.raises(StorageUnavailable):
            await asyncio.create_task(narrow.append(project.id, draft()))
    await all_connections_work(narrow)
    await narrow.append(project.id, draft())
    assert offsets(await narrow.read(project.id)) == [1]


async def test_writers_are_served_in_turn(patient: World) -> None:
    """More writers than connections, each for a moment: nobody starves."""
    project = (await patient.project()).project
    await asyncio.gather(*(patient.append(project.id, draft()) for _ in range(20)))
    assert offsets(await patient.read(project.id)) == list(range(1, 21))


# Cancellation


async def append_in_steps(world: World, project_id: int, name: str) -> None:
    """A change of state of several statements: a user and an event, or neither."""
    async with world.store.transaction() as tx:
        await tx.journal.lock([project_id])
        await tx.users.create(username=name, email="", password_hash="", is_operator=False, now_us=NOW_US)
        bounds = await tx.journal.bounds(project_id)
        assert bounds is not None
        entries = [
            entry
            for entry in (await tx.journal.read(project_id, bounds.head - 1, limit=1, max_bytes=1))
            if entry.offset == bounds.head
        ]
        assert len(entries) == min(1, bounds.head)
        await tx.journal.append([world.entry(project_id, bounds.head + 1, draft(id=name))])


async def assert_whole(world: World, project_id: int, names: list[str]) -> list[str]:
    """Each name is a user and an event, or neither; the offsets are gapless. Returns the names that are."""
    entries = await world.read(project_id)
    assert offsets(entries) == list(range(1, len(entries) + 1))
    told = {entry.draft.id for entry in entries}
    async with world.store.snapshot() as tx:
        made = {name for name in names if await tx.users.by_name(name) is not None}
    assert told == made
    return sorted(made)


async def cancel_after(task: asyncio.Task[None], delay_s: float) -> bool:
    """Cancel a task when it has run for a while. True if it ended by that."""
    await asyncio.wait([task], timeout=delay_s)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None
    return task.cancelled()


async def test_a_cancelled_transaction_is_rolled_back_or_committed_and_leaks_nothing(narrow: World) -> None:
    """Hundreds, cancelled at any point of their life, many at a time."""
    project_id = (await narrow.project()).project.id
    names = [f"name-{number}" for number in range(300)]
    random_of = random.Random(11)
    gate = asyncio.Semaphore(CONNECTIONS * 2)

    async def attempt(name: str) -> bool:
        async with gate:
            task = asyncio.create_task(append_in_steps(narrow, project_id, name))
            return await cancel_after(task, random_of.uniform(0, 0.02))

    cancelled = await asyncio.gather(*(attempt(name) for name in names))
    assert sum(cancelled) > 20, "too few were cancelled to prove anything"
    made = await assert_whole(narrow, project_id, names)
    assert {name for name, was in zip(names, cancelled, strict=True) if not was} <= set(made)
    await all_connections_work(narrow)


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
async def test_a_transaction_that_is_cancelled_at_each_step_of_the_loop_leaks_nothing(
    narrow: World, again: bool
) -> None:
    """One at a time, cancelled after 0, 1, 2 … turns of the loop, until one gets through; some cancelled twice."""
    project_id = (await narrow.project()).project.id
    names: list[str] = []
    for turns in range(2000):
        names.append(f"name-{turns}")
        task = asyncio.create_task(append_in_steps(narrow, project_id, names[-1]))
        for _ in range(turns * (1 + turns // 20)):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        if again:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
    else:
        raise AssertionError("no transaction got through")
    assert turns > 10
    assert names[-1] in await assert_whole(narrow, project_id, names)
    await all_connections_work(narrow)


async def test_appends_at_once_that_are_cancelled_leave_no_gap(narrow: World) -> None:
    project_id = (await narrow.project()).project.id
    random_of = random.Random(12)

    async def append() -> None:
        await narrow.store.append_fast({project_id: [draft(), draft()]}, NOW_US)

    for _ in range(150):
        await cancel_after(asyncio.create_task(append()), random_of.uniform(0, 0.003))
    entries = await narrow.read(project_id)
    assert offsets(entries) == list(range(1, len(entries) + 1))
    assert len(entries) % 2 == 0
    await all_connections_work(narrow)


async def test_who_appends_without_a_pause_leaves_the_others_their_turn(narrow: World) -> None:
    project_id = (await narrow.project()).project.id

    async def append_on_and_on() -> None:
        while True:
            await narrow.store.append_fast({project_id: [draft()]}, NOW_US)

    appending = asyncio.create_task(append_on_and_on())
    for number in range(20):
        await make_users(narrow.store, f"{number}")  # or it is told that it has waited too long
    appending.cancel()
    await asyncio.wait([appending])


async def test_who_is_cancelled_while_waiting_for_a_connection_does_not_take_it_along(narrow: World) -> None:
    async def wait_for_it() -> None:
        async with narrow.store.transaction():
            raise AssertionError("there is no connection to be had")

    for _ in range(20):
        async with asyncio.TaskGroup() as group:
            release = asyncio.Event()

            async def hold(ready: asyncio.Event, release: asyncio.Event) -> None:
                async with narrow.store.transaction():
                    ready.set()
                    await release.wait()

            for _ in range(CONNECTIONS if narrow.store.database.dialect != "sqlite" else 1):
                ready = asyncio.Event()
                group.create_task(hold(ready, release))
                await ready.wait()
            waiting = asyncio.create_task(wait_for_it())
            await asyncio.sleep(0)
            release.set()  # given back, and cancelled, in the same turn of the loop
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await all_connections_work(narrow)
