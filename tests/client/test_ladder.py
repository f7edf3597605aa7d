"""Which rung is stood on: what speaks against one, where it goes from there, and when it climbs again."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relay.client import Limits, Site
from relay.client.credentials import TokenUnavailable
from relay.client.feeds import sent_events
from relay.client.ladder import Ladder
from relay.client.proxies import Proxy, proxy_for
from relay.client.rest import ending
from relay.client.transport import Disconnected, HeldBack, Refused, Transport, Unreachable, api_url
from relay.protocol.errors import CloseCode
from tests.client.fake import TIMEOUT_S, until

WELCOME = (
    '{"type":"welcome","session":"s","site":{"id":1,"uid":"u","name":"n"},"projects":{},"limits":{},"expires_at":null}'
)
FOREIGN = Refused(404, "Not Found")


class FakeTransport:
    def __init__(self, answer: str | Exception) -> None:
        self.answer = answer
        self.closed = False

    async def send(self, frame: bytes, *, binary: bool = False) -> None:
        pass

    async def receive(self) -> str | bytes:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def close(self, code: int) -> None:
        self.closed = True

    def drop(self) -> None:
        self.closed = True


class FakeRung:
    """Opens as the test says; what it opened is in `opened`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answer: str | Exception = FOREIGN
        self.opened: list[FakeTransport] = []
        self.tries = 0

    async def open(self) -> Transport:
        self.tries += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        self.opened.append(FakeTransport(self.answer))
        return self.opened[-1]


def ladder(**limits: Any) -> tuple[Ladder, list[FakeRung]]:
    rungs = [FakeRung(name) for name in ("websocket", "sse", "poll")]
    return Ladder(rungs, Limits(open_s=0.1, **limits)), rungs


# Down


@pytest.mark.parametrize(
    "blocked",
    [
        FOREIGN,
        Refused(403, "by a filter"),
        Refused(200, "a page to log in"),
        Refused(426, "upgrade", code="invalid"),
        TimeoutError(),
        HeldBack(1006, "silent"),
    ],
    ids=str,
)
def test_a_blocked_rung_is_left_at_once(blocked: Exception) -> None:
    stood, _ = ladder()
    assert (stood.failed(blocked), stood.name) == (True, "sse")


@pytest.mark.parametrize(
    "doubtful", [Refused(502, "Bad Gateway"), Disconnected(1006, ""), ConnectionResetError()], ids=str
)
def test_a_doubtful_rung_is_left_the_second_time(doubtful: Exception) -> None:
    stood, _ = ladder()
    assert (stood.failed(doubtful), stood.name) == (False, "websocket")
    stood.welcomed()
    assert (stood.failed(doubtful), stood.name) == (False, "websocket")
    assert (stood.failed(doubtful), stood.name) == (True, "sse")


@pytest.mark.parametrize(
    "passing",
    [
        Unreachable("nobody listens"),
        ConnectionRefusedError(),
        socket.gaierror(),
        ssl.SSLCertVerificationError(),
        TokenUnavailable("no vault"),
        Refused(503, "draining", code="draining"),
        Refused(429, "too many", code="too_many_sessions"),
        Disconnected(CloseCode.RESTARTING, ""),
    ],
    ids=repr,
)
def test_what_passes_moves_nothing(passing: Exception) -> None:
    stood, _ = ladder()
    assert not any(stood.failed(passing) for _ in range(5))
    assert stood.name == "websocket"


def test_from_the_last_rung_it_goes_on_with_the_first_and_waits() -> None:
    stood, _ = ladder()
    assert [(stood.failed(FOREIGN), stood.name) for _ in range(4)] == [
        (True, "sse"),
        (True, "poll"),
        (False, "websocket"),
        (True, "sse"),
    ]
    alone = Ladder([FakeRung("poll")], Limits())
    assert (alone.failed(FOREIGN), alone.name, alone.at_bottom, alone.may_climb) == (False, "poll", True, False)


# Up


async def test_it_climbs_to_the_first_rung_that_welcomes() -> None:
    stood, (websocket, sse, _) = ladder(climb_s=0.01, climb_max_s=0.02)
    stood.failed(FOREIGN)
    stood.failed(FOREIGN)
    assert stood.may_climb
    sse.answer = Disconnected(1006, "")
    climbing = asyncio.create_task(stood.climb(lambda: b"hello"))
    await until(lambda: websocket.tries >= 2)
    assert stood.name == "poll"
    sse.answer = WELCOME
    async with asyncio.timeout(TIMEOUT_S):
        await climbing
    assert stood.name == "sse"
    assert all(transport.closed for rung in (websocket, sse) for transport in rung.opened)


