"""A flag that can be waited for: asyncio's event, without the list of waiters that it makes before anybody waits."""

from __future__ import annotations

import asyncio


class Flag:
    """See the module. There are two for each session, for whose set state hardly ever anybody has to wait."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self, *, is_set: bool) -> None:
        self._is_set = is_set
        self._waiters: list[asyncio.Future[None]] | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Wake all who wait."""
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        """Until it is set, or has been set meanwhile."""
        if self._is_set:
            return
        waiter = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._forget(waiter)

    def _forget(self, waiter: asyncio.Future[None]) -> None:
        """It was woken, or it was cancelled."""
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)
