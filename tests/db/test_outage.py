"""When the storage does not answer: `StorageUnavailable`, soon, whatever was under way; and all is well afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from db.connect import Database
from db.connection import Limits
from db.migrate import migrate
from db.store import Store
from relay.core.model import Draft
from relay.core.ports import StorageUnavailable
from tests.support.ports import free_port
from tests.support.postgres import Postgres
from tests.support.world import NOW_US, World, draft, offsets

LIMITS = Limits(acquire_timeout_s=1.0, command_timeout_s=0.5, pg_connections=3, readers=2)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server of this module's own, to be stopped at will."""
    with Postgres() as server:
        yield server


@pytest.fixture
async def world(server: Postgres) -> AsyncIterator[World]:
    database = Database(server.create_database(), LIMITS)
    await database.connect()
    try:
        yield World(Store(database))
    finally:
        if not server.is_running:
            server.start()
        await database.disconnect()


async def append(world: World, project_id: int) -> None:
    await world.append(project_id, draft())


async def append_fast(world: World, project_id: int) -> None:
    await world.store.append_fast({project_id: [draft()]}, NOW_US)


async def read(world: World, project_id: int) -> None:
    await world.read(project_id)


OPERATIONS = [append, append_fast, read]


async def test_while_the_server_is_stopped_everything_is_unavailable_and_works_again_when_it_is_back(
    server: Postgres, world: World
) -> None:
    project_id = (await world.project()).project.id
    await append(world, project_id)
    server.stop()
    for _ in range(3):
        for operation in OPERATIONS:
            with pytest.raises(StorageUnavailable):
                await operation(world, project_id)
    server.start()
    for operation in OPERATIONS:
        await operation(world, project_id)
    assert offsets(await world.read(project_id)) == [1, 2, 3]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_the_first_one_after_a_restart_works(server: Postgres, world: World, operation: object) -> None:
    """Connections that were idle when the server went are known to be dead."""
    assert callable(operation)
    project_id = (await world.project()).project.id
    await asyncio.gather(*(read(world, project_id) for _ in range(3)))
    await asyncio.to_thread(server.stop)  # the loop runs on, and notices
    await asyncio.to_thread(server.start)
    await operation(world, project_id)


async def test_a_transaction_that_is_cut_off_stores_nothing(server: Postgres, world: World) -> None:
    project_id = (await world.project()).project.id

    async def cut_off(before_commit: bool) -> None:
        async with world.store.transaction() as tx:
            await tx.journal.lock([project_id])
            if before_commit:
                await tx.journal.append([world.entry(project_id, 1, draft())])
            server.stop()
            if not before_commit:
                await tx.journal.append([world.entry(project_id, 1, draft())])

    for before_commit in (False, True):
        with pytest.raises(StorageUnavailable):
            await cut_off(before_commit)
        server.start()
        assert await world.read(project_id) == []
    await append(world, project_id)
    assert offsets(await world.read(project_id)) == [1]


async def test_under_load_each_append_is_there_or_unavailable(server: Postgres, world: World) -> None:
    """A crash in the middle of many: what was confirmed is there, once, in order; no connection is lost."""
    site = await world.site()
    project_id = (await world.project(site)).project.id
    confirmed: list[Draft] = []
    one_more = asyncio.Condition()

    async def publish() -> None:
        while True:
            one = draft(sender=site)
            try:
                await world.store.append_fast({project_id: [one]}, NOW_US)
            except StorageUnavailable:
                await asyncio.sleep(0.01)
                continue
            async with one_more:
                confirmed.append(one)
                one_more.notify_all()

    async def confirm(count: int) -> None:
        wanted = len(confirmed) + count
        async with asyncio.timeout(10), one_more:
            await one_more.wait_for(lambda: len(confirmed) >= wanted)

    publishers = [asyncio.create_task(publish()) for _ in range(6)]
    for _ in range(3):
        await confirm(20)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
    await confirm(20)
    for publisher in publishers:
        publisher.cancel()
    ends = await asyncio.gather(*publishers, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
    entries = await world.read(project_id)
    assert offsets(entries) == list(range(1, len(entries) + 1))
    stored = [entry.draft.id for entry in entries]
    assert len(set(stored)) == len(stored)
    assert {one.id for one in confirmed} <= set(stored)


async def test_who_is_cancelled_during_an_outage_ends(server: Postgres, world: World) -> None:
    project_id = (await world.project()).project.id
    in_it = asyncio.Event()

    async def wait_in_a_transaction() -> None:
        async with world.store.transaction() as tx:
            await tx.journal.lock([project_id])
            in_it.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait_in_a_transaction())
    await in_it.wait()
    server.stop()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.start()
    await append(world, project_id)


