"""Complete blobs in a bucket, on a server that speaks S3 over real sockets (moto)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
from obstore.store import S3Store

from relay.client import Corrupted, Site
from tests.blobs.tus import Client, reference, sha256
from tests.conformance.own import ACCOUNT
from tests.conformance.realm import Realm, Team
from tests.support.ports import free_port
from tests.support.relay import RelayProcess

DATA = os.urandom(20 * 2**20)
"""More than two parts."""
START_TIMEOUT_S = 30.0
KEY_ID, SECRET = "test", "secret-of-the-test"


class Bucket:
    """An S3 server of its own, with a bucket. It can be stopped and started; what it holds is gone then."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                httpx.put(f"{self.url}/starfish", timeout=5, trust_env=False).raise_for_status()
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the S3 server did not come up"
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def get(self, data: bytes) -> bytes:
        """What the object has that should hold these bytes."""
        return bytes(obstore.get(self._store(), _key(data)).bytes())

    def damage(self, data: bytes) -> None:
        obstore.put(self._store(), _key(data), b"!" + data[1:])

    def mend(self, data: bytes) -> None:
        obstore.put(self._store(), _key(data), data)

    def _store(self) -> S3Store:
        return S3Store(
            "starfish",
            prefix="blobs",
            endpoint=self.url,
            region="eu-central-1",
            access_key_id=KEY_ID,
            secret_access_key=SECRET,
            client_options={"allow_http": True},
        )


def _key(data: bytes) -> str:
    digest = sha256(data)
    return f"{digest[:2]}/{digest[2:]}"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    try:
        bucket.start()
        yield bucket
    finally:
        bucket.stop()


@pytest.fixture(scope="module", params=["true", "false"], ids=["redirected", "through"])
def own(request: pytest.FixtureRequest, bucket: Bucket) -> Iterator[RelayProcess]:
    settings = {
        "STARFISH_S3_URL": "s3://starfish/blobs",
        "STARFISH_S3_ENDPOINT": bucket.url,
        "STARFISH_S3_REGION": "eu-central-1",
        "STARFISH_S3_REDIRECT": request.param,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    with RelayProcess(settings=settings) as relay:
        environment = {"STARFISH_USER_PASSWORD": ACCOUNT.password}
        relay.cli("user", "create", ACCOUNT.name, "--no-input", env=environment)
        yield relay


@pytest.fixture
async def realm(own: RelayProcess) -> AsyncIterator[Realm]:
    async with Realm(own, owner=ACCOUNT, guest=ACCOUNT, operator=ACCOUNT) as realm:
        yield realm


@pytest.fixture
async def team(realm: Realm) -> Team:
    return await realm.team(participants=1)


async def _download(client: Client, own: RelayProcess, path: str, **headers: str) -> httpx.Response:
    """A download as a tool does it: to wherever it is sent, without credentials there."""
    answer = await client.get(path, **headers)
    if own.settings["STARFISH_S3_REDIRECT"] == "true":
        assert answer.status_code == 307
        async with httpx.AsyncClient(trust_env=False) as anybody:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await anybody.get(answer.headers["Location"], headers=named)
    return answer


async def test_a_blob_goes_to_the_bucket_and_comes_from_it(
    realm: Realm, own: RelayProcess, team: Team, bucket: Bucket
) -> None:
    client, one = Client(realm, team.coordinator), Client(realm, team.participant)
    path = await client.create(len(DATA), project=team.project, sha256=sha256(DATA), filename="model")
    assert (await client.patch(path, 0, DATA[:1000])).status_code == 204
    assert (await client.get(path, Range="bytes=10-19")).content == DATA[10:20]  # on its way it is here
    assert (await client.patch(path, 1000, DATA[1000:])).status_code == 204
    assert bucket.get(DATA) == DATA
    assert list((own.data_dir / "files" / "uploads").iterdir()) == []
    assert (await one.get(path)).status_code == 404
    await team.co.publish(team.project, kind="command", data=reference(path, DATA))
    assert (await _download(one, own, path)).content == DATA
    part = await _download(one, own, path, Range="bytes=5000000-5000009")
    assert (part.status_code, part.content) == (206, DATA[5_000_000:5_000_010])
    head = await client.realm.as_site("HEAD", path.removeprefix("/starfish/api/v1/"), client.site)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(DATA)))
    etag = head.headers["ETag"]
    assert (await client.get(path, Range="bytes=0-3", If_Range=etag)).content == DATA[:4]
    assert SECRET not in own.log


