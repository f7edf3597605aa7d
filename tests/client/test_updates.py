"""Payloads of any length, to the relay and back: what they are, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.client import Event, InUse, Limits, RelayError, Site, SourceChanged, TooLong
from relay.client.site import TransportName
from tests.client.test_relay import TASKS, TIMEOUT_S, Clinic, first, user_on
from tests.client.test_rungs import QuickClinic
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

KIB = 1024
INLINE = 64 * KIB
LIMITS = Limits(
    backoff_s=0.02,
    backoff_max_s=0.1,
    connect_s=TIMEOUT_S,
    poll_s=1,
    look_s=0.3,
    inline_bytes=INLINE,
    part_bytes=512 * KIB,
    request_bytes=256 * KIB,
)


def sample(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="module")
def own_relay() -> Iterator[RelayProcess]:
    """SQLite: that both databases keep blobs is tested at the relay. One whole story is told on both below."""
    with RelayProcess() as relay:
        user_on(relay)
        yield relay


@pytest.fixture
def each_database(database_url: str) -> Iterator[RelayProcess]:
    with RelayProcess(database_url) as relay:
        user_on(relay)
        yield relay


@pytest.fixture
def clinic(own_relay: RelayProcess) -> Clinic:
    return QuickClinic(relay=own_relay)


@asynccontextmanager
async def team(
    clinic: Clinic, *, proxy: Proxy | None = None, limits: Limits = LIMITS, **options: Any
) -> AsyncIterator[tuple[Site, Site, int]]:
    """A coordinator, and a participant who may be behind a proxy."""
    uids = await asyncio.gather(clinic.register(), clinic.register())
    behind = clinic if proxy is None else replace(clinic, proxy=proxy)
    co, pa = clinic.site(uids[0], limits=limits), behind.site(uids[1], limits=limits, **options)
    async with asyncio.timeout(3 * TIMEOUT_S), co, pa:
        name = f"project-{uuid.uuid4()}"
        project = (await co.projects.create(name, tasks=TASKS))["id"]
        await pa.projects.join(name)
        yield co, pa, project


async def update(site: Site) -> Event:
    return await first(site, lambda event: event.kind == "update")


async def read(event: Event) -> bytes:
    async with event.open() as stream:
        return await stream.read()


@pytest.mark.parametrize("size", [0, 1, INLINE - 1, INLINE, INLINE + 1, 3 * 512 * KIB + 1])
async def test_every_size_arrives_as_it_was_sent(clinic: Clinic, size: int, tmp_path: Path) -> None:
    data = sample(size)
    async with team(clinic) as (co, pa, project):
        sent = await pa.send_update(project, data)
        event = await update(co)
        assert (event.offset, event.sender) == (sent.offset, pa.uid)
        if size > INLINE:
            assert event.payload is None
            assert event.data["blob"]["sha256"] == hashlib.sha256(data).hexdigest()
            assert event.data["blob"]["size"] == size
        else:
            assert (event.payload, event.data) == (data, None)
        assert await read(event) == data
        saved = await event.save(tmp_path / "model.bin")
        assert saved.read_bytes() == data
        assert [one.name for one in tmp_path.iterdir()] == ["model.bin"]


async def test_the_whole_story_on_both_databases(each_database: RelayProcess, tmp_path: Path) -> None:
    data = sample(3 * 512 * KIB + 7)
    source = tmp_path / "weights.bin"
    source.write_bytes(data)
    async with team(QuickClinic(relay=each_database)) as (co, pa, project):
        batch = await co.runs.start(project)
        run = next(run["id"] for run in batch["runs"] if run["site_uid"] == pa.uid)
        told: list[tuple[int, int]] = []
        await pa.send_update(project, source, run=run, on_progress=lambda *at: told.append(at))
        event = await update(co)
        assert (event.run, await read(event)) == (run, data)
        assert told[-1] == (len(data), len(data))
        assert [done for done, _ in told] == sorted({done for done, _ in told})
        back = await co.send_update(project, io.BytesIO(data), to=[pa.uid], filename="global.bin")
        command = await first(pa, lambda one: one.offset == back.offset)
        told.clear()
        await command.save(tmp_path / "global.bin", on_progress=lambda *at: told.append(at))
        assert (tmp_path / "global.bin").read_bytes() == data
        assert told[-1] == (len(data), len(data))
    assert {one.name for one in tmp_path.iterdir()} >= {"weights.bin", "global.bin"}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("rung", ["sse", "poll"])
async def test_the_lower_rungs_carry_it_too(clinic: Clinic, rung: TransportName) -> None:
    async with team(clinic, transports=[rung]) as (co, pa, project):
        assert pa.transport == rung
        for size in (100, INLINE + 1, 1_100_000):
            await pa.send_update(project, sample(size))
            assert await read(await update(co)) == sample(size)
            sent = await co.send_update(project, sample(size, 2))
            assert await read(await first(pa, lambda one: one.offset == sent.offset)) == sample(size, 2)  # noqa: B023


async def test_what_history_shows_can_be_read(clinic: Clinic) -> None:
    """A payload that is too long for where it was read from is fetched from the journal."""
    data = sample(2_000_000)
    async with team(clinic, limits=replace(LIMITS, inline_bytes=4_000_000)) as (co, pa, project):
        await pa.send_update(project, data)
        (event,) = await co.history(project, kind="update")
        assert (event.payload, event.size) == (None, len(data))
        assert await read(event) == data


async def test_the_relays_own_limit_counts_too() -> None:
    with RelayProcess(settings={"STARFISH_INLINE_BYTES": "65536"}) as relay:
        user_on(relay)
        async with team(QuickClinic(relay=relay), limits=replace(LIMITS, inline_bytes=10**9)) as (co, pa, project):
            for size in (65536, 65537):
                await pa.send_update(project, sample(size))
                event = await update(co)
                assert (event.payload is None) == (size > 65536)
                assert await read(event) == sample(size)


async def test_ones_own_update_is_not_shown_to_it_in_a_replay(clinic: Clinic) -> None:
    async with Proxy(clinic.relay.port) as proxy, team(clinic, proxy=proxy) as (co, pa, project):
        for size in (10, INLINE + 1):
            await pa.send_update(project, sample(size))
        proxy.cut()
        sent = await co.publish(project, "command", data="after the cut")
        async with asyncio.timeout(TIMEOUT_S):
            async for event in pa.events():
                assert event.kind != "update"
                if event.offset == sent.offset:
                    break


# What is refused


async def test_refusals_are_told(clinic: Clinic, tmp_path: Path) -> None:
    async with team(clinic) as (co, pa, project):
        with pytest.raises(RelayError, match="unknown_project"):
            await pa.send_update(project + 1000, sample(INLINE + 1))
        with pytest.raises(FileNotFoundError):
            await pa.send_update(project, tmp_path / "none")
        with pytest.raises(TypeError):
            await pa.send_update(project, 5)  # type: ignore[arg-type]
        await pa.send_update(project, sample(INLINE + 1))
        event = await update(co)
        with pytest.raises(TooLong):
            await event.save(tmp_path / "model.bin", max_bytes=INLINE)
        with pytest.raises(ValueError, match="has no payload"):
            await read(replace(event, data={"blob": {"id": "../projects"}}))
        with pytest.raises(RelayError, match="unknown_blob"):
            await replace(event, data={"blob": {"id": str(uuid.uuid4())}}).save(tmp_path / "model.bin")
    assert not list(tmp_path.iterdir())


async def test_a_file_that_changes_is_not_published(clinic: Clinic, tmp_path: Path) -> None:
    source = tmp_path / "model.bin"
    source.write_bytes(sample(3_000_000))
    async with team(clinic) as (co, pa, project):
        changed = False

        def change(done: int, _total: int) -> None:
            nonlocal changed
            if not changed and done > 500_000:
                changed = True
                source.write_bytes(sample(3_000_000, 2))

        with pytest.raises(SourceChanged):
            await pa.send_update(project, source, on_progress=change)
        assert await co.history(project, kind="update") == []
        await pa.send_update(project, source)
        assert await read(await update(co)) == sample(3_000_000, 2)
    assert [one.name for one in tmp_path.iterdir()] == ["model.bin"]


async def test_one_at_a_time_sends_the_same(clinic: Clinic, tmp_path: Path) -> None:
    async with team(clinic) as (_, pa, project):
        began = asyncio.Event()
        data = sample(1_500_000)
        sending = asyncio.create_task(pa.send_update(project, data, state=tmp_path, on_progress=lambda *_: began.set()))
        await began.wait()
        if not sending.done():
            with pytest.raises(InUse):
                await pa.send_update(project, data, state=tmp_path)
        await sending
    assert not list(tmp_path.iterdir())
