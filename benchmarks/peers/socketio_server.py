"""python-socketio under uvicorn: an event that it is sent goes to a room, then it is answered.

Run by the peers' own Python, not by the project's: `python socketio_server.py PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

import socketio  # type: ignore[import-not-found]
import uvicorn

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")


@server.event  # type: ignore[untyped-decorator]
async def subscribe(sid: str) -> str:
    await server.enter_room(sid, "project")
    return "ok"


@server.event  # type: ignore[untyped-decorator]
async def publish(sid: str, data: Any) -> str:
    await server.emit("event", data, room="project", skip_sid=sid)
    return "ok"


if __name__ == "__main__":
    uvicorn.run(
        socketio.ASGIApp(server),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        ws_per_message_deflate=False,
        log_level="warning",
        backlog=4096,
    )
