"""A bare `websockets` server: no storage, no rules, no accounts. `python -m benchmarks.peers.bare PORT`.

/echo        sends back what it gets
/subscribe   is sent what is published
/publish     what it sends goes to all subscribers by `broadcast()`, then it is answered `ok`
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

_subscribers: set[ServerConnection] = set()


async def _handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    try:
        match connection.request.path:
            case "/echo":
                async for message in connection:
                    await connection.send(message)
            case "/publish":
                async for message in connection:
                    broadcast(_subscribers, message)
                    await connection.send("ok")
            case _:
                _subscribers.add(connection)
                await connection.wait_closed()
    except ConnectionClosed:
        pass
    finally:
        _subscribers.discard(connection)


async def _main(port: int) -> None:
    async with serve(_handle, "127.0.0.1", port, compression=None, backlog=4096):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
