"""What Autobahn's cases are run against: the relay's own WebSocket, with an echo in the place of its sessions.

The cases want every message back, and know nothing of credentials or of the relay's frames. So this serves, with the
relay's configuration, protocol class and link, each message to who sent it: `python -m tests.conformance.autobahn_echo
PORT`.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.frames import Frame, Opcode

from relay.config import Settings
from relay.web.server import config_of
from relay.web.transport import link_of

LONGEST_BYTES = 16 * 1024 * 1024
"""Of the messages that the cases send."""


async def echo(websocket: WebSocket) -> None:
    """Every message goes back as one frame, written as the relay writes its own."""
    await websocket.accept()
    link = link_of(websocket)
    while (message := await link.receive())["type"] == "websocket.receive":
        text, data = message.get("text"), message.get("bytes")
        frame = Frame(Opcode.BINARY, data) if data is not None else Frame(Opcode.TEXT, str(text).encode())
        link.send(frame.serialize(mask=False))
        if not link.writable:
            await link.drained()
    await link.closed()


def main() -> None:
    settings = Settings(port=int(sys.argv[1]), inline_bytes=LONGEST_BYTES)
    config = config_of(settings, Starlette(routes=[WebSocketRoute("/", echo)]))
    config.host, config.port = settings.host, settings.port
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
