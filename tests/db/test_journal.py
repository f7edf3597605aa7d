"""The journal: what is appended is there once, without gaps, in the order of its commits."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from db.connect import Database
from db.store import Store
from relay.core.model import Draft, Entry, Kind
from relay.core.ports import AlreadyThere
from relay.protocol.position import JournalBounds
from tests.support.world import NOW_US, World, draft, offsets


@pytest.fixture
async def stores(database_url: str, store: Store) -> AsyncIterator[list[Store]]:
    """Two relays' storages on one database."""
    second = Database(database_url)
    await second.connect()
    try:
        yield [store, Store(second)]
    finally:
        await second.disconnect()


async def test_a_new_journal_is_empty(world: World) -> None:
    project = (await world.project()).project
    assert await world.bounds(project.id) == JournalBounds(epoch=f"epoch{project.id}", head=0, oldest=1)
    assert await world.read(project.id) == []


async def test_a_project_that_is_not_there_has_no_journal(world: World) -> None:
    assert await world.bounds(404) is None
    assert await world.read(404) == []
    async with world.store.transaction() as tx:
        assert await tx.journal.lock([404]) == {}
    assert await world.store.append_fast({404: [draft()]}, NOW_US) == {}
    assert await world.read(404) == []


ENTRIES = {
    "data": draft('{"a": [1, "é€𝄞"], "raw":1e400}'),
    "payload": draft(b"\x00\xff" * 100),
    "an empty payload": draft(b""),
    "everything": Draft(
        kind=Kind.UPDATE,
        id=str(uuid.uuid4()),
        sender_id=7,
        sender_uid=str(uuid.uuid4()),
        run=5,
        batch=6,
        audience=frozenset({3, 1, 2**40}),
        data=b"null",
        receipts=True,
    ),
    "an audience of nobody": draft("{}", audience=frozenset()),
    "the relay's own": draft('{"change":"joined"}', kind=Kind.PARTICIPANT, subject_id=9),
}


@pytest.mark.parametrize("one", ENTRIES.values(), ids=ENTRIES)
async def test_what_is_read_is_what_was_appended(world: World, one: Draft) -> None:
    project = (await world.project()).project
    (appended,) = await world.append(project.id, one)
    assert await world.read(project.id) == [appended]
    async with world.store.snapshot() as tx:
        assert await tx.journal.get(project.id, 1) == appended
        assert await tx.journal.get(project.id, 2) is None


@pytest.mark.parametrize("one", ENTRIES.values(), ids=ENTRIES)
async def test_what_is_read_is_what_was_appended_at_once(world: World, one: Draft) -> None:
    project = (await world.project()).project
    await world.store.append_fast({project.id: [one]}, NOW_US)
    expected = one if one.subject_id is None else replace(one, subject_id=None)  # only a change of state has a subject
    assert [replace(entry.draft, subject_id=None) for entry in await world.read(project.id)] == [expected]


async def test_the_session_that_published_is_not_stored(world: World) -> None:
    project = (await world.project()).project
    await world.append(project.id, draft(origin="a session"))
    (entry,) = await world.read(project.id)
    assert entry.draft.origin is None


# Appending at once


async def test_a_group_has_the_last_offsets_in_its_order(world: World) -> None:
    project = (await world.project()).project
    await world.append(project.id, draft(), draft())
    group = [draft(f"{number}") for number in range(50)]
    bounds = await world.store.append_fast({project.id: group}, NOW_US)
    assert bounds == {project.id: JournalBounds(epoch=f"epoch{project.id}", head=52, oldest=1)}
    entries = await world.read(project.id, 2)
    assert offsets(entries) == list(range(3, 53))
    assert [entry.draft for entry in entries] == group


async def test_groups_of_several_projects_are_one_commit(world: World) -> None:
    first, second = [(await world.project()).project for _ in range(2)]
    drafts = {second.id: [draft("1"), draft("2")], first.id: [draft("3")], 404: [draft("4")]}
    bounds = await world.store.append_fast(drafts, NOW_US)
    assert {project_id: bound.head for project_id, bound in bounds.items()} == {first.id: 1, second.id: 2}
    for project in (first, second):
        assert [entry.draft for entry in await world.read(project.id)] == drafts[project.id]


async def test_appending_nothing_is_nothing(world: World) -> None:
    assert await world.store.append_fast({}, NOW_US) == {}


# Idempotency


