"""Many look-ups as one: what is asked for while the storage answers goes into the next question together.

A thousand sites that return in one moment cost a few statements, on one connection, not a thousand that queue for a
pool until their patience ends. Who asks alone waits for nobody. An answer never comes from before its asking: each
question is put after all who share it have asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

MOST = 256
"""Keys in one question."""


class Together(Generic[Key, Value]):
    """See the module. Answers come in the order of asking.

    Args:
        look: looks up many keys at once, each of them once; a key that it leaves out is not there.
        name: of the task.
    """

    def __init__(self, look: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Value]]], name: str) -> None:
        self._look = look
        self._name = name
        self._waiting: deque[tuple[Key, asyncio.Future[Value | None]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def get(self, key: Key) -> Value | None:
        """What is under the key, or None. Raises what the look-up raises."""
        answer: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._name)
        return await answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._answer([self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))])
        finally:
            self._task = None
            while self._waiting:  # only if the task was cancelled
                self._waiting.popleft()[1].cancel()

    async def _answer(self, asked: list[tuple[Key, asyncio.Future[Value | None]]]) -> None:
        """Look up what is still waited for, and tell everybody."""
        keys = list(dict.fromkeys(key for key, answer in asked if not answer.done()))
        if not keys:
            return
        try:
            found = await self._look(keys)
        except Exception as error:
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
        except asyncio.CancelledError:
            for _, answer in asked:
                answer.cancel()
            raise
        else:
            for key, answer in asked:
                if not answer.done():
                    answer.set_result(found.get(key))
