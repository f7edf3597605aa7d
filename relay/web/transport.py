"""The socket itself: uvicorn's WebSocket protocol, with a way past ASGI for what the relay needs of it.

A fan-out writes one prepared frame to many sockets. Through ASGI `send` that is a message, a coroutine and a copy for
each; here it is one `transport.write` (1.5 to 1.7 times the rate, level with `websockets.broadcast`). It also gives
what ASGI has no word for: how much the socket still holds, when it takes more, and cutting it.

It rests on the internals of uvicorn's `WebSocketsSansIOProtocol`, so uvicorn is pinned to one release, and
`tests/web/test_transport.py` says what would break.

A peer is given up when for `ping_timeout` nothing of it has moved: no pong, and no byte in or out. It is then cut
(`abort`), because a peer that does not read would hold a socket that is closed politely for ever. What counts as out is
what the peer's TCP has acknowledged: the system's own send buffer holds megabytes, which take a slow link minutes.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from asyncio.transports import BaseTransport
from collections import deque
from collections.abc import Coroutine
from typing import Any, cast

from starlette.types import Receive
from starlette.websockets import WebSocket
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.server import ServerProtocol

from relay.core.flag import Flag
from relay.web.peers import CERTIFICATE, shown_on

EXTENSION = "starfish.transport"
CLOSE_TIMEOUT_S = 5.0
"""How long a peer may take to answer a close before it is cut."""

_PING_BYTES = 6
_BYTES_ACKED = 120
"""Where `tcpi_bytes_acked` lies in `struct tcp_info` (Linux 4.1 and later)."""


class _Inbox:
    """What has come for the session, for its one reader."""

    __slots__ = ("_messages", "_waiter")

    def __init__(self) -> None:
        self._messages: deque[ASGIReceiveEvent] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put_nowait(self, message: ASGIReceiveEvent) -> None:
        if self._messages is None:
            self._messages = deque()
        self._messages.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def empty(self) -> bool:
        return self._messages is None

    async def get(self) -> ASGIReceiveEvent:
        while self._messages is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._messages.popleft()
        if not self._messages:
            self._messages = None
        return message


class _Wire(ServerProtocol):
    """The sans-I/O side of `websockets`, to which a close within a fragmented message is a protocol error: it is none.

    Control frames may come between fragments (RFC 6455, section 5.4; Autobahn's case 7.1.5), and a close ends it all.
    """

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


class RelayProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, found in the ASGI scope's extensions under `EXTENSION`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _Wire(max_size=self.config.ws_max_size, logger=self.logger)
        # uvicorn makes a queue and an event, with three waiting lists of 600 bytes, for every connection.
        self.queue = cast("asyncio.Queue[ASGIReceiveEvent]", _Inbox())
        self.writable = cast("asyncio.Event", Flag(is_set=True))
        self.close_timeout = CLOSE_TIMEOUT_S
        self.left_cleanly = False
        """The peer has closed by the closing handshake."""
        self._received = 0
        self._moved: tuple[int, int] = (0, 0)
        self.takes_more = True
        """`writable.is_set()`, without a call: it is asked once for every delivery."""
        self._ping_at = 0
        """Where in the bytes sent the last ping begins."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.is_lost = Flag(is_set=False)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.takes_more = True
        self.is_lost.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.takes_more = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self.takes_more = True

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def run_asgi(self) -> Coroutine[Any, Any, None]:
        extensions = cast("dict[str, object]", self.scope["extensions"])
        extensions |= {EXTENSION: self, CERTIFICATE: shown_on(self.transport)}
        return super().run_asgi()

    def handle_cont(self, event: Frame) -> None:
        # Put together as they come: a list of fragments would cost some 40 bytes each, and empty ones have no limit.
        begun = cast("bytes | bytearray", self.frames[0])
        whole = begun if isinstance(begun, bytearray) else bytearray(begun)
        whole += event.data
        self.frames = cast("list[bytes]", [whole])
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        data, self.frames = self.frames[0], []
        if self.close_sent:
            return
        try:
            self.queue.put_nowait(_message(data, is_text=self.curr_msg_data_type == "text"))
        except UnicodeDecodeError:
            # uvicorn would log it with a traceback: a client could fill the log with them.
            self.conn.fail(CloseCode.INVALID_DATA)
            self.handle_parser_exception()
            return
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    async def send(self, message: ASGISendEvent) -> None:
        """The handshake's answer. One to nobody is no error, and a refusal is an answer, too."""
        if self.transport.is_closing():
            self.handshake_complete = True
            raise ClientDisconnected
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True

    def handle_close(self, event: Frame) -> None:
        self.left_cleanly = not self.close_sent
        super().handle_close(event)

    # --- liveness

    def send_keepalive_ping(self) -> None:
        self._moved = self._movement()
        self._ping_at = self._moved[1] + self.pending_bytes()
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        if self.pending_ping_payload is None:
            return
        before, self._moved = self._moved, self._movement()
        # While the relay itself does not read, a pong may lie unread: that is no fault of the peer.
        if self._moved[0] != before[0] or self._has_taken(before[1], self._moved[1]) or self.read_paused:
            assert self.ping_timeout is not None
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        self.pong_timer = None
        self.transport.abort()

    def _movement(self) -> tuple[int, int]:
        """How much has come in, and how much of what was sent has been taken."""
        taken = taken_bytes(self.transport)
        return self._received, -int(self.transport.get_write_buffer_size()) if taken is None else taken

    def _has_taken(self, before: int, now: int) -> bool:
        """Whether the peer has taken something, other than the ping alone: that is its system's doing, not its own."""
        is_ping_alone = before >= self._ping_at and now <= self._ping_at + _PING_BYTES
        return now > before and not is_ping_alone

    def pending_bytes(self) -> int:
        """Bytes that were handed over and not taken yet, by whatever buffer they are held."""
        return int(self.transport.get_write_buffer_size()) + unsent_bytes(self.transport)

    # --- closing

    def begin_close(self, code: int, reason: str) -> None:
        """Start the closing handshake, and cut the peer if it does not answer."""
        if self.close_sent or self.transport.is_closing():
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def forget_request(self) -> None:
        """Let go of what the handshake was about: it would be held for as long as the session lives."""
        cast("dict[str, object]", self.scope).clear()
        del self.request, self.response


class SocketLink:
    """Serves `relay.core.ports.Link` on one open WebSocket."""

    __slots__ = ("_protocol", "_write", "receive")

    def __init__(self, protocol: RelayProtocol) -> None:
        self._protocol = protocol
        self._write = protocol.transport.write
        self.receive = cast("Receive", protocol.receive)
        """The next frame, or the end."""

    @property
    def writable(self) -> bool:
        return self._protocol.takes_more

    @property
    def left_cleanly(self) -> bool:
        return self._protocol.left_cleanly

    def send(self, frames: bytes) -> None:
        protocol = self._protocol
        if not (protocol.close_sent or protocol.disconnected):
            self._write(frames)

    def pending_bytes(self) -> int:
        return self._protocol.pending_bytes()

    async def drained(self) -> None:
        await self._protocol.writable.wait()  # uvicorn sets it when the connection is lost, too

    def close(self, code: int, reason: str) -> None:
        self._protocol.begin_close(code, reason)

    async def closed(self) -> None:
        """Wait until the socket is gone."""
        await self._protocol.is_lost.wait()


def _message(data: bytes, *, is_text: bool) -> ASGIReceiveEvent:
    """A whole message as ASGI has it. Raises `UnicodeDecodeError`."""
    if is_text:
        return {"type": "websocket.receive", "text": data.decode()}
    return {"type": "websocket.receive", "bytes": bytes(data)}


def taken_bytes(transport: BaseTransport) -> int | None:
    """How much the peer's TCP has acknowledged so far. None where the system does not say."""
    raw = transport.get_extra_info("socket")
    if raw is None or not sys.platform.startswith("linux"):
        return None
    try:
        info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    except OSError:  # no TCP, or closed
        return None
    return int(struct.unpack_from("=Q", info, _BYTES_ACKED)[0]) if len(info) >= _BYTES_ACKED + 8 else None


def unsent_bytes(transport: BaseTransport) -> int:
    """How much the system holds that the peer's TCP has not acknowledged. 0 where it does not say."""
    raw = transport.get_extra_info("socket")
    if raw is None or not sys.platform.startswith("linux"):
        return 0
    try:
        (size,) = struct.unpack("=i", fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):
        return 0
    return int(size)


def link_of(websocket: WebSocket) -> SocketLink:
    """The link of an accepted WebSocket, whose request is forgotten with it.

    Raises:
        RuntimeError: it is served by something else than this server.
    """
    protocol = websocket.scope.get("extensions", {}).get(EXTENSION)
    if not isinstance(protocol, RelayProtocol):
        raise RuntimeError(
            f"expected a RelayProtocol in the scope, got {protocol!r}; start it by `starfish-relay serve`"
        )
    protocol.forget_request()
    return SocketLink(protocol)