async def test_the_client_library_goes_where_it_is_sent(
    own: RelayProcess, team: Team, bucket: Bucket, tmp_path: Path
) -> None:
    """Without its credentials; and it goes on from where it was, and looks at what it gets."""
    data = os.urandom(3 * 2**20)
    options: dict[str, Any] = {"user": ACCOUNT.name, "password": ACCOUNT.password, "proxy": False}
    async with (
        Site(own.url, uid=team.coordinator.uid, **options) as co,
        Site(own.url, uid=team.participant.uid, **options) as one,
    ):
        await co.send_update(team.project, data)
        assert bucket.get(data) == data
        (event,) = await one.history(team.project, kind="update")
        async with event.open() as stream:
            assert await stream.read() == data

        def stop(_done: int, _total: int) -> None:
            saving.cancel()

        saving = asyncio.create_task(event.save(tmp_path / "model", on_progress=stop))
        with contextlib.suppress(asyncio.CancelledError):
            await saving
        assert (await event.save(tmp_path / "model")).read_bytes() == data
        await asyncio.to_thread(bucket.damage, data)
        with pytest.raises(Corrupted):
            await event.save(tmp_path / "model")
        await asyncio.to_thread(bucket.mend, data)


async def test_a_polling_site_uploads_to_the_bucket_too(realm: Realm, team: Team, bucket: Bucket) -> None:
    await team.start()
    data = os.urandom(1000)
    answer = await realm.rest(
        "POST",
        "runs-action/upload/",
        team.participant.account,
        data={"run": team.run(team.participant), "task_seq": 1, "round_seq": 1},
        files={"mid_artifacts": ("mid-artifacts", data)},
    )
    assert answer.status_code == 200, answer.text
    assert bucket.get(data) == data
    query = {"run": team.run(team.participant), "type": "mid_artifacts"}
    archive = await realm.rest("GET", "runs-action/download/", team.participant.account, params=query)
    assert data in archive.content


async def test_fsck_and_gc_look_into_the_bucket(realm: Realm, own: RelayProcess, team: Team, bucket: Bucket) -> None:
    data = os.urandom(1000)
    await Client(realm, team.coordinator).upload(data, team.project)
    assert (await asyncio.to_thread(own.cli, "blobs", "fsck")).returncode == 0
    await asyncio.to_thread(bucket.damage, data)
    checked = await asyncio.to_thread(own.cli, "blobs", "fsck", check=False)
    assert checked.returncode == 1
    assert sha256(data) in checked.stdout
    await Client(realm, team.coordinator).upload(data, team.project)  # mended
    assert (await asyncio.to_thread(own.cli, "blobs", "fsck")).returncode == 0
    assert "0 files" in (await asyncio.to_thread(own.cli, "blobs", "gc")).stdout


async def test_while_the_bucket_does_not_answer_uploads_wait(
    realm: Realm, own: RelayProcess, team: Team, bucket: Bucket
) -> None:
    client, data = Client(realm, team.coordinator), os.urandom(1000)
    path = await client.create(len(data), project=team.project)
    await asyncio.to_thread(bucket.stop)
    try:
        answer = await client.patch(path, 0, data)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert own.health("live") == 200
    finally:
        await asyncio.to_thread(bucket.start)
    assert await client.offset(path) == len(data)
    assert bucket.get(data) == data
    assert (await _download(client, own, path)).content == data
