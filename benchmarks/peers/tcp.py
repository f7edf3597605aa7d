"""A bare TCP relay: no storage, no rules, no HTTP. `python -m benchmarks.peers.tcp PORT`.

A connection says `R` to be sent what others send, or `S` to send: then its bytes go to all who receive, and they are
told the end.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

PIECE_BYTES = 256 * 1024

_receivers: list[asyncio.StreamWriter] = []


async def _handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await reader.readexactly(1) == b"R":
        _receivers.append(writer)
        writer.write(b"!")
        return
    receivers, _receivers[:] = _receivers[:], []
    while piece := await reader.read(PIECE_BYTES):
        for receiver in receivers:
            receiver.write(piece)
        for receiver in receivers:
            await receiver.drain()
    for one in (*receivers, writer):
        one.close()


async def _main(port: int) -> None:
    async with await asyncio.start_server(_handle, "127.0.0.1", port, limit=PIECE_BYTES):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
