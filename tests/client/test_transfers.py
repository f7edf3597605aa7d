"""Payloads on a bad day: links that are cut, a relay and a client that are killed, bytes that are flipped."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.client import Closed, Corrupted, Event, Site
from tests.blobs.tus import STREAM, TUS, metadata
from tests.client.test_relay import PASSWORD, USER, Clinic, first, user_on
from tests.client.test_rungs import QuickClinic
from tests.client.test_updates import LIMITS, read, sample, team, update
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

MIB = 2**20
SIZE = 24 * MIB
DATA = sample(SIZE)
AGAIN = 1.02
"""What may be sent in all for each byte, headers and the session beside it included."""
SHORT = replace(LIMITS, request_bytes=32 * MIB, parallel_parts=1)
LONG = replace(LIMITS, request_bytes=32 * MIB, part_bytes=4 * MIB, parallel_parts=3)


@pytest.fixture(scope="module")
def own_relay() -> Iterator[RelayProcess]:
    """A relay that these tests may kill."""
    with RelayProcess() as relay:
        user_on(relay)
        yield relay


@pytest.fixture
def clinic(own_relay: RelayProcess) -> Clinic:
    return QuickClinic(relay=own_relay)


@pytest.fixture
async def proxy(own_relay: RelayProcess) -> AsyncIterator[Proxy]:
    async with Proxy(own_relay.port, large=True) as between:
        yield between


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "model.bin"
    path.parent.mkdir()
    path.write_bytes(DATA)
    return path


async def until(condition: Callable[[], object]) -> None:
    """Wait for other processes, for as long as the test itself may take: no event tells of how far they are."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


def hidden(path: Path) -> list[Path]:
    """Notes, and part files."""
    return list(path.glob(".*"))


@asynccontextmanager
async def published(clinic: Clinic, proxy: Proxy) -> AsyncIterator[tuple[Site, Event]]:
    """A participant behind the proxy that was sent `DATA`, and the event."""
    async with team(clinic, proxy=proxy, limits=SHORT) as (co, pa, project):
        await co.send_update(project, DATA)
        yield pa, await update(pa)


# Links that are cut


@pytest.mark.parametrize("limits", [SHORT, LONG], ids=["short", "parts"])
async def test_an_upload_over_a_link_that_breaks_again_and_again(
    clinic: Clinic, proxy: Proxy, limits: Any, source: Path
) -> None:
    async with team(clinic, proxy=proxy, limits=limits) as (co, pa, project):
        proxy.cut_after = 3 * MIB
        before = proxy.up_bytes
        await pa.send_update(project, source)
        sent = proxy.up_bytes - before
        assert await read(await update(co)) == DATA
        assert proxy.connections > SIZE // (3 * MIB)
        assert sent <= SIZE * AGAIN
    assert not hidden(source.parent)


async def test_a_download_over_a_link_that_breaks_again_and_again(clinic: Clinic, proxy: Proxy, tmp_path: Path) -> None:
    async with published(clinic, proxy) as (_, event):
        proxy.cut_after = 3 * MIB
        for fetched in (read(event), saved(event, tmp_path / "model.bin")):
            before = proxy.down_bytes
            assert await fetched == DATA
            assert proxy.down_bytes - before <= SIZE * AGAIN
    assert not hidden(tmp_path)


async def saved(event: Event, path: Path) -> bytes:
    return (await event.save(path)).read_bytes()


# A relay that is killed


@pytest.mark.parametrize("limits", [SHORT, LONG], ids=["short", "parts"])
async def test_the_relay_is_killed_in_the_middle_of_an_upload(
    own_relay: RelayProcess, clinic: Clinic, proxy: Proxy, limits: Any, source: Path
) -> None:
    async with team(clinic, proxy=proxy, limits=limits) as (co, pa, project):
        await killing(own_relay, pa.send_update(project, source), lambda: proxy.up_bytes)
        assert await read(await update(co)) == DATA
        assert len(await co.history(project, kind="update")) == 1


async def test_the_relay_is_killed_in_the_middle_of_a_download(
    own_relay: RelayProcess, clinic: Clinic, proxy: Proxy, tmp_path: Path
) -> None:
    async with published(clinic, proxy) as (_, event):
        before = proxy.down_bytes
        await killing(own_relay, event.save(tmp_path / "model.bin"), lambda: proxy.down_bytes)
        assert (tmp_path / "model.bin").read_bytes() == DATA
        assert proxy.down_bytes - before < 2 * SIZE


