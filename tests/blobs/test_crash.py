"""Uploads when things go wrong: the relay is killed at any byte, the link breaks, the disk is full, time runs out."""

from __future__ import annotations

import asyncio
import os
import random
import resource
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.blobs.tus import BLOBS, STREAM, TUS, Client, checksum, metadata, sha256
from tests.conformance.own import ACCOUNT, new_realm
from tests.conformance.realm import Realm
from tests.support.relay import RelayProcess

MIB = 2**20
DATA = os.urandom(24 * MIB)


@pytest.fixture(scope="module")
def own() -> Iterator[RelayProcess]:
    """A relay that these tests may kill."""
    settings = {"STARFISH_BLOB_UPLOADS": "20", "STARFISH_SITE_BLOB_BYTES": str(400 * MIB)}
    with RelayProcess(settings=settings) as relay:
        environment = {"STARFISH_USER_PASSWORD": ACCOUNT.password}
        relay.cli("user", "create", ACCOUNT.name, "--no-input", env=environment)
        yield relay


@pytest.fixture
async def client(own: RelayProcess) -> AsyncIterator[Client]:
    async with Realm(own, owner=ACCOUNT, guest=ACCOUNT, operator=ACCOUNT) as realm:
        yield Client(realm, await realm.site())


async def _project(client: Client) -> int:
    body = {"name": f"of {client.site.name}", "description": "a test", "site": client.site.id, "tasks": []}
    await client.realm.rest("POST", "projects/", ACCOUNT, json=body)
    found = await client.realm.rest("GET", "projects/lookup/", ACCOUNT, params={"site_id": client.site.id})
    number: int = found.json()[0]["project"]["id"]
    return number


PIECE = 64 * 1024


class Stopping:
    """A body that stops after some of its pieces, until it is let go on."""

    def __init__(self, data: bytes, pieces: int) -> None:
        self._data = data
        self._pieces = pieces
        self.stopped = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), PIECE):
            yield self._data[start : start + PIECE]
            if start // PIECE == self._pieces:
                self.stopped.set()
                await self.go_on.wait()


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])
async def test_killed_at_any_byte_it_goes_on_where_it_is(own: RelayProcess, client: Client, checked: bool) -> None:
    """What HEAD tells is on disk and right; what was to be checked as a whole and was not is gone."""
    path = await client.create(len(DATA), project=await _project(client), sha256=sha256(DATA))
    stored = own.data_dir / "files" / "uploads" / path.rpartition("/")[2]
    offset = 0
    for _ in range(3):
        body = Stopping(DATA[offset:], random.randrange(10, 100))
        headers = {"Upload_Checksum": checksum(DATA[offset:])} if checked else {}
        writing = asyncio.create_task(client.patch(path, offset, body, **headers))
        await body.stopped.wait()
        await asyncio.to_thread(own.kill)
        body.go_on.set()
        with pytest.raises(httpx.TransportError):
            await writing
        await asyncio.to_thread(own.start)
        before, offset = offset, await client.offset(path)
        assert offset == stored.stat().st_size
        assert stored.read_bytes() == DATA[:offset]
        assert offset == before if checked else offset >= before
    assert (await client.patch(path, offset, DATA[offset:])).status_code == 204
    assert (await client.get(path)).content == DATA


async def test_a_link_that_breaks_loses_little(own: RelayProcess, client: Client) -> None:
    path = await client.create(len(DATA), project=await _project(client))
    reader, writer = await asyncio.open_connection(own.host, own.port)
    headers = {**client.site.headers, **TUS, "Content-Type": STREAM, "Upload-Offset": "0", "Host": "relay"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"PATCH {path} HTTP/1.1\r\n{head}Content-Length: {len(DATA)}\r\n\r\n".encode() + DATA[: 20 * MIB])
    await writer.drain()
    async with asyncio.timeout(20):
        while await client.offset(path) < 19 * MIB:  # noqa: ASYNC110 - it is the relay that is waited for
            await asyncio.sleep(0.01)
    writer.transport.abort()
    offset = await client.offset(path)
    assert (await client.patch(path, offset, DATA[offset:])).status_code == 204
    assert (await client.get(path)).content == DATA
    del reader