async def test_a_server_that_hangs_is_unavailable_and_its_connection_is_given_up(
    server: Postgres, world: World
) -> None:
    """One backend is frozen in the middle of a transaction: the others go on, and nobody gets that connection again."""
    project_id = (await world.project()).project.id
    frozen: list[int] = []

    async def freeze() -> None:
        async with world.store.database.transaction() as connection:
            row = await connection.fetch_one("SELECT pg_backend_pid() AS pid")
            assert row is not None
            frozen.append(row["pid"])
            os.kill(row["pid"], signal.SIGSTOP)
            await connection.execute("SELECT 1")

    try:
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await freeze()
        assert time.monotonic() - began < 5
        await asyncio.gather(*(append(world, project_id) for _ in range(9)))
        assert len(await world.read(project_id)) == 9
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)


async def test_connecting_to_a_server_that_is_not_there_is_unavailable() -> None:
    database = Database(f"postgresql://postgres@127.0.0.1:{free_port()}/relay", LIMITS)
    with pytest.raises(StorageUnavailable):
        await database.connect()
    await database.disconnect()


async def test_connecting_to_a_server_that_never_answers_is_unavailable_in_time() -> None:
    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    held: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    database = Database(f"postgresql://postgres@127.0.0.1:{port}/relay", LIMITS)
    began = time.monotonic()
    try:
        with pytest.raises(StorageUnavailable):
            await database.connect()
        assert time.monotonic() - began < LIMITS.acquire_timeout_s + 2
    finally:
        for writer in held:
            writer.close()
        silent.close()
        await database.disconnect()


async def test_a_database_that_does_not_exist_is_unavailable(server: Postgres) -> None:
    database = Database(server.url("no_such_database"), LIMITS)
    with pytest.raises(StorageUnavailable, match="unavailable"):
        await database.connect()
    await database.disconnect()


# SQLite


@pytest.fixture
async def on_file(tmp_path: Path) -> AsyncIterator[World]:
    database = Database(f"sqlite:///{tmp_path}/relay.db", LIMITS)
    await database.connect()
    try:
        await migrate(database)
        yield World(Store(database))
    finally:
        await database.disconnect()


async def test_a_full_disk_is_unavailable_and_what_is_there_can_be_read(on_file: World) -> None:
    project_id = (await on_file.project()).project.id
    await append(on_file, project_id)
    database = on_file.store.database
    async with database.autocommit() as connection:
        row = await connection.fetch_one("PRAGMA page_count")
        assert row is not None
        await connection.execute(f"PRAGMA max_page_count = {row['page_count'] + 2}")
    with pytest.raises(StorageUnavailable):
        await on_file.append(project_id, draft(bytes(100_000)))
    with pytest.raises(StorageUnavailable):
        await on_file.store.append_fast({project_id: [draft(bytes(100_000))]}, NOW_US)
    assert offsets(await on_file.read(project_id)) == [1]
    async with database.autocommit() as connection:
        await connection.execute("PRAGMA max_page_count = 1000000")
    await on_file.append(project_id, draft(bytes(100_000)))
    assert offsets(await on_file.read(project_id)) == [1, 2]


async def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    database = Database(f"sqlite:///{tmp_path}/folder.db", LIMITS)
    with pytest.raises(StorageUnavailable):
        await database.connect()
    await database.disconnect()


async def test_what_was_committed_is_in_the_file_after_a_crash(on_file: World, tmp_path: Path) -> None:
    """The file and its log as they stand, without a farewell, are the database."""
    project_id = (await on_file.project()).project.id
    await append(on_file, project_id)
    await append_fast(on_file, project_id)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in ("relay.db", "relay.db-wal"):
        (crashed / file).write_bytes((tmp_path / file).read_bytes())
    database = Database(f"sqlite:///{crashed}/relay.db", LIMITS)
    await database.connect()
    try:
        assert offsets(await World(Store(database)).read(project_id)) == [1, 2]
    finally:
        await database.disconnect()