async def killing(relay: RelayProcess, work: Any, passed: Callable[[], int]) -> None:
    """Have it done while the relay is killed after half of the bytes."""
    start = passed()
    task = asyncio.ensure_future(work)
    await until(lambda: passed() - start > SIZE // 2 or task.done())
    assert not task.done()
    await asyncio.to_thread(relay.kill)
    await asyncio.to_thread(relay.start)
    await task


# A client that is killed


def worker(
    what: str, site: Site, way: Proxy | RelayProcess, project: int, path: Path, parallel: int = 1
) -> subprocess.Popen[str]:
    own = {"URL": f"http://127.0.0.1:{way.port}", "USER_NAME": USER, "PASSWORD": PASSWORD, "UID_": site.uid}
    env = os.environ | own | {"PROJECT": str(project), "FILE": str(path), "PARALLEL": str(parallel)}
    command = [sys.executable, "-m", "tests.client.worker", what]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


async def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out)
    return found


async def killed(process: subprocess.Popen[str], when: Callable[[], bool]) -> None:
    try:
        await until(lambda: when() or process.poll() is not None)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.kill()
        await asyncio.to_thread(process.communicate)


async def test_a_client_that_is_killed_goes_on_where_it_was(clinic: Clinic, proxy: Proxy, source: Path) -> None:
    """An upload in two processes and a download in two: nothing is sent twice, and one event is published."""
    target = source.parent / "saved.bin"
    async with team(clinic) as (co, pa, project):
        start = proxy.up_bytes
        await killed(worker("send", pa, proxy, project, source), lambda: proxy.up_bytes - start > SIZE // 2)
        assert hidden(source.parent)
        told = await said(worker("send", pa, proxy, project, source))
        assert proxy.up_bytes - start <= SIZE * AGAIN
        event = await update(co)
        assert (event.offset, told["duplicate"]) == (told["offset"], False)
        assert not hidden(source.parent)

        start = proxy.down_bytes
        await killed(worker("save", co, proxy, project, target), lambda: proxy.down_bytes - start > SIZE // 2)
        assert not target.exists()
        await said(worker("save", co, proxy, project, target))
        assert target.read_bytes() == DATA
        assert proxy.down_bytes - start < SIZE + SIZE // 2  # what was in its sockets is lost with it
        assert not hidden(source.parent)


async def test_an_event_is_published_once_though_its_answer_was_not_heard(
    clinic: Clinic, proxy: Proxy, source: Path
) -> None:
    """The process is killed after the relay has the event, and before the note says so."""
    async with team(clinic) as (co, pa, project):
        sending = worker("send", pa, proxy, project, source)
        await until(lambda: bool(hidden(source.parent)))
        (note,) = hidden(source.parent)
        kept = source.parent.parent / "kept"
        os.link(note, kept)
        told = await said(sending)
        os.link(kept, note)
        again = await said(worker("send", pa, proxy, project, source))
        assert (again["offset"], again["duplicate"]) == (told["offset"], True)
        assert len(await co.history(project, kind="update")) == 1


async def test_another_content_is_another_upload(clinic: Clinic, proxy: Proxy, source: Path) -> None:
    """The file has changed between two processes: nothing of the first is taken for the second."""
    async with team(clinic) as (co, pa, project):
        start = proxy.up_bytes
        await killed(worker("send", pa, proxy, project, source), lambda: proxy.up_bytes - start > SIZE // 3)
        changed = DATA[: SIZE // 2] + sample(1, 7) + DATA[SIZE // 2 + 1 :]
        source.write_bytes(changed)
        await said(worker("send", pa, proxy, project, source))
        assert await read(await update(co)) == changed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc, which only Linux has")
async def test_memory_is_flat(own_relay: RelayProcess, clinic: Clinic, tmp_path: Path) -> None:
    source, target = tmp_path / "large.bin", tmp_path / "back.bin"
    with source.open("wb") as file:
        file.truncate(192 * MIB)
    async with team(clinic) as (co, pa, project):
        grown = (await said(worker("send", pa, own_relay, project, source, parallel=4)))["grown"]
        assert grown < 48 * MIB
        grown = (await said(worker("save", co, own_relay, project, target)))["grown"]
        assert grown < 48 * MIB
        assert target.stat().st_size == 192 * MIB


# Bytes that are flipped


class Flipping:
    """Changes one byte far within what is passed, so many times."""

    def __init__(self, times: int, *, from_server: bool) -> None:
        self.left = times
        self._from_server = from_server
        self._passed = 0

    def __call__(self, piece: bytes, from_server: bool) -> bytes:
        if from_server is not self._from_server or not self.left:
            return piece
        self._passed += len(piece)
        if self._passed < SIZE // 2 or len(piece) < 8192:
            return piece
        self.left -= 1
        self._passed = 0
        return piece[:4096] + bytes([piece[4096] ^ 1]) + piece[4097:]


@pytest.mark.parametrize("limits", [SHORT, LONG], ids=["short", "parts"])
async def test_a_byte_flipped_on_the_way_up_is_sent_again(
    clinic: Clinic, proxy: Proxy, limits: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with team(clinic, proxy=proxy, limits=limits) as (co, pa, project):
        before = proxy.up_bytes
        proxy.spoil = Flipping(1, from_server=False)
        await pa.send_update(project, DATA)
        assert await read(await update(co)) == DATA
        assert "bytes have arrived damaged" in caplog.text
        again = SIZE if limits is SHORT else limits.part_bytes
        assert proxy.up_bytes - before <= (SIZE + again) * AGAIN


async def test_a_byte_flipped_on_the_way_down_is_fetched_again(
    clinic: Clinic, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with published(clinic, proxy) as (_, event):
        proxy.spoil = Flipping(1, from_server=True)
        assert await saved(event, tmp_path / "model.bin") == DATA
        assert "a download is damaged" in caplog.text
        proxy.spoil = Flipping(1, from_server=True)
        shown = io.BytesIO()
        with pytest.raises(Corrupted):
            await read_into(event, shown)
        assert shown.tell() == SIZE - 1


async def read_into(event: Event, shown: io.BytesIO) -> None:
    async with event.open() as stream:
        async for piece in stream:
            shown.write(piece)


async def test_who_flips_bytes_each_time_is_not_believed(clinic: Clinic, proxy: Proxy, tmp_path: Path) -> None:
    async with published(clinic, proxy) as (pa, event):
        proxy.spoil = Flipping(99, from_server=True)
        with pytest.raises(Corrupted):
            await event.save(tmp_path / "model.bin")
        assert not list(tmp_path.iterdir())
        proxy.spoil = Flipping(99, from_server=False)
        with pytest.raises(Corrupted):
            await pa.send_update(event.project, DATA, state=tmp_path)
        assert not list(tmp_path.iterdir())


async def test_a_byte_flipped_on_the_disk_is_noticed(clinic: Clinic, proxy: Proxy, tmp_path: Path) -> None:
    async with published(clinic, proxy) as (_, event):
        halves = asyncio.Event()

        def half(done: int, total: int) -> None:
            if done > total // 2:
                halves.set()

        saving = asyncio.create_task(event.save(tmp_path / "model.bin", on_progress=half))
        await halves.wait()
        await cancelled(saving)
        (part,) = hidden(tmp_path)
        with part.open("r+b") as file:
            file.seek(1000)
            file.write(bytes([DATA[1000] ^ 1]))
        assert await saved(event, tmp_path / "model.bin") == DATA


# The end of it


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("limits", [SHORT, LONG], ids=["short", "parts"])
async def test_a_cancelled_upload_leaves_nothing_running_and_is_gone_on_with(
    clinic: Clinic, proxy: Proxy, limits: Any, source: Path
) -> None:
    async with team(clinic, proxy=proxy, limits=limits) as (co, pa, project):
        start, tasks = proxy.up_bytes, asyncio.all_tasks()
        sending = asyncio.create_task(pa.send_update(project, source))
        await until(lambda: proxy.up_bytes - start > SIZE // 2)
        await cancelled(sending)
        assert not {task.get_name() for task in asyncio.all_tasks() - tasks if "relay-" in task.get_name()}
        await pa.send_update(project, source)
        assert await read(await update(co)) == DATA
        assert proxy.up_bytes - start <= SIZE * 1.25  # what was in the sockets' buffers


async def test_a_site_that_is_left_ends_what_is_under_way(clinic: Clinic, proxy: Proxy, source: Path) -> None:
    async with team(clinic, proxy=proxy, limits=SHORT) as (_, pa, project):
        start = proxy.up_bytes
        sending = asyncio.create_task(pa.send_update(project, source))
        await until(lambda: proxy.up_bytes - start > SIZE // 4)
        await pa.__aexit__(None, None, None)
        with pytest.raises(Closed):
            await sending


async def test_what_is_still_being_uploaded_is_read_along(own_relay: RelayProcess, clinic: Clinic) -> None:
    async with team(clinic) as (co, pa, project):
        credentials = {"X-Starfish-Site": pa.uid, **TUS}
        async with httpx.AsyncClient(
            base_url=own_relay.url, auth=(USER, PASSWORD), headers=credentials, trust_env=False
        ) as http:
            wish = {"Upload-Length": str(MIB), "Upload-Metadata": metadata(project=project)}
            path = httpx.URL((await http.post("/starfish/api/v1/blobs/", headers=wish)).headers["Location"]).path

            async def go_on(offset: int, data: bytes) -> None:
                headers = {"Upload-Offset": str(offset), "Content-Type": STREAM}
                (await http.patch(path, content=data, headers=headers)).raise_for_status()

            await pa.publish(project, "update", data={"blob": {"id": path.rpartition("/")[2]}})
            await go_on(0, DATA[:1000])
            event = await update(co)
            async with event.open() as stream:
                assert await anext(stream) == DATA[:999]  # the last one is shown with those after it
                await go_on(1000, DATA[1000:MIB])
                assert DATA[:999] + await stream.read() == DATA[:MIB]
                assert stream.size == MIB


# Very long ones


@pytest.mark.soak
@pytest.mark.parametrize("parallel", [1, 4])
async def test_gigabytes_with_every_death(
    own_relay: RelayProcess, clinic: Clinic, proxy: Proxy, tmp_path: Path, rng: random.Random, parallel: int
) -> None:
    """4 GiB (GIB in the environment says another): both processes are killed again and again, the link is cut, and
    what arrives is what was sent.
    """
    size = int(float(os.environ.get("GIB", "4")) * 2**30)
    source, target = tmp_path / "model.bin", tmp_path / "back.bin"
    digest = hashlib.sha256()
    with source.open("wb") as file:
        for _ in range(size // (16 * MIB)):
            piece = rng.randbytes(16 * MIB)
            digest.update(piece)
            file.write(piece)
    async with (
        asyncio.timeout(3600),
        Proxy(own_relay.port, large=True) as between,
        team_for_long(clinic) as (co, pa, project),
    ):
        between.cut_after = size // 8
        for what, site, path in (("send", pa, source), ("save", co, target)):

            def passed(what: str = what) -> int:
                return between.up_bytes if what == "send" else between.down_bytes

            start = passed()
            for share in (0.3, 0.6):
                mark = share * size
                process = worker(what, site, between, project, path, parallel)
                await killed(process, lambda: passed() - start > mark)  # noqa: B023
            process = worker(what, site, between, project, path, parallel)
            await until(lambda: passed() - start > 0.8 * size or process.poll() is not None)  # noqa: B023
            await asyncio.to_thread(own_relay.kill)
            await asyncio.to_thread(own_relay.start)
            told = await said(process)
            print(  # noqa: T201
                f"{what} {size / 2**30:g} GiB, {parallel} at a time: {passed() - start:,} bytes passed, {told}"
            )
            in_sockets = 6 * MIB * parallel  # is lost with the relay that has not read it
            assert passed() - start <= size * AGAIN + in_sockets
            assert told["grown"] < 64 * MIB
    with target.open("rb") as back:
        assert hashlib.file_digest(back, "sha256").digest() == digest.digest()


@asynccontextmanager
async def team_for_long(clinic: Clinic) -> AsyncIterator[tuple[Site, Site, int]]:
    """A team without a time of its own."""
    uids = [await clinic.register() for _ in range(2)]
    async with clinic.site(uids[0]) as co, clinic.site(uids[1]) as pa:
        project = (await co.projects.create(f"project of {co.uid}", tasks=[]))["id"]
        await pa.projects.join(f"project of {co.uid}")
        await first(co, lambda event: event.kind == "participant" and event.data["site"] == pa.uid)
        yield co, pa, project
