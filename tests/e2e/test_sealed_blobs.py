"""Payloads that are too long for an event: sealed before they are uploaded, shown when all of them is right."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from pathlib import Path

import pytest

from relay.client import Event, TooLong
from relay.client.sealed import Altered
from relay.client.sealed.sealer import Sealer
from tests.e2e.conftest import Ward, first
from tests.e2e.hostile import Frame, HostileRelay

MARKER = b"MARKER-of-the-model"
LONG = MARKER * 150_000
SECONDS = 60


async def test_a_blob_is_sealed_and_saved(ward: Ward, tmp_path: Path) -> None:
    async with asyncio.timeout(SECONDS), ward.team() as (co, pa, project):
        (tmp_path / "model").write_bytes(LONG)
        for content in (LONG, tmp_path / "model"):
            sent = await co.send_update(project, content)
            event = await first(pa)
            assert (event.offset, event.payload, event.to) == (sent.offset, None, (pa.uid,))
            assert await event.save(tmp_path / "saved") == tmp_path / "saved"
            assert (tmp_path / "saved").read_bytes() == LONG
            async with event.open() as stream:
                assert stream.size == len(LONG)
                assert await stream.read() == LONG
            with pytest.raises(TooLong):
                await event.save(tmp_path / "not", max_bytes=len(LONG) - 1)
            await event.save(tmp_path / "just", max_bytes=len(LONG))
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not any(MARKER in path.read_bytes() for path in ward.relay.data_dir.rglob("*") if path.is_file())


async def test_a_sealed_upload_that_was_cut_short_goes_on(ward: Ward, tmp_path: Path) -> None:
    path, told = tmp_path / "model", list[tuple[int, int]]()
    path.write_bytes(LONG * 8)
    begun = asyncio.Event()

    def half(done: int, total: int) -> None:
        if done > total // 2:
            begun.set()

    async with asyncio.timeout(SECONDS), ward.team() as (co, pa, project):
        sending = asyncio.create_task(co.send_update(project, path, on_progress=half))
        await begun.wait()
        sending.cancel()
        await asyncio.wait([sending])
        (body,) = tmp_path.glob(".starfish-upload-*.body")
        assert MARKER not in body.read_bytes()
        sealed_at = body.stat().st_mtime_ns
        async with ward.site(co.uid) as again:
            await again.send_update(
                project, path, on_progress=lambda done, _: told.append((done, body.stat().st_mtime_ns))
            )
        assert told[0][0] > 0  # what was sent is not sent again
        assert {at for _, at in told} == {sealed_at}  # nor sealed again
        await (await first(pa)).save(tmp_path / "saved")
        assert (tmp_path / "saved").read_bytes() == LONG * 8
    assert not list(tmp_path.glob(".starfish-*"))


async def test_what_is_sealed_for_others_by_now_is_sealed_anew(ward: Ward, tmp_path: Path) -> None:
    path, begun = tmp_path / "model", asyncio.Event()
    path.write_bytes(LONG)
    async with asyncio.timeout(SECONDS), ward.team() as (co, pa, project):
        sending = asyncio.create_task(co.send_update(project, path, on_progress=lambda *_: begun.set()))
        await begun.wait()
        sending.cancel()
        await asyncio.wait([sending])
        async with ward.site(await ward.register()) as late:
            await late.projects.join((await co.projects.list())[0]["project"]["name"])
            await first(co, lambda event: event.kind == "participant")
            await co.send_update(project, path)
            for site in (pa, late):
                async with (await first(site)).open() as stream:
                    assert await stream.read() == LONG


async def test_what_fits_goes_into_the_event(ward: Ward) -> None:
    async with asyncio.timeout(SECONDS), ward.team() as (co, pa, project):
        for size in (0, 10, 1024 * 1024 - Sealer.SPARE_BYTES):
            await co.send_update(project, bytes(size))
            event = await first(pa)
            assert event.payload == bytes(size)


async def test_what_was_too_long_for_the_history_is_fetched_and_opened(ward: Ward, tmp_path: Path) -> None:
    async with asyncio.timeout(SECONDS), ward.team() as (co, pa, project):
        content = bytes(3_000_000)
        await co.publish(project, "update", payload=content)
        (event,) = await pa.history(project, kind="update")
        assert event.payload is None
        async with event.open() as stream:
            assert await stream.read() == content
        await event.save(tmp_path / "saved")
        assert (tmp_path / "saved").read_bytes() == content


async def test_another_blob_is_not_taken_for_it(ward: Ward, hostile: HostileRelay) -> None:
    """The relay exchanges what two events refer to."""
    seen: list[Frame] = []

    def exchange(frame: Frame) -> list[Frame]:
        if frame["type"] != "event" or "blob" not in (frame["data"] or {}):
            return [frame]
        seen.append(frame)
        return [frame | {"data": frame["data"] | {"blob": seen[0]["data"]["blob"]}}]

    async with asyncio.timeout(SECONDS), ward.team(by=hostile.url) as (co, pa, project):
        hostile.down = exchange
        await co.send_update(project, LONG)
        assert (await first(pa)).data["blob"]
        await co.send_update(project, LONG[::-1])
        with pytest.raises(Altered):
            await first(pa)


async def test_of_a_blob_that_was_altered_nothing_is_shown(ward: Ward, tmp_path: Path) -> None:
    """The relay gives other bytes, and says another hash nowhere: what is fetched is not what was signed."""
    async with asyncio.timeout(SECONDS), ward.team() as (co, pa, project):
        await co.send_update(project, LONG)
        event = await first(pa)
        swapped = replace(event, origin=replace(event.origin, _fetched=Forger(LONG)))  # type: ignore[type-var]
        with pytest.raises(Altered):
            await swapped.save(tmp_path / "saved")
        with pytest.raises(Altered):
            async with swapped.open():
                pass
    assert not [path for path in tmp_path.iterdir() if path.name != "saved" and "saved" in path.name]
    assert not (tmp_path / "saved").exists()


class Forger:
    """Saves what it likes."""

    def __init__(self, content: bytes) -> None:
        self._content = base64.b64encode(content)

    async def save(self, event: Event, path: Path, **_: object) -> Path:
        path.write_bytes(self._content)
        return path
