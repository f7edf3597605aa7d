"""When batches must have ended. One timer for all of them, set to the next one due; nothing runs until it rings.

The deadlines themselves are in the storage, so that they survive a restart; what is here is only the alarm clock.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

Due = Callable[[int, int], None]

_LONGEST_S = 3600.0
"""The timer looks again at least this often: the clock of the day may have been set."""


class Deadlines:
    """See the module. `on_due(project_id, batch)` is called from the event loop; `retry` puts one back."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.on_due: Due = _nobody
        self._now_us = now_us
        self._heap: list[tuple[int, int, int]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, due_us: int, project_id: int, batch: int) -> None:
        heapq.heappush(self._heap, (due_us, project_id, batch))
        self._arm()

    def close(self) -> None:
        self._heap.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            wait_s = max(0.0, (self._heap[0][0] - self._now_us()) / 1e6)
            self._timer = asyncio.get_running_loop().call_later(min(wait_s, _LONGEST_S), self._ring)

    def _ring(self) -> None:
        while self._heap and self._heap[0][0] <= self._now_us():
            _, project_id, batch = heapq.heappop(self._heap)
            self.on_due(project_id, batch)
        self._arm()


def _nobody(project_id: int, batch: int) -> None:
    raise RuntimeError(f"batch {batch} of project {project_id} is due, and nobody was told to end it")
