"""A real relay, whatever comes in at its doors: handshakes, frames, REST, polls and uploads, over raw sockets.

No answer is a 500, none is `internal`, none is late; afterwards the relay serves, has logged no traceback, and has not
grown. The suite has a short turn, by a seed of its own each time; `make soak` has a long one.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from relay.client import Site
from tests.fuzz.mutate import inputs
from tests.fuzz.targets import TARGETS, Target
from tests.support.relay import RelayProcess

DEADLINE_S = 30.0
"""For one answer: far more than any takes, also on a busy machine."""
QUIET_S = 1.0
"""For an answer to what may be no whole request: then there is none."""
AT_ONCE = 16
GROWTH_BYTES = 96 * 1024 * 1024
BATCH = 40
"""Frames on one connection: ten that cannot be read end it sooner."""
TURNS = [150, pytest.param(15_000, marks=pytest.mark.soak)]
PASSWORD = "a good password"
CLOSE_CODES = {1000, 1001, 1002, 1003, 1007, 1009, 4400, 4408, 4429}
WORDS = (
    *(b"\r\n", b"\r\n\r\n", b"\0", b"\xff", b" ", b":", b";", b"9" * 25, b"-1", b"%00", b"%2e%2e/", b"../", b"?a=b&a="),
    *(
        b"chunked",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\n",
        b"Upgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"Bearer ",
        b"Basic ",
        b"Origin: null\r\n",
        b"PATCH",
        b"DELETE",
        b"OPTIONS",
        b"HTTP/1.0",
        b"{",
        b"}",
        b"[" * 200,
        b"null",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Place:
    relay: RelayProcess
    token: str
    uid: str
    project: int


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with RelayProcess() as relay:
        relay.cli("user", "create", "anna", "--no-input", env={"STARFISH_USER_PASSWORD": PASSWORD})
        uid = relay.cli("site", "create", "--owner", "anna", "--name", "A").stdout.strip()
        token = relay.cli("token", "create", "--site", uid).stdout.strip()
        yield Place(relay=relay, token=token, uid=uid, project=asyncio.run(_project(relay.url, token)))


async def _project(url: str, token: str) -> int:
    async with Site(url, token=token, proxy=False) as site:
        return int((await site.projects.create("study", tasks=[{"seq": 1, "model": "M"}]))["id"])


@asynccontextmanager
async def unharmed(place: Place) -> AsyncIterator[None]:
    """What holds of the relay after the block."""
    before, said = place.relay.rss_bytes(), len(place.relay.log)
    yield
    assert await asyncio.to_thread(place.relay.health, "ready") == 200
    assert "Traceback" not in place.relay.log[said:]
    assert place.relay.rss_bytes() - before < GROWTH_BYTES


async def answered(place: Place, request: bytes, patience_s: float = DEADLINE_S) -> bytes:
    """What the relay says to these bytes first; nothing, if it goes on waiting for the rest of them."""
    reader, writer = await asyncio.open_connection(place.relay.host, place.relay.port)
    try:
        writer.write(request)
        async with asyncio.timeout(patience_s):
            return await reader.read(65536)
    except (ConnectionError, TimeoutError):
        return b""
    finally:
        writer.close()


def statuses(answer: bytes) -> set[int]:
    """Of all the answers in it: a mutation can make two requests of one."""
    lines = answer.split(b"HTTP/1.1 ")[1:]
    return {int(line[:3]) for line in lines if line[:3].isdigit()}


def handshakes(place: Place) -> Sequence[bytes]:
    basic = base64.b64encode(f"anna:{PASSWORD}".encode()).decode()
    head = f"GET /starfish/ws/v1 HTTP/1.1\r\nHost: {place.relay.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    named = (
        f"Authorization: Basic {basic}\r\nX-Starfish-Site: {place.uid}\r\nSec-WebSocket-Protocol: starfish.v1\r\n\r\n"
    )
    return (f"{head}Authorization: Bearer {place.token}\r\n\r\n".encode(), f"{head}{named}".encode())


def requests(place: Place) -> Sequence[bytes]:
    """REST, the polling API and uploads, each as a good request."""
    api, basic = "/starfish/api/v1", base64.b64encode(f"anna:{PASSWORD}".encode()).decode()
    event = json.dumps({"id": "0b6c0000-0000-4000-8000-000000000001", "kind": "log", "data": {"a": [1, None, "é"]}})
    form = '--x\r\nContent-Disposition: form-data; name="logs"; filename="l.txt"\r\n\r\nlog\r\n--x--\r\n'
    tus = "Tus-Resumable: 1.0.0\r\nUpload-Length: 5\r\nUpload-Metadata: project MQ==\r\n"
    project = f"{api}/projects/{place.project}"
    given = (
        ("POST", f"{project}/events/", "Content-Type: application/json\r\n", event),
        ("GET", f"{project}/events/?after=0&limit=5&wait=0", "", ""),
        ("POST", f"{project}/ack/", "Content-Type: application/json\r\n", '{"offset":1}'),
        ("POST", f"{api}/blobs/", f"{tus}Content-Type: application/offset+octet-stream\r\n", "bytes"),
        (
            "HEAD",
            f"{api}/blobs/0b6c0000-0000-4000-8000-000000000001",
            "Range: bytes=0-1,5-\r\nTus-Resumable: 1.0.0\r\n",
            "",
        ),
    )
    legacy = (
        ("POST", f"{api}/projects/", "Content-Type: application/json\r\n", '{"name":"n","site":1,"tasks":[{"seq":1}]}'),
        ("GET", f"{api}/sites/?page=1&uid={place.uid}", "", ""),
        (
            "POST",
            f"{api}/runs-action/upload/?run=1&task=1&round=1",
            "Content-Type: multipart/form-data; boundary=x\r\n",
            form,
        ),
        ("PUT", f"{api}/runs/1/status/", "Content-Type: application/json\r\n", '{"status":3,"increase_round":true}'),
    )
    as_site, as_user = f"Authorization: Bearer {place.token}\r\n", f"Authorization: Basic {basic}\r\n"
    return [
        f"{method} {path} HTTP/1.1\r\nHost: h\r\n{who}{more}Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()
        for who, some in ((as_site, given), (as_user, legacy))
        for method, path, more, body in some
    ]


def taken(seeds: Sequence[bytes], rng: random.Random, count: int) -> Iterator[bytes]:
    return itertools.islice(inputs(Target(run=lambda _: None, seeds=seeds, words=WORDS), rng), count)


@pytest.mark.parametrize("count", TURNS)
@pytest.mark.parametrize("door", [handshakes, requests])
async def test_requests(place: Place, rng: random.Random, door: object, count: int) -> None:
    seeds = handshakes(place) if door is handshakes else requests(place)
    good = {status for seed in seeds for status in statuses(await answered(place, seed))}
    assert good & {101, 200, 201, 204}, good  # they reach what is behind the door
    turn = asyncio.Semaphore(AT_ONCE)

    async def sent(data: bytes) -> None:
        async with turn:
            said = statuses(await answered(place, data, QUIET_S))
        assert not {status for status in said if status >= 500} - {501, 503, 505}, f"{said} for {data!r}"

    async with unharmed(place):
        await asyncio.gather(*(sent(data) for data in taken(seeds, rng, count)))


@pytest.mark.parametrize("count", TURNS)
async def test_frames(place: Place, rng: random.Random, count: int) -> None:
    target = TARGETS["frame"]
    given = itertools.islice(inputs(target, rng), count)
    async with unharmed(place):
        while some := list(itertools.islice(given, BATCH)):
            await _sent(place, some, rng)


async def _sent(place: Place, frames: Sequence[bytes], rng: random.Random) -> None:
    """After a good hello, each as text or binary; and the connection answers to the end, or says why it does not."""
    headers = {"Authorization": f"Bearer {place.token}"}
    async with asyncio.timeout(DEADLINE_S), connect(place.relay.ws_url, additional_headers=headers, proxy=None) as ws:
        try:
            await ws.send('{"type":"hello"}')
            for frame in frames:
                as_text = rng.random() < 0.7
                await ws.send(frame.decode("utf-8", "replace") if as_text else frame)
            await ws.send('{"type":"call","ref":"the last","method":"projects.list","params":{}}')
            await _read_to_the_last(ws)
        except ConnectionClosed as closed:
            if closed.rcvd is None or closed.rcvd.code not in CLOSE_CODES:
                raise


async def _read_to_the_last(ws: ClientConnection) -> None:
    async for message in ws:
        if isinstance(message, str):
            frame = json.loads(message)
            assert frame.get("code") != "internal", frame
            if frame.get("ref") == "the last":
                return
