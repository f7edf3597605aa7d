"""A relay that does what the test says, on a real socket: each connection, and each frame, is the test's to answer.

    async with FakeRelay() as relay, relay.site() as site:
        peer = relay.peers[0]                  # the connection that was welcomed while entering
        frame = await peer.receive()           # what the client sent, next
        await peer.ok(frame, offset=1)

Every wait has a time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from relay.client import Limits, Site

TIMEOUT_S = 20.0
UID = "0c6b8f6e-8f5c-4f63-9d0e-0f6d3a3c9a01"
EPOCH = "e1"

QUICK = Limits(
    backoff_s=0.01, backoff_max_s=0.02, ack_delay_s=0.0, connect_s=TIMEOUT_S, open_s=2.0, close_s=2.0, stall_s=30.0
)
"""The client's limits in tests: waits that a test would have to sit through are short, the others long."""

Frame = dict[str, Any]


def project(offset: int = 0, **fields: Any) -> Frame:
    """What a welcome says of a project."""
    default = {"role": "coordinator", "epoch": EPOCH, "offset": offset, "from": offset, "recovered": True, "online": []}
    return default | fields


def event(offset: int | None, **fields: Any) -> Frame:
    """An event frame; its id tells the offset."""
    default = {
        "type": "event",
        "project": 12,
        "offset": offset,
        "id": f"00000000-0000-4000-8000-{offset or 0:012}",
        "kind": "message",
        "from": "somebody",
        "run": None,
        "batch": None,
        "at": "2026-11-24T10:00:00.123456Z",
        "data": offset,
    }
    return default | fields


async def until(condition: Callable[[], object]) -> None:
    """Wait for something inside the client to become true: from outside there is no event that tells of it."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class Peer:
    """The relay's end of one connection. `hello` is set when the client has said it."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.hello: Frame = {}
        self.done = asyncio.Event()

    @property
    def headers(self) -> Mapping[str, str]:
        assert self.connection.request is not None
        return self.connection.request.headers

    async def receive(self) -> Frame:
        """The client's next frame; of a binary one the header, with the payload under `payload`."""
        async with asyncio.timeout(TIMEOUT_S):
            message = await self.connection.recv()
        if isinstance(message, str):
            frame: Frame = json.loads(message)
            return frame
        (length,) = struct.unpack_from(">I", message)
        return {**json.loads(message[4 : 4 + length]), "payload": message[4 + length :]}

    async def expect(self, type_: str) -> Frame:
        """The client's next frame, which has to be of this type."""
        frame = await self.receive()
        assert frame["type"] == type_, frame
        return frame

    async def hear_hello(self) -> Frame:
        self.hello = await self.expect("hello")
        return self.hello

    async def welcome(self, projects: Mapping[int, Frame] | None = None, **fields: Any) -> None:
        """Hear the hello and welcome the client, who is then served."""
        await self.hear_hello()
        await self.send(
            {
                "type": "welcome",
                "ref": self.hello["ref"],
                "session": "s",
                "site": {"id": 3, "uid": UID, "name": "here"},
                "server": {"name": "fake", "version": "0", "node": "n"},
                "ping_interval": 20,
                "expires_at": None,
                "limits": {"frame": 1024 * 1024, "inline": 16 * 1024 * 1024},
                "projects": {str(key): value for key, value in (projects or {12: project()}).items()},
            }
            | fields
        )

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            await self.connection.send(json.dumps(frame))

    async def send_binary(self, header: Frame, payload: bytes) -> None:
        head = json.dumps(header).encode()
        await self.connection.send(struct.pack(">I", len(head)) + head + payload)

    async def ok(self, frame: Frame, **fields: Any) -> None:
        await self.send({"type": "ok", "ref": frame["ref"], **fields})

    async def refuse(self, frame: Frame, code: str, **fields: Any) -> None:
        await self.send({"type": "error", "ref": frame["ref"], "code": code, "message": "no", "details": {}} | fields)

    async def close(self, code: int, reason: str = "") -> None:
        await self.connection.close(code, reason)

    def drop(self) -> None:
        """The network fails. What was sent just before may be lost with it."""
        self.connection.transport.abort()

    async def drop_when_read(self) -> None:
        """The network fails once the client has read everything: its pong comes after it."""
        async with asyncio.timeout(TIMEOUT_S):
            await (await self.connection.ping())
        self.drop()

    async def closed(self) -> int | None:
        """Wait for the client to close; its close code, None if it left without one."""
        async with asyncio.timeout(TIMEOUT_S):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
        received = self.connection.protocol.close_rcvd
        return None if received is None else received.code


class FakeRelay:
    """See the module. `refusals` answer the next handshakes: (status, headers, body) each."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.refusals: list[tuple[int, dict[str, str], bytes]] = []
        self.attempts = 0
        self._arrivals: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol("starfish.v1")],
            process_request=self._admit,
            compression=None,
            close_timeout=1,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        for peer in self.peers:
            peer.drop()
            peer.done.set()
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def new_site(self, **options: Any) -> Site:
        """A client of this relay, not entered yet."""
        defaults: dict[str, Any] = {"limits": QUICK, "proxy": False, "transports": ["websocket"]}
        if "user" not in options:
            defaults["token"] = "the-secret-token"
        return Site(self.url, **(defaults | options))

    @asynccontextmanager
    async def site(self, projects: Mapping[int, Frame] | None = None, **options: Any) -> AsyncIterator[Site]:
        """A client of this relay, entered and welcomed; its connection is the newest of `peers`."""
        site = self.new_site(**options)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.welcome(projects))
            entering = tasks.create_task(site.__aenter__())
        await entering
        try:
            yield site
        except BaseException as error:
            await site.__aexit__(type(error), error, error.__traceback__)
            raise
        await site.__aexit__(None, None, None)

    async def accept(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self._arrivals.get()

    async def welcome(self, projects: Mapping[int, Frame] | None = None, **fields: Any) -> Peer:
        """The next connection, welcomed."""
        peer = await self.accept()
        await peer.welcome(projects, **fields)
        return peer

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.attempts += 1
        if not self.refusals:
            return None
        status, headers, body = self.refusals.pop(0)
        response = connection.respond(HTTPStatus(status), body.decode())
        for name, value in headers.items():
            response.headers[name] = value
        return response

    async def _serve(self, connection: ServerConnection) -> None:
        peer = Peer(connection)
        self.peers.append(peer)
        self._arrivals.put_nowait(peer)
        await peer.done.wait()
