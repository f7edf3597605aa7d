"""A TCP proxy on loopback that breaks connections on demand: cuts them, stalls them, or throttles them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Self

from tests.support.ports import free_port

PIECE = 16 * 1024
SMALL_BUFFER = 16 * 1024


class Proxy:
    """Passes bytes between whoever connects to `port` and a server on loopback.

    Its own buffers are kept small, so that a stalled or throttled side is felt by the other one soon.

    Args:
        target_port: where the server listens; it may go and come back.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.rate: float | None = None
        """Bytes a second that each connection passes from the server to its client; None is as fast as it goes."""
        self.connections = 0
        """Connections made so far."""
        self._target_port = target_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}

    async def __aenter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", self.port))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=PIECE)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = list(self._open)
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self, index: int | None = None) -> None:
        """Breaks one open connection, by its place modulo their number, or all: there is no closing handshake."""
        tasks = list(self._open)
        if tasks and index is not None:
            tasks = [tasks[index % len(tasks)]]
        for task in tasks:
            task.cancel()

    def stall(self) -> None:
        """From now on no byte passes, in either direction, and nothing is closed."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = (writer,)
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):  # the latter is `cut`
                await self._pass_both_ways(task, reader, writer)
        finally:
            for each in self._open.pop(task):
                each.transport.abort()

    async def _pass_both_ways(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        server_reader, server_writer = await self._reach()
        self._open[task] = (writer, server_writer)
        directions = (
            asyncio.create_task(self._pass(reader, server_writer, throttled=False)),
            asyncio.create_task(self._pass(server_reader, writer, throttled=True)),
        )
        try:
            await asyncio.gather(*directions)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        up = socket.socket()
        try:
            up.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            up.setblocking(False)
            await asyncio.get_running_loop().sock_connect(up, ("127.0.0.1", self._target_port))
            return await asyncio.open_connection(sock=up, limit=PIECE)
        except BaseException:
            up.close()
            raise

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, throttled: bool) -> None:
        while piece := await self._read(reader):
            if throttled and self.rate is not None:
                await asyncio.sleep(len(piece) / self.rate)
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        await self._flowing.wait()
        piece = await reader.read(PIECE)
        await self._flowing.wait()
        return piece
