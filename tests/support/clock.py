"""The loop's clock in a test's hand: timers ring when the test says so, and nothing sleeps."""

from __future__ import annotations

import asyncio


class Clock:
    """Of the running loop. Time goes on as it does, and in jumps besides."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ahead_s = 0.0
        real = self._loop.time
        self._loop.time = lambda: real() + self._ahead_s  # type: ignore[method-assign]

    @property
    def now(self) -> float:
        return self._loop.time()

    async def advance(self, seconds: float) -> None:
        """Jump, in one leap a timer: what a timer starts at its time is begun at that time."""
        await settle()
        target = self.now + seconds
        while (due := self._next_timer()) is not None and due <= target:
            self._ahead_s += max(0.0, due - self.now)
            await settle()
        self._ahead_s += max(0.0, target - self.now)
        await settle()

    def _next_timer(self) -> float | None:
        timers: list[asyncio.TimerHandle] = self._loop._scheduled  # type: ignore[attr-defined]
        return min((timer.when() for timer in timers if not timer.cancelled()), default=None)


async def settle(turns: int = 30) -> None:
    """Let everything run that needs nothing but its turn of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
