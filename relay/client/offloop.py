"""Work that would hold up the event loop: files, and hashes of much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Done = TypeVar("Done")

SMALL_BYTES = 64 * 1024
"""As much is worked on at once."""


async def off_loop(work: Callable[Given, Done], *args: Given.args, **options: Given.kwargs) -> Done:
    """Do it in a thread. A caller that is cancelled waits for its end, so that nothing works on a file it closes."""
    task = asyncio.create_task(asyncio.to_thread(work, *args, **options), name="relay-thread")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()  # seen: nobody asks for it any more
        raise cancelled
    return task.result()


async def aside(size: int, work: Callable[Given, Done], *args: Given.args, **options: Given.kwargs) -> Done:
    """Work on so many bytes: at once if they are few, else in a thread."""
    if size <= SMALL_BYTES:
        return work(*args, **options)
    return await off_loop(work, *args, **options)