async def test_an_id_that_is_there_stores_nothing_of_the_group(world: World) -> None:
    site = await world.site()
    first, second = [(await world.project(site)).project for _ in range(2)]
    known = draft(sender=site)
    await world.append(first.id, known)
    with pytest.raises(AlreadyThere):
        await world.store.append_fast({first.id: [draft(sender=site), known], second.id: [draft(sender=site)]}, NOW_US)
    assert offsets(await world.read(first.id)) == [1]
    assert await world.read(second.id) == []
    assert (await world.store.append_fast({first.id: [draft(sender=site)]}, NOW_US))[first.id].head == 2


async def test_an_id_twice_in_a_group_stores_nothing(world: World) -> None:
    site = await world.site()
    project = (await world.project(site)).project
    twice = draft(sender=site)
    with pytest.raises(AlreadyThere):
        await world.store.append_fast({project.id: [twice, draft(sender=site), twice]}, NOW_US)
    with pytest.raises(AlreadyThere):
        await world.append(project.id, twice, twice)
    assert await world.bounds(project.id) == JournalBounds(epoch=f"epoch{project.id}", head=0)


async def test_the_key_is_site_project_and_id(world: World) -> None:
    sites = [await world.site() for _ in range(2)]
    projects = [(await world.project(sites[0])).project for _ in range(2)]
    for project in projects:
        for site in sites:
            await world.append(project.id, draft(sender=site, id="the same"))
    for project in projects:
        assert offsets(await world.read(project.id)) == [1, 2]


async def test_the_relays_own_events_have_no_key(world: World) -> None:
    project = (await world.project()).project
    await world.append(project.id, draft(id="same"), draft(id="same"))
    assert offsets(await world.read(project.id)) == [1, 2]


async def test_offsets_are_found_by_sender_and_id(world: World) -> None:
    site, other = await world.site(), await world.site()
    project = (await world.project(site)).project
    drafts = [draft(sender=site) for _ in range(3)]
    await world.append(project.id, *drafts)
    keys = [(site.id, one.id) for one in drafts] + [(other.id, drafts[0].id), (site.id, "unknown")]
    async with world.store.snapshot() as tx:
        assert await tx.journal.offsets_of(project.id, keys) == dict(zip(keys[:3], [1, 2, 3], strict=True))
        assert await tx.journal.offsets_of(project.id, []) == {}


# Reading


async def test_reading_goes_on_after_an_offset_up_to_a_limit(world: World) -> None:
    project = (await world.project()).project
    await world.append(project.id, *(draft() for _ in range(10)))
    assert offsets(await world.read(project.id, 0, limit=3)) == [1, 2, 3]
    assert offsets(await world.read(project.id, 7, limit=5)) == [8, 9, 10]
    assert await world.read(project.id, 10) == []
    assert await world.read(project.id, 99) == []


async def test_reading_is_bounded_in_bytes_but_gives_one_entry_at_least(world: World) -> None:
    project = (await world.project()).project
    await world.append(project.id, *(draft(bytes(size)) for size in (100, 10, 0, 10, 1000, 5)))
    assert offsets(await world.read(project.id, 0, max_bytes=1)) == [1]
    assert offsets(await world.read(project.id, 0, max_bytes=100)) == [1]
    assert offsets(await world.read(project.id, 0, max_bytes=119)) == [1, 2, 3]
    assert offsets(await world.read(project.id, 0, max_bytes=120)) == [1, 2, 3, 4]
    assert offsets(await world.read(project.id, 4, max_bytes=999)) == [5]
    assert offsets(await world.read(project.id, 1, max_bytes=1_025)) == [2, 3, 4, 5, 6]


async def test_reading_one_kind_counts_that_kind_alone(world: World) -> None:
    project = (await world.project()).project
    kinds = [Kind.LOG, Kind.UPDATE, Kind.LOG, Kind.MESSAGE, Kind.UPDATE, Kind.UPDATE]
    await world.append(project.id, *(draft(bytes(10), kind=kind) for kind in kinds))
    assert offsets(await world.read(project.id, kind="update")) == [2, 5, 6]
    assert offsets(await world.read(project.id, 2, kind="update", limit=1)) == [5]
    assert offsets(await world.read(project.id, kind="update", max_bytes=20)) == [2, 5]
    assert await world.read(project.id, kind="key") == []
    assert await world.read(project.id, kind="no such kind") == []


async def test_a_page_does_not_see_another_project(world: World) -> None:
    first, second = [(await world.project()).project for _ in range(2)]
    await world.append(first.id, draft())
    await world.append(second.id, draft(), draft())
    assert [entry.project_id for entry in await world.read(first.id)] == [first.id]


