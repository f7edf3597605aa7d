"""What `relay.web.transport` relies on in uvicorn: if a release changes it, this says so before a site notices."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode

from relay.core import frames
from relay.web.transport import RelayProtocol, SocketLink, link_of
from tests.support.ports import free_port


class Server(uvicorn.Server):
    """A server inside the test: it leaves the test's signals alone, and says when it listens."""

    listens: asyncio.Event

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


@asynccontextmanager
async def served(
    ping_interval_s: float = 20, ping_timeout_s: float = 20
) -> AsyncIterator[tuple[str, asyncio.Queue[SocketLink], asyncio.Queue[int]]]:
    """A server whose sockets hand out their links, and the codes they closed with."""
    links: asyncio.Queue[SocketLink] = asyncio.Queue()
    codes: asyncio.Queue[int] = asyncio.Queue()

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        links.put_nowait(link_of(websocket))
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            pass
        codes.put_nowait(message["code"])

    port = free_port()
    server = Server(
        uvicorn.Config(
            Starlette(routes=[WebSocketRoute("/", endpoint)]),
            port=port,
            ws=RelayProtocol,
            lifespan="off",
            log_config=None,
            ws_per_message_deflate=False,
            ws_ping_interval=ping_interval_s,
            ws_ping_timeout=ping_timeout_s,
        )
    )
    server.listens = asyncio.Event()
    task = asyncio.create_task(server.serve())
    await server.listens.wait()
    try:
        yield f"ws://127.0.0.1:{port}/", links, codes
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ClientConnection]:
    async with connect(
        url, compression=None, ping_interval=None, max_queue=1, close_timeout=0.5, proxy=None
    ) as connection:
        yield connection


async def test_a_prepared_frame_arrives_whole_in_order_with_what_asgi_sends() -> None:
    async with served() as (url, links, _), connected(url) as client:
        link = await links.get()
        for number in range(3):
            link.send(frames.text({"n": number}))
        assert [await client.recv() for _ in range(3)] == ['{"n":0}', '{"n":1}', '{"n":2}']


async def test_a_reader_that_stalls_makes_the_link_unwritable_and_one_that_wakes_makes_it_writable_again() -> None:
    async with served() as (url, links, _), connected(url) as client:
        link = await links.get()
        client.transport.pause_reading()
        frame = frames.text({"x": "x" * 60_000})
        for _ in range(10_000):
            link.send(frame)
            await asyncio.sleep(0)
            if not link.writable:
                break
        assert link.pending_bytes() > 0
        client.transport.resume_reading()
        reading = asyncio.create_task(_read_all(client))
        async with asyncio.timeout(10):
            await link.drained()
        assert link.writable
        reading.cancel()


async def _read_all(client: ClientConnection) -> None:
    async for _ in client:
        pass


async def test_a_close_reaches_the_client_and_the_application() -> None:
    async with served() as (url, links, codes), connected(url) as client:
        link = await links.get()
        link.close(4410, "too slow")
        link.send(b"nothing goes out after the close")
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4410, "too slow")
        assert await codes.get() == 4410
        assert not link.left_cleanly


async def test_a_client_that_closes_has_left_cleanly_and_one_that_drops_has_not() -> None:
    async with served() as (url, links, codes):
        async with connected(url) as client:
            link = await links.get()
        await codes.get()
        assert link.left_cleanly
        async with connected(url) as client:
            link = await links.get()
            client.transport.abort()
            await codes.get()
            assert not link.left_cleanly


async def test_a_peer_of_which_nothing_moves_is_cut() -> None:
    async with served(ping_interval_s=0.1, ping_timeout_s=0.2) as (url, links, codes), connected(url) as client:
        await links.get()
        client.transport.pause_reading()
        async with asyncio.timeout(10):
            await codes.get()


async def test_a_peer_that_answers_pings_is_kept() -> None:
    async with served(ping_interval_s=0.05, ping_timeout_s=0.1) as (url, links, codes), connected(url) as client:
        link = await links.get()
        reading = asyncio.create_task(_read_all(client))
        await asyncio.sleep(0.5)  # ten intervals: it is the passing of time that must do no harm
        assert codes.empty()
        link.send(frames.text({"still": "here"}))
        reading.cancel()


def _fragments(*frames: Frame) -> bytes:
    return b"".join(frame.serialize(mask=True) for frame in frames)


async def test_fragments_are_put_together_as_they_come_whatever_their_number() -> None:
    async with served() as (url, links, _), connected(url) as client:
        link = await links.get()
        tiny = Frame(Opcode.CONT, b"xy", fin=False).serialize(mask=True) + _fragments(
            Frame(Opcode.CONT, b"", fin=False)
        )
        client.transport.write(_fragments(Frame(Opcode.BINARY, b"ab", fin=False)) + tiny * 20_000)
        async with asyncio.timeout(10):
            await (await client.ping())
        held = link._protocol.frames
        assert [len(one) for one in held] == [40_002]
        client.transport.write(_fragments(Frame(Opcode.CONT, b"z", fin=True)))
        async with asyncio.timeout(10):
            await (await client.ping())
        assert link._protocol.frames == []


async def test_a_close_within_a_fragmented_message_is_answered_as_any_other() -> None:
    async with served() as (url, _, codes), connected(url) as client:
        client.transport.write(_fragments(Frame(Opcode.TEXT, b"begun", fin=False)))
        await client.close(1000)
        assert (client.close_code, await codes.get()) == (1000, 1000)


async def test_text_that_is_no_utf_8_ends_the_session_and_leaves_no_trace_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served() as (url, _, codes), connected(url) as client:
        client.transport.write(_fragments(Frame(Opcode.TEXT, b"\xff")))
        await client.wait_closed()
        assert (client.close_code, await codes.get()) == (1007, 1007)
    assert [record for record in caplog.records if record.levelname != "DEBUG" and record.exc_info] == []
