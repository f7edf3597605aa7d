"""A TCP proxy on loopback that breaks connections on demand: cuts, stalls, throttles, delays, half-opens them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable
from typing import Self

from tests.support.ports import free_port

PIECE = 16 * 1024
SMALL_BUFFER = 16 * 1024


class Link:
    """One connection through the proxy. `down` is set while bytes may pass from the server to the client."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]
        self.down = asyncio.Event()
        self.down.set()


class Proxy:
    """Passes bytes between whoever connects to `port` and a server on loopback.

    Its own buffers are kept small, so that a stalled or throttled side is felt by the other one soon.

    Args:
        target_port: where the server listens; it may go and come back.
        large: its buffers are as the system has them: for bulk, which small ones slow down to a few MiB a second.
    """

    def __init__(self, target_port: int, *, large: bool = False) -> None:
        self.port = free_port()
        self.rate: float | None = None
        """Bytes a second that each connection passes from the server to its client; None is as fast as it goes."""
        self.delay_s = 0.0
        """Before each piece of what is passed, in either direction."""
        self.refusing = False
        """Whoever connects is thrown out at once."""
        self.cut_after: int | None = None
        """Each connection breaks once it has passed so many bytes in one direction."""
        self.spoil: Callable[[bytes, bool], bytes] | None = None
        """Is given each piece, and whether it comes from the server; what it returns is passed in its place."""
        self.up_bytes = 0
        """Passed to the server so far, on all connections."""
        self.down_bytes = 0
        self.connections = 0
        """Connections made so far."""
        self._target_port = target_port
        self._large = large
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open: dict[asyncio.Task[None], Link] = {}
        self._held: list[asyncio.Future[None]] | None = None

    async def __aenter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", self.port))
        if not self._large:
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
        for task in self._chosen(index):
            task.cancel()

    def half_open(self, index: int | None = None) -> None:
        """From now on the client of one connection, or of all, hears nothing; what it sends still arrives."""
        for task in self._chosen(index):
            self._open[task].down.clear()

    def stall(self) -> None:
        """From now on no byte passes, in either direction, and nothing is closed."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def hold(self) -> None:
        """From now on who connects waits, before a byte is passed."""
        self._held = []

    def release(self, rng: random.Random) -> None:
        """Who was held is let through, in another order than they came in."""
        held, self._held = self._held or [], None
        for waiting in rng.sample(held, len(held)):
            if not waiting.done():
                waiting.set_result(None)

    def _chosen(self, index: int | None) -> list[asyncio.Task[None]]:
        tasks = list(self._open)
        return [tasks[index % len(tasks)]] if tasks and index is not None else tasks

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = self._open[task] = Link(writer)
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):  # the latter is `cut`
                if not self.refusing:
                    await self._in_turn()
                    await self._pass_both_ways(link, reader)
        finally:
            del self._open[task]
            for each in link.writers:
                each.transport.abort()

    async def _in_turn(self) -> None:
        if self._held is not None:
            waiting = asyncio.get_running_loop().create_future()
            self._held.append(waiting)
            await waiting

    async def _pass_both_ways(self, link: Link, reader: asyncio.StreamReader) -> None:
        server_reader, server_writer = await self._reach()
        client_writer = link.writers[0]
        link.writers.append(server_writer)
        directions = (
            asyncio.create_task(self._pass(reader, server_writer)),
            asyncio.create_task(self._pass(server_reader, client_writer, down=link.down)),
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
            if not self._large:
                up.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            up.setblocking(False)
            await asyncio.get_running_loop().sock_connect(up, ("127.0.0.1", self._target_port))
            return await asyncio.open_connection(sock=up, limit=PIECE)
        except BaseException:
            up.close()
            raise

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, down: asyncio.Event | None = None
    ) -> None:
        """One direction; `down` is given for that from the server."""
        passed = 0
        while piece := await self._read(reader):
            if self.cut_after is not None and passed + len(piece) > self.cut_after:
                raise ConnectionResetError
            passed += len(piece)
            piece = self._seen(piece, from_server=down is not None)
            if down is not None:
                await down.wait()
                if self.rate is not None:
                    await asyncio.sleep(len(piece) / self.rate)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    def _seen(self, piece: bytes, *, from_server: bool) -> bytes:
        if from_server:
            self.down_bytes += len(piece)
        else:
            self.up_bytes += len(piece)
        return piece if self.spoil is None else self.spoil(piece, from_server)

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        await self._flowing.wait()
        piece = await reader.read(PIECE)
        await self._flowing.wait()
        return piece
