"""What a stranger may send before it is known, how long it may take, and what every answer tells a browser."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from relay.config import BadSetting, load
from relay.core.audit import SOURCE
from relay.protocol.errors import ReplyError
from relay.web import connection, replies
from relay.web.connection import HEADER_BYTES, HEADERS, URL_BYTES
from relay.web.headers import NOTHING, page_policy
from relay.web.legacy import bodies
from relay.web.legacy.answers import Refused
from relay.web.origin import note_where
from relay.web.server import config_of
from tests.support.relay import RelayProcess

HEAD_TIMEOUT_S = 0.6


@pytest.fixture(scope="module")
def relay() -> Iterator[RelayProcess]:
    """Patient with nobody, and behind a proxy on this machine."""
    settings = {"STARFISH_HEAD_TIMEOUT_S": str(HEAD_TIMEOUT_S), "STARFISH_PROXIES": "127.0.0.1/32, 10.0.0.0/8"}
    with RelayProcess(settings=settings) as process:
        yield process


@asynccontextmanager
async def connected(relay: RelayProcess) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(relay.host, relay.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def answer(relay: RelayProcess, sent: bytes) -> bytes:
    """Everything that is answered to these bytes, up to the end of the connection."""
    async with connected(relay) as (reader, writer):
        writer.write(sent)
        return await reader.read()


GET = b"GET /health/live HTTP/1.1\r\nHost: relay\r\n"
POST = b"POST /starfish/api/v1/sites/ HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"GET /" + b"x" * URL_BYTES + b" HTTP/1.1\r\nHost: r\r\n\r\n", b"414", id="a long URL"),
        pytest.param(GET + b"X: " + b"x" * HEADER_BYTES + b"\r\n\r\n", b"431", id="a long header"),
        pytest.param(GET + b"X: y\r\n" * HEADERS + b"\r\n", b"431", id="many headers"),
        pytest.param(GET + b"X: " + b"x" * (HEADER_BYTES + URL_BYTES), b"431", id="a header without an end"),
        pytest.param(b"GET /" + b"x" * (HEADER_BYTES + URL_BYTES), b"414", id="a URL without an end"),
        pytest.param(b"nonsense\r\n\r\n", b"400", id="nonsense"),
    ],
)
async def test_a_head_has_limits(relay: RelayProcess, sent: bytes, status: bytes) -> None:
    assert (await answer(relay, sent)).startswith(b"HTTP/1.1 " + status + b" ")


async def test_trailers_have_the_same_limits(relay: RelayProcess) -> None:
    """The answer to the request may be out by then: cut off, or closed, they do not pile up."""
    async with connected(relay) as (reader, writer):
        writer.write(POST + b"0\r\n")
        flood = asyncio.create_task(_flood(writer))
        with suppress(ConnectionError):
            await reader.read()
        with pytest.raises(ConnectionError):
            await flood


async def _flood(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"X: " + b"x" * 10_000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def test_what_is_long_but_within_the_limits_passes(relay: RelayProcess) -> None:
    head = GET + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 250) for number in range(HEADERS - 2))
    assert (await answer(relay, head + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("first", "status"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(GET, b"HTTP/1.1 408 ", id="half a head"),
        pytest.param(GET + b"\r\n" + GET, b"HTTP/1.1 200 ", id="half of a second head"),
    ],
)
async def test_a_head_that_trickles_is_given_up(relay: RelayProcess, first: bytes, status: bytes) -> None:
    async with connected(relay) as (reader, writer):
        writer.write(first)
        trickle = asyncio.create_task(_trickle(writer) if first else asyncio.sleep(0))
        assert (await reader.read()).startswith(status)
        trickle.cancel()


async def _trickle(writer: asyncio.StreamWriter) -> None:
    """A byte of a header now and then: none is late by itself."""
    while True:
        await asyncio.sleep(HEAD_TIMEOUT_S / 4)
        writer.write(b"x")


async def test_a_connection_that_is_kept_alive_is_not_hurried(relay: RelayProcess) -> None:
    async with connected(relay) as (reader, writer):
        for _ in range(2):
            writer.write(GET + b"\r\n")
            assert (await reader.readuntil(b'"live"}')).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(1.5 * HEAD_TIMEOUT_S)


async def test_a_site_that_leaves_during_its_handshake_is_no_error(relay: RelayProcess) -> None:
    for number in range(20):
        raw = socket.create_connection((relay.host, relay.port))
        key, pair = base64.b64encode(os.urandom(16)).decode(), base64.b64encode(b"user:wrong").decode()
        raw.sendall(
            f"GET /starfish/ws/v1 HTTP/1.1\r\nHost: r\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Basic {pair}\r\n\r\n".encode()
        )
        if number % 2:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if number % 3:
            await asyncio.sleep(0.01)
        raw.close()
    assert relay.health("live") == 200
    assert "without completing handshake" not in relay.log
    assert "Traceback" not in relay.log


# --- bodies


def _request(chunks: list[bytes], pause_s: float) -> Request:
    """A request whose body comes in these chunks, so far apart."""

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    return Request({"type": "http", "headers": []}, receive)


async def test_a_body_that_trickles_is_given_up_and_one_that_is_slow_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "STALL_S", 0.3)
    slow = _request([b"[", b" " * 1024, b" " * 1024, b"]"], 0.1)
    assert await replies.read_body(slow, list[int], 4096) == []
    with pytest.raises(ReplyError, match="trickles"):
        await replies.read_body(_request([b" "] * 50, 0.05), list[int], 4096)


async def test_an_upload_that_trickles_is_given_up_and_one_that_is_slow_is_not() -> None:
    slow = bodies.chunks(_request([b"x" * 1024] * 5, 0.15), 0.3)
    assert sum([len(chunk) async for chunk in slow]) == 5 * 1024
    with pytest.raises(Refused) as refused:
        async for _ in bodies.chunks(_request([b"x"] * 50, 0.05), 0.3):
            pass
    assert refused.value.answer.status == 408
    assert "trickles" in refused.value.answer.body["detail"]


# --- answers


class Pipe:
    """A transport whose peer takes nothing."""

    def __init__(self) -> None:
        self.pending, self.aborted = 5000, asyncio.Event()

    def get_write_buffer_size(self) -> int:
        return self.pending

    def get_extra_info(self, _name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.aborted.set()


async def test_an_answer_that_is_not_taken_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNREAD_S", 0.05)
    protocol = connection.RelayHttp.__new__(connection.RelayHttp)
    pipe = Pipe()
    protocol.transport, protocol.loop, protocol._unread_timer = pipe, asyncio.get_running_loop(), None  # type: ignore[assignment]
    protocol._watch_unread()
    for _ in range(5):
        pipe.pending -= 100
        await asyncio.sleep(0.04)
    assert not pipe.aborted.is_set(), "slow is no fault"
    async with asyncio.timeout(5):
        await pipe.aborted.wait()


CAUTIOUS = {
    "content-security-policy": NOTHING,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@pytest.mark.parametrize(
    "path",
    ["/health", "/metrics", "/starfish/api/v1/sites/", "/starfish/api/v1/blobs/x", "/nothing", "/starfish/api/v1/"],
)
async def test_every_answer_is_cautious(relay: RelayProcess, path: str) -> None:
    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as http:
        for headers in ({}, {"Accept": "text/html"}):
            response = await http.get(path, headers=headers)
            for name, value in CAUTIOUS.items():
                assert response.headers[name].startswith(value), (path, name)
            assert "strict-transport-security" not in response.headers
            secure = await http.get(path, headers=headers | {"X-Forwarded-Proto": "https"})
            assert secure.headers["strict-transport-security"] == "max-age=31536000"


def test_a_page_may_use_what_is_its_own_and_nothing_else() -> None:
    policy = page_policy(styles=["b{}"], scripts=["x()"], connects=True)
    assert policy.startswith("default-src 'none'")
    assert policy.count("'sha256-") == 2
    assert policy.endswith("connect-src 'self'")
    assert "unsafe" not in policy


# --- proxies


@pytest.mark.parametrize(
    ("proxies", "forwarded", "origin"),
    [
        ("127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1, 10.0.0.0/8", ["6.6.6.6, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        ("127.0.0.1", ["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("127.0.0.1", ["x" * 5000], "x" * 64),
        ("127.0.0.1", [], "127.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "127.0.0.1"),
        ("", ["203.0.113.9"], "127.0.0.1"),
    ],
)
async def test_only_a_proxy_that_is_named_is_believed_and_only_for_what_it_has_seen_itself(
    proxies: str, forwarded: list[str], origin: str
) -> None:
    seen: list[tuple[str, str]] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        note_where(scope)
        seen.append((SOURCE.get().origin, scope["scheme"]))

    async def nothing(*_: object) -> Message:
        raise AssertionError("nothing is read or answered here")

    config = config_of(load({"STARFISH_PROXIES": proxies}), app)
    config.load()
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded] + [(b"x-forwarded-proto", b"https")]
    scope = {"type": "http", "client": ("127.0.0.1", 1), "scheme": "http", "headers": headers}
    await config.loaded_app(scope, nothing, nothing)
    is_believed = proxies.startswith("127.0.0.1")
    assert seen == [(origin, "https" if is_believed else "http")]


@pytest.mark.parametrize("proxies", ["*", "proxy.example", "10.0.0.0/33", "127.0.0.1,caddy"])
def test_a_proxy_is_an_address_or_a_network(proxies: str) -> None:
    with pytest.raises(BadSetting, match="STARFISH_PROXIES: expected addresses or networks"):
        load({"STARFISH_PROXIES": proxies})