async def test_a_rung_that_opens_and_does_not_welcome_is_not_climbed_to() -> None:
    stood, (websocket, _, _) = ladder(climb_s=0.01, climb_max_s=0.01)
    stood.failed(FOREIGN)
    websocket.answer = "an answer that makes no sense"
    climbing = asyncio.create_task(stood.climb(lambda: b"hello"))
    await until(lambda: websocket.tries >= 3)
    climbing.cancel()
    await asyncio.wait({climbing})
    assert (stood.name, len(websocket.opened)) == ("sse", websocket.tries)
    assert all(transport.closed for transport in websocket.opened)


def test_tries_are_spread_and_become_rare() -> None:
    stood, _ = ladder(climb_s=100.0, climb_max_s=800.0)
    for tries, ceiling in ((0, 100), (1, 200), (2, 400), (3, 800), (50, 800)):
        stood._tries = tries
        waits = [stood._interval_s() for _ in range(200)]
        assert ceiling / 2 <= min(waits) < 0.6 * ceiling
        assert 0.9 * ceiling < max(waits) <= ceiling
    assert not ladder(climb_s=None)[0].may_climb


# The lower rungs' words


async def events(*pieces: bytes, limit: int = 1000) -> list[tuple[int | None, bytes]]:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    opened = asyncio.Event()
    found = [event async for event in sent_events(body(), opened, limit)]
    assert opened.is_set()
    return found


async def test_an_event_stream_is_read_however_it_is_cut_up() -> None:
    stream = b': welcome\n\nid: e1:7\ndata: {"a":\ndata: 1}\n\n:\n\ndata: {}\n\nevent: x\n\nid: e1:8\ndata:2\n\n'
    expected = [(7, b'{"a":\n1}'), (None, b"{}"), (8, b"2")]
    assert await events(stream) == expected
    assert await events(*(bytes([byte]) for byte in stream)) == expected
    assert await events(stream[:-1]) == expected[:2], "an event that is not complete is none"
    with pytest.raises(Disconnected, match="more than 1000"):
        await events(b"data: " + b"x" * 2000)


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        (Refused(401, "", code="unauthenticated"), CloseCode.UNAUTHENTICATED),
        (Refused(503, "", code="draining"), CloseCode.RESTARTING),
        (Refused(502, ""), CloseCode.OVERLOADED),
        (Refused(503, "", code="unavailable"), None),
        (Refused(413, ""), None),
        (Refused(404, "", code="unknown_project"), None),
    ],
    ids=str,
)
def test_what_ends_the_connection_and_what_only_a_request(refused: Refused, code: CloseCode | None) -> None:
    ends = ending(refused)
    assert (None if ends is None else ends.code) == code


# Settings


def test_the_rest_api_stands_beside_the_socket() -> None:
    assert api_url("wss://relay.example/behind/it/starfish/ws/v1") == "https://relay.example/behind/it/starfish/api/v1/"


@pytest.mark.parametrize("transports", [[], ["carrier pigeon"], ["websocket", "ws"]])
def test_transports_are_those_that_there_are(transports: Any) -> None:
    with pytest.raises(ValueError, match="websocket, sse, poll"):
        Site("http://relay.example", token="t", transports=transports)


@pytest.mark.parametrize(
    "url", ["socks5://a:secret@b", "http://secret@b", "http://a:secret@", "http://a:secret@b/c", "http://a:secret@b:x"]
)
def test_a_proxy_that_cannot_be_used_is_refused_and_shows_no_secret(url: str) -> None:
    with pytest.raises(ValueError, match="a proxy is") as caught:
        Site("http://relay.example", token="t", proxy=url)
    assert "secret" not in str(caught.value)


def test_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    assert proxy_for("wss://relay.example/", True) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://anna:secret@[::1]:3128")
    monkeypatch.setenv("ALL_PROXY", "other.example:8080")
    monkeypatch.setenv("NO_PROXY", "near.example")
    found = proxy_for("wss://relay.example/", True)
    assert found is not None
    assert (found.url, repr(found)) == ("http://anna:secret@[::1]:3128", "<Proxy http://[::1]:3128>")
    assert repr(proxy_for("ws://relay.example/", True)) == "<Proxy http://other.example:8080>"
    assert proxy_for("wss://near.example/", True) is None
    assert proxy_for("wss://relay.example/", False) is None
    assert isinstance(proxy_for("wss://near.example/", "http://given.example"), Proxy)
