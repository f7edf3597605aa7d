"""The load: what runs in a process of its own (`processes.Remote`) and plays the sites. It speaks through picows."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Sequence

from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.harness import Failed
from benchmarks.lines import Line

RUN_TIMEOUT_S = 120.0
STORM_TIMEOUT_S = 170.0
"""Many times the goal, and less than `processes.CALL_TIMEOUT_S`."""
CONNECT_TIMEOUT_S = 60.0
CONNECTING_AT_ONCE = 100


class Socket(WSListener):
    """One connection. After its opening it counts deliveries and answers, and tells who wants to know."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line
        self.transport: WSTransport | None = None
        self.deliveries = 0
        self.answers = 0
        self.on_progress: Callable[[Socket], None] = _nobody
        self._type = WSMsgType.BINARY if line.is_binary else WSMsgType.TEXT
        self._awaited: tuple[bytes, asyncio.Future[None]] | None = None
        self._numbers = itertools.count(1)
        self._ids = str(uuid.uuid4())[:24].encode()

    async def open(self) -> Socket:
        await ws_connect(
            lambda: self,
            self.line.url,
            extra_headers=self.line.headers,
            websocket_handshake_timeout=CONNECT_TIMEOUT_S,
            max_frame_size=1 << 30,
        )
        for said, awaited in self.line.opening:
            understood: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._awaited = (awaited, understood)
            self.send(said)
            await understood
        return self

    def send(self, message: bytes) -> None:
        assert self.transport is not None
        self.transport.send(self._type, message)

    def publish(self) -> None:
        number = next(self._numbers)
        self.send(self.line.message % {b"n": number, b"id": b"%s%012x" % (self._ids, number)})

    def cut(self) -> None:
        if self.transport is not None:
            self.transport.disconnect(graceful=False)

    # --- picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect()
            return
        message = frame.get_payload_as_bytes()
        if self._awaited is not None:
            awaited, understood = self._awaited
            if awaited in message:
                self._awaited = None
                understood.set_result(None)
        elif message == self.line.ping:
            self.send(self.line.pong)
        else:
            self.deliveries += message.count(self.line.delivered)
            self.answers += message.count(self.line.answered)
            self.on_progress(self)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self._awaited is not None and not self._awaited[1].done():
            self._awaited[1].set_exception(ConnectionResetError("cut before it was understood"))


def _nobody(_socket: Socket) -> None:
    """Nobody wants to know."""


async def open_all(lines: Sequence[Line], at_once: int = CONNECTING_AT_ONCE) -> list[Socket]:
    gate = asyncio.Semaphore(at_once)

    async def one(line: Line) -> Socket:
        async with gate:
            return await Socket(line).open()

    return list(await asyncio.gather(*(one(line) for line in lines)))


class Exchange:
    """Publishers and subscribers: so many messages are sent, and it is waited until all have arrived everywhere.

    Args:
        copies: to how many subscribers each message goes.
    """

    def __init__(self, publishers: Sequence[Line], subscribers: Sequence[Line], copies: int) -> None:
        self._lines = publishers, subscribers
        self._copies = copies

    async def open(self) -> None:
        publishers, subscribers = self._lines
        self._subscribers = await open_all(subscribers)
        self._publishers = await open_all(publishers)

    async def run(self, each: int, window: int) -> float:
        """Each publisher sends `each` messages, `window` of them unanswered. Seconds until the last has arrived.

        Raises:
            Failed: what arrived is not what was sent, or not in time.
        """
        self._done = asyncio.Event()
        self._left = dict.fromkeys(self._publishers, each)
        self._deliveries, self._answers = each * len(self._publishers) * self._copies, each * len(self._publishers)
        for socket in (*self._publishers, *self._subscribers):
            socket.deliveries = socket.answers = 0
            socket.on_progress = self._note
        started = time.perf_counter()
        for socket in self._publishers:
            for _ in range(min(window, each)):
                self._publish(socket)
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                await self._done.wait()
        except TimeoutError:
            raise Failed(f"{self._deliveries} deliveries and {self._answers} answers did not come") from None
        return time.perf_counter() - started

    def _publish(self, socket: Socket) -> None:
        self._left[socket] -= 1
        socket.publish()

    def _note(self, socket: Socket) -> None:
        self._deliveries -= socket.deliveries
        self._answers -= socket.answers
        for _ in range(min(socket.answers, self._left.get(socket, 0))):
            self._publish(socket)
        socket.deliveries = socket.answers = 0
        if self._deliveries <= 0 and self._answers <= 0:
            self._done.set()


class PingPong:
    """One message at a time: from the publisher's send to the subscriber's receipt."""

    def __init__(self, publisher: Line, subscriber: Line) -> None:
        self._lines = publisher, subscriber

    async def open(self) -> None:
        publisher, subscriber = self._lines
        self._subscriber = await Socket(subscriber).open()
        self._publisher = self._subscriber if publisher is subscriber else await Socket(publisher).open()
        self._is_answered = publisher is not subscriber

    async def run(self, count: int) -> list[float]:
        """The seconds of each, in ascending order."""
        return sorted([await self._one() for _ in range(count)])

    async def _one(self) -> float:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[float] = loop.create_future()
        answered: asyncio.Future[None] = loop.create_future()

        def note(socket: Socket) -> None:
            if self._subscriber.deliveries and not arrived.done():
                arrived.set_result(time.perf_counter())
            if self._publisher.answers and not answered.done():
                answered.set_result(None)

        for socket in (self._publisher, self._subscriber):
            socket.deliveries = socket.answers = 0
            socket.on_progress = note
        started = time.perf_counter()
        self._publisher.publish()
        async with asyncio.timeout(RUN_TIMEOUT_S):
            at = await arrived
            if self._is_answered:
                await answered
        return at - started


class Crowd:
    """Connections that are only there."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        self._sockets: list[Socket] = []

    async def open(self) -> None:
        """Connect all, some at a time."""
        self._sockets = await open_all(self._lines)

    async def storm(self) -> tuple[float, int]:
        """Cut all and connect all at once, whoever is refused again and again. Seconds until all are live, refusals."""
        for socket in self._sockets:
            socket.cut()
        self._refused = 0
        started = time.perf_counter()
        try:
            async with asyncio.timeout(STORM_TIMEOUT_S):
                self._sockets = list(await asyncio.gather(*(self._return(line) for line in self._lines)))
        except TimeoutError:
            raise Failed(f"not all were back within {STORM_TIMEOUT_S:.0f} s") from None
        return time.perf_counter() - started, self._refused

    async def _return(self, line: Line) -> Socket:
        while True:
            try:
                return await Socket(line).open()
            except (OSError, TimeoutError, WSError):
                self._refused += 1
                await asyncio.sleep(0.5)


class Latecomer:
    """A site that comes late: it asks for all that a journal has."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def read(self, count: int) -> float:
        """Seconds from the opening to the last of `count` events."""
        done = asyncio.Event()
        socket = Socket(self._line)

        def note(_socket: Socket) -> None:
            if socket.deliveries >= count:
                done.set()

        socket.on_progress = note
        started = time.perf_counter()
        await socket.open()
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                await done.wait()
        except TimeoutError:
            raise Failed(f"{count - socket.deliveries} of {count} events did not come") from None
        seconds = time.perf_counter() - started
        socket.cut()
        return seconds
