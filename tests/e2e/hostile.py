"""A relay that lies: a real one, with something before it that changes what passes.

    async with HostileRelay(relay.url) as hostile:
        hostile.down = lambda frame: [frame | {"kind": "command"}] if frame["type"] == "event" else [frame]

`down` and `up` are given each frame as an object (of a binary one the header, with the payload under `payload`), and
give the frames that are passed on in its place. `said` is all that has passed, as bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Callable
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

Frame = dict[str, Any]
Change = Callable[[Frame], list[Frame]]
CREDENTIALS = ("Authorization", "X-Starfish-Site")


def unchanged(frame: Frame) -> list[Frame]:
    return [frame]


class HostileRelay:
    """See the module."""

    def __init__(self, url: str) -> None:
        self._target = url.replace("http", "ws", 1) + "/starfish/ws/v1"
        self.down: Change = unchanged
        self.up: Change = unchanged
        self.said: list[bytes] = []
        self._server: Server | None = None
        self._down: set[ServerConnection] = set()

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve, "127.0.0.1", 0, subprotocols=[Subprotocol("starfish.v1")], compression=None, max_size=None
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return f"http://127.0.0.1:{port}"

    async def say(self, frame: Frame) -> None:
        """Send a frame of one's own to whoever is connected."""
        for connection in self._down:
            await connection.send(_encode(frame))

    async def _serve(self, client: ServerConnection) -> None:
        assert client.request is not None
        headers = {name: client.request.headers[name] for name in CREDENTIALS if name in client.request.headers}
        async with connect(
            self._target,
            additional_headers=headers,
            subprotocols=[Subprotocol("starfish.v1")],
            compression=None,
            max_size=None,
            proxy=None,
        ) as relay:
            self._down.add(client)
            both = [
                asyncio.create_task(self._pass(client, relay, "up")),
                asyncio.create_task(self._pass(relay, client, "down")),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._down.discard(client)
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)

    async def _pass(
        self, source: ClientConnection | ServerConnection, target: ClientConnection | ServerConnection, way: str
    ) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in source:
                self.said.append(message.encode() if isinstance(message, str) else message)
                change: Change = getattr(self, way)  # which may have been set since
                for frame in change(_decode(message)):
                    await target.send(_encode(frame))


def _decode(message: str | bytes) -> Frame:
    if isinstance(message, str):
        frame: Frame = json.loads(message)
        return frame
    (length,) = struct.unpack_from(">I", message)
    return {**json.loads(message[4 : 4 + length]), "payload": message[4 + length :]}


def _encode(frame: Frame) -> str | bytes:
    if not isinstance(frame.get("payload"), bytes):
        return json.dumps(frame)
    header = json.dumps({name: value for name, value in frame.items() if name != "payload"}).encode()
    payload: bytes = frame["payload"]
    return struct.pack(">I", len(header)) + header + payload