async def test_entries_that_await_receipts_are_the_newest_in_order_without_their_payloads(world: World) -> None:
    site = await world.site()
    project = (await world.project(site)).project
    wanted = [draft(b"payload", sender=site, receipts=True, audience=frozenset({1})) for _ in range(4)]
    for one in wanted:
        await world.append(project.id, one, draft(b"payload", sender=site))
    async with world.store.snapshot() as tx:
        entries = await tx.journal.awaiting_receipt(project.id, limit=3)
    assert offsets(entries) == [3, 5, 7]
    assert [replace(entry.draft, data=None, payload=None) for entry in entries] == [
        replace(one, data=None, payload=None) for one in wanted[1:]
    ]
    assert not any(entry.draft.payload or entry.draft.data for entry in entries)


# Order


async def test_offset_order_is_commit_order(stores: list[Store]) -> None:
    """While many append through several connections, by both ways in, no reader sees an offset before a lower one."""
    world = World(stores[0])
    project = (await world.project()).project
    sites = [await world.site() for _ in range(12)]
    published: dict[int, list[str]] = {site.id: [] for site in sites}
    random_of = random.Random(7)
    done = asyncio.Event()

    async def publish(number: int) -> None:
        site, through = sites[number], World(stores[number % 2])
        for _ in range(8):
            drafts = [draft(sender=site) for _ in range(random_of.randint(1, 3))]
            if random_of.random() < 0.5:
                await through.append(project.id, *drafts)
            else:
                await through.store.append_fast({project.id: drafts}, NOW_US)
            published[site.id] += [one.id for one in drafts]

    async def watch(store: Store) -> list[Entry]:
        seen: list[Entry] = []
        while True:
            last = done.is_set()
            page = await World(store).read(project.id, len(seen))
            assert offsets(page) == list(range(len(seen) + 1, len(seen) + 1 + len(page)))
            seen += page
            if last:
                return seen
            await asyncio.sleep(0)

    watchers = [asyncio.create_task(watch(store)) for store in stores]
    async with asyncio.TaskGroup() as group:
        for number in range(len(sites)):
            group.create_task(publish(number))
    done.set()
    for seen in await asyncio.gather(*watchers):
        assert len(seen) == sum(map(len, published.values()))
        for site in sites:
            assert [entry.draft.id for entry in seen if entry.draft.sender_id == site.id] == published[site.id]


async def test_an_append_waits_for_the_one_before_it(stores: list[Store]) -> None:
    """The head is held until the commit: the second, though begun earlier than that, counts on from there."""
    project = (await World(stores[0]).project()).project
    holding = asyncio.Event()
    release = asyncio.Event()

    async def hold() -> None:
        async with stores[0].transaction() as tx:
            await tx.journal.lock([project.id])
            holding.set()
            await release.wait()
            entry = Entry(project_id=project.id, offset=1, at_us=NOW_US, draft=draft("1"))
            await tx.journal.append([entry])

    holder = asyncio.create_task(hold())
    await holding.wait()
    second = asyncio.create_task(stores[1].append_fast({project.id: [draft("2")]}, NOW_US))
    third = asyncio.create_task(World(stores[0]).append(project.id, draft("3")))
    done, _ = await asyncio.wait([second, third], timeout=0.1)
    assert not done
    release.set()
    await asyncio.gather(holder, second, third)
    entries = await World(stores[0]).read(project.id)
    assert offsets(entries) == [1, 2, 3]
    assert entries[0].draft.data == b"1"


async def test_groups_over_the_same_projects_in_any_order_do_not_deadlock(stores: list[Store]) -> None:
    worlds = [World(store) for store in stores]
    projects = [(await worlds[0].project()).project.id for _ in range(3)]

    async def publish(number: int) -> None:
        order = random.Random(number).sample(projects, 3)
        await stores[number % 2].append_fast({project_id: [draft()] for project_id in order}, NOW_US)
        async with stores[number % 2].transaction() as tx:
            held = await tx.journal.lock(order)
            await tx.journal.append(
                [Entry(project_id=p, offset=bounds.head + 1, at_us=NOW_US, draft=draft()) for p, bounds in held.items()]
            )

    await asyncio.gather(*(publish(number) for number in range(20)))
    for project_id in projects:
        assert offsets(await worlds[0].read(project_id)) == list(range(1, 41))


# The end of a project


async def test_a_deleted_project_takes_its_journal_along(world: World) -> None:
    site = await world.site()
    gone, kept = [(await world.project(site)).project for _ in range(2)]
    for project in (gone, kept):
        await world.append(project.id, draft(sender=site))
    async with world.store.transaction() as tx:
        await tx.projects.delete(gone.id)
    assert await world.bounds(gone.id) is None
    assert await world.read(gone.id) == []
    assert await world.store.append_fast({gone.id: [draft(sender=site)]}, NOW_US) == {}
    assert offsets(await world.read(kept.id)) == [1]