async def test_a_full_disk_is_told_and_nothing_is_half_there(own: RelayProcess, client: Client) -> None:
    project = await _project(client)
    path = await client.create(len(DATA), project=project)
    assert (await client.patch(path, 0, DATA[:MIB])).status_code == 204
    resource.prlimit(own.pid, resource.RLIMIT_FSIZE, (8 * MIB, resource.RLIM_INFINITY))
    try:
        full = await client.patch(path, MIB, DATA[MIB:])
        assert (full.status_code, full.json()["error"]["code"]) == (507, "unavailable")
        offset = await client.offset(path)
        assert MIB <= offset <= 8 * MIB
        small = await client.upload(b"small", project)  # the relay goes on serving
        assert (await client.get(small)).content == b"small"
    finally:
        resource.prlimit(own.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (await client.patch(path, offset, DATA[offset:])).status_code == 204
    assert (await client.get(path)).content == DATA


async def test_quotas_count_what_was_announced(client: Client) -> None:
    project = await _project(client)
    path = await client.create(300 * MIB, project=project)
    headers = {"Upload-Length": str(101 * MIB), "Upload-Metadata": metadata(project=project)}
    refused = await client.ask("POST", BLOBS, headers)
    assert (refused.status_code, refused.json()["error"]["details"]) == (413, {"limit": 400 * MIB})
    assert (await client.ask("DELETE", path)).status_code == 204
    assert (await client.ask("POST", BLOBS, headers)).status_code == 201


async def test_unfinished_uploads_of_a_site_are_limited(client: Client) -> None:
    project = await _project(client)
    paths = [await client.create(1, project=project) for _ in range(20)]
    headers = {"Upload-Length": "1", "Upload-Metadata": metadata(project=project)}
    refused = await client.ask("POST", BLOBS, headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert "Retry-After" in refused.headers
    assert (await client.patch(paths[0], 0, b"x")).status_code == 204
    assert (await client.ask("POST", BLOBS, headers)).status_code == 201


async def test_a_relay_that_stops_keeps_what_came_and_cuts_who_waits(own: RelayProcess, client: Client) -> None:
    path = await client.create(len(DATA), project=await _project(client))
    stall = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield DATA[:MIB]
        await stall.wait()
        yield b""

    writing = asyncio.create_task(client.patch(path, 0, stalling()))
    while await client.offset(path) < MIB:  # noqa: ASYNC110 - it is the relay that is waited for
        await asyncio.sleep(0.01)
    reading = asyncio.create_task(client.get(path))
    request = client.realm.http.build_request("GET", f"/{BLOBS}{path.rpartition('/')[2]}", headers=client.site.headers)
    follower = await client.realm.http.send(request, stream=True)
    assert await asyncio.to_thread(own.terminate) == 0
    stall.set()
    answer = await writing
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    with pytest.raises(httpx.TransportError):
        await reading
    await follower.aclose()
    assert "Traceback" not in own.log
    await asyncio.to_thread(own.start)
    assert await client.offset(path) == MIB
    assert (await client.patch(path, MIB, DATA[MIB:])).status_code == 204


async def test_what_does_not_move_is_cut_off() -> None:
    settings = {"STARFISH_BLOB_PATIENCE_S": "1"}
    with RelayProcess(settings=settings) as relay:
        async with new_realm(relay) as realm:
            client = Client(realm, await realm.site())
            project = await _project(client)
            path = await client.upload(bytes(32 * MIB), project)
            head = "".join(f"{name}: {value}\r\n" for name, value in client.site.headers.items())
            reader, writer = await asyncio.open_connection(relay.host, relay.port, limit=1024)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: relay\r\n{head}\r\n".encode())
            async with asyncio.timeout(20):
                while "cut off" not in relay.log:  # noqa: ASYNC110 - it is the relay that is waited for
                    await asyncio.sleep(0.1)
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    await reader.readexactly(32 * MIB)
            writer.close()
            unfinished = await client.create(10, project=project)

            stall = asyncio.Event()

            async def stalling() -> AsyncIterator[bytes]:
                yield b"0123"
                await stall.wait()
                yield b"45"

            writing = asyncio.create_task(client.patch(unfinished, 0, stalling()))
            async with asyncio.timeout(20):
                while await client.offset(unfinished) < 4:  # noqa: ASYNC110 - it is the relay that is waited for
                    await asyncio.sleep(0.1)
            await asyncio.sleep(1.5)  # longer than its patience
            stall.set()
            assert (await writing).status_code == 409
            assert await client.offset(unfinished) == 4


async def test_killed_while_it_is_finished_it_is_finished_later(own: RelayProcess, client: Client) -> None:
    project = await _project(client)
    for delay_s in (0.0, 0.004, 0.012):
        data = os.urandom(4 * MIB)
        path = await client.create(len(data), project=project, sha256=sha256(data))
        assert (await client.patch(path, 0, data[:-1])).status_code == 204
        last = asyncio.create_task(client.patch(path, len(data) - 1, data[-1:]))
        await asyncio.sleep(delay_s)  # in the middle of it, mostly
        await asyncio.to_thread(own.kill)
        await asyncio.gather(last, return_exceptions=True)
        await asyncio.to_thread(own.start)
        offset = await client.offset(path)
        assert offset in (len(data) - 1, len(data))
        if offset < len(data):
            assert (await client.patch(path, offset, data[offset:])).status_code == 204
        assert (await client.get(path)).content == data
    checked = await asyncio.to_thread(own.cli, "blobs", "fsck", check=False)
    assert "LOST" not in checked.stdout
