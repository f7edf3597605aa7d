"""What becomes of blobs that nobody needs, and what is found out about disk and database."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from db.store import Store
from relay.blobs.local import LocalFiles
from relay.core import blob_care
from relay.core.blob_care import CareLimits, Collected, Fault
from relay.core.model import Blob, Content, Draft, Entry, Kind
from tests.blobs.tus import Client, reference, sha256
from tests.conformance.own import new_realm
from tests.support.relay import RelayProcess

NOW_US = 2_000_000_000_000_000
"""Later than any file of these tests."""
DAY_US = 86_400_000_000
LIMITS = CareLimits(keep_s=86_400.0, grace_s=3600.0)


@dataclass(kw_only=True)
class Place:
    """A store and a directory, with a project and a site."""

    store: Store
    files: LocalFiles
    site: int
    project: int

    def kept(self, data: bytes) -> Content:
        incoming = self.files.begin()
        incoming.write(data)
        return incoming.keep()

    async def blob(self, data: bytes = b"", **fields: object) -> Blob:
        """A complete blob of these bytes, or with other fields."""
        content = self.kept(data)
        blob = Blob(
            id=str(uuid.uuid4()),
            project_id=self.project,
            site_id=self.site,
            filename="model",
            size=content.size,
            sha256=content.sha256,
            is_complete=True,
            created_us=NOW_US,
        )
        blob = replace(blob, **fields)  # type: ignore[arg-type]
        async with self.store.transaction() as tx:
            await tx.blobs.create(blob)
        return blob

    async def refer(self, blob: Blob, offset: int) -> None:
        draft = Draft(kind=Kind.UPDATE, id=str(uuid.uuid4()), sender_id=self.site, data=b"{}", blob=blob.id)
        entry = Entry(project_id=self.project, offset=offset, at_us=NOW_US, draft=draft)
        async with self.store.transaction() as tx:
            await tx.journal.append([entry])

    async def collect(self, now_us: int = NOW_US) -> Collected:
        return await blob_care.collect(self.store, self.files, LIMITS, now_us)

    async def ids(self, *blobs: Blob) -> list[bool]:
        async with self.store.snapshot() as tx:
            return [await tx.blobs.get(blob.id) is not None for blob in blobs]

    async def faults(self, *, deep: bool = True) -> set[Fault]:
        return {fault async for fault in blob_care.check(self.store, self.files, deep=deep)}


@pytest.fixture
async def place(store: Store, tmp_path: Path) -> Place:
    async with store.transaction() as tx:
        user = await tx.users.create(username="u", email="", password_hash="", is_operator=False, now_us=NOW_US)
        site = await tx.sites.create(
            uid=str(uuid.uuid4()), name="s", description="", owner_id=user.id, connected=False, now_us=NOW_US
        )
        project = await tx.projects.create(name="p", description="", site_id=site.id, tasks=[], now_us=NOW_US)
        await tx.journal.create(project.id, "e")
    return Place(store=store, files=LocalFiles(tmp_path / "files"), site=site.id, project=project.id)


async def test_what_has_expired_goes_and_what_goes_on_stays(place: Place) -> None:
    expired = await place.blob(is_complete=False, sha256=None, expires_us=NOW_US)
    part = await place.blob(b"a part", concat="partial", project_id=None, expires_us=NOW_US)
    running = await place.blob(is_complete=False, sha256=None, expires_us=NOW_US + 1)
    for blob in (expired, running):
        staged = place.files.stage(blob.id)
        staged.write(b"so far")
        staged.close()
    done = await place.collect()
    assert (done.expired, done.idle) == (1, 1)
    assert await place.ids(expired, part, running) == [False, False, True]
    assert [one.name for one in place.files.staged()] == [running.id]


async def test_a_blob_stays_as_long_as_an_event_refers_to_it_and_a_while_after(place: Place) -> None:
    blob = await place.blob(b"model", idle_us=NOW_US)
    await place.refer(blob, 1)
    await place.collect(NOW_US + 9 * DAY_US)
    assert await place.ids(blob) == [True]
    async with place.store.transaction() as tx:
        await tx.retention.begin_at(place.project, 2)  # the event goes
    gone_us = NOW_US + 10 * DAY_US
    await place.collect(gone_us)
    await place.collect(gone_us + DAY_US // 2)
    assert await place.ids(blob) == [True]
    done = await place.collect(gone_us + DAY_US)
    assert (done.idle, done.files, done.bytes) == (1, 1, 5)
    assert await place.ids(blob) == [False]
    assert list(place.files.contents()) == []


async def test_bytes_stay_while_one_blob_has_them(place: Place) -> None:
    first = await place.blob(b"same", idle_us=NOW_US - 2 * DAY_US)
    second = await place.blob(b"same")
    assert (await place.collect()).idle == 1
    assert await place.ids(first, second) == [False, True]
    assert [one.name for one in place.files.contents()] == [sha256(b"same")]


async def test_bytes_without_a_blob_go_after_a_while_only(place: Place) -> None:
    place.kept(b"just being finished")
    written_us = int(next((place.files._root).glob("??/*")).stat().st_ctime_ns // 1000)
    assert await place.collect(written_us + 3_599_000_000) == Collected()
    assert (await place.collect(written_us + 3_601_000_000)).files == 1


async def test_fsck_names_what_is_lost_damaged_cut_and_spare(place: Place) -> None:
    good, lost, damaged, cut = [await place.blob(data) for data in (b"good", b"lost", b"damaged", b"cut")]
    assert await place.faults() == set()
    paths = {path.parent.name + path.name: path for path in place.files._root.glob("??/*")}
    paths[lost.sha256 or ""].unlink()
    paths[damaged.sha256 or ""].write_bytes(b"DAMAGED")
    paths[cut.sha256 or ""].write_bytes(b"cu")
    spare = place.kept(b"spare")
    place.files.stage(str(uuid.uuid4())).close()
    faults = await place.faults()
    assert {fault.name for fault in faults if fault.is_loss} == {one.sha256 for one in (lost, damaged, cut)}
    assert len([fault for fault in faults if not fault.is_loss]) == 2
    assert spare.sha256 in {fault.name for fault in faults}
    quick = {fault.name for fault in await place.faults(deep=False) if fault.is_loss}
    assert quick == {one.sha256 for one in (lost, cut)}
    assert good.sha256 not in {fault.name for fault in faults}


# On a relay that serves


@pytest.fixture
def own() -> Iterator[RelayProcess]:
    settings = {"STARFISH_BLOB_EXPIRES_S": "2", "STARFISH_BLOB_COLLECT_S": "0.5", "STARFISH_BLOB_KEEP_S": "0"}
    with RelayProcess(settings=settings) as relay:
        yield relay


async def test_a_relay_that_serves_collects_and_tells_who_reads_along(own: RelayProcess) -> None:
    async with new_realm(own) as realm:
        team = await realm.team(participants=0)
        client = Client(realm, team.coordinator)
        kept = await client.upload(data := os.urandom(1000), team.project)
        await team.co.publish(team.project, kind="update", data=reference(kept, data))
        forgotten = await client.upload(b"forgotten", team.project)
        path = await client.create(10, project=team.project)
        await client.patch(path, 0, b"01234")
        with pytest.raises(httpx.TransportError):  # it waits for more, until the upload's time is over
            await client.get(path)
        assert (await client.ask("HEAD", path)).status_code in (404, 410)
        async with asyncio.timeout(20):
            while (await client.get(forgotten)).status_code != 404:  # noqa: ASYNC110 - the relay's own pace
                await asyncio.sleep(0.1)
        assert (await client.get(kept)).content == data
    own.cli("blobs", "gc")  # what the relay itself has not come to yet
    assert "0 unfinished uploads" in own.cli("blobs", "gc").stdout
    (stored,) = (path for path in (own.data_dir / "files").glob("??/*") if path.name == sha256(data)[2:])
    stored.write_bytes(b"!" + data[1:])
    checked = own.cli("blobs", "fsck", check=False)
    assert checked.returncode == 1
    assert any(sha256(data) in line and "damaged" in line for line in checked.stdout.splitlines()), checked.stdout
    assert own.cli("blobs", "fsck", "--quick").returncode == 0
