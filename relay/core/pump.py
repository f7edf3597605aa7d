"""Bytes on their way into a file: written in a thread, in order, with a bound on what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

PIECE_BYTES = 256 * 1024
"""As much may wait while a piece is written."""


async def settled(task: asyncio.Task[Any]) -> None:
    """Wait until a task is done, however often the caller is cancelled meanwhile; the cancellation goes on after."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class Pump:
    """Writes what is put, in a thread. What comes while it writes goes into the next write together, so that little
    waits for long and much goes in large pieces.
    """

    def __init__(self, write: Callable[[bytes], None], moved: Callable[[], None]) -> None:
        self._write = write
        self._moved = moved
        self._waiting: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._taken = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Raises what writing has raised."""
        while self._size >= PIECE_BYTES and self._task is not None and not self._task.done():
            self._taken.clear()
            await self._taken.wait()
        if self._task is not None and self._task.done():
            self._task.result()
        self._waiting.append(data)
        self._size += len(data)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="upload-write")

    async def close(self) -> None:
        """All that was put is written. Raises what writing has raised."""
        if self._task is not None:
            await settled(self._task)
            self._task.result()

    async def _run(self) -> None:
        try:
            while self._waiting:
                piece = b"".join(self._waiting)
                self._waiting.clear()
                self._size = 0
                self._taken.set()
                await asyncio.to_thread(self._write, piece)
                self._moved()
        finally:
            self._taken.set()
