"""When something is due next in which project. One timer for all of them; nothing runs until it rings.

The times themselves are in the storage, so that they survive a restart; what is here is only the alarm clock.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

Due = Callable[[int], None]

LONGEST_S = 4.0
"""While something is due, the timer looks again at least this often: the clock of the day may have been set."""


class Deadlines:
    """See the module. `on_due(project_id)` is called from the event loop, once for each time that was set."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.on_due: Due = _nobody
        self._now_us = now_us
        self._due: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        self._timer: asyncio.TimerHandle | None = None

    def set(self, project_id: int, due_us: int | None) -> None:
        """Ring for this project then, and not at another time that was set before; None: not at all."""
        if due_us == self._due.get(project_id):
            return
        if due_us is None:
            del self._due[project_id]
        else:
            self._due[project_id] = due_us
            heapq.heappush(self._heap, (due_us, project_id))
        self._arm()

    def close(self) -> None:
        self._due.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._heap and not self._counts(*self._heap[0]):
            heapq.heappop(self._heap)
        if self._heap:
            wait_s = max(0.0, (self._heap[0][0] - self._now_us()) / 1e6)
            self._timer = asyncio.get_running_loop().call_later(min(wait_s, LONGEST_S), self._ring)

    def _counts(self, due_us: int, project_id: int) -> bool:
        """An entry of the heap counts unless another time was set since."""
        return self._due.get(project_id) == due_us

    def _ring(self) -> None:
        while self._heap and self._heap[0][0] <= self._now_us():
            due_us, project_id = heapq.heappop(self._heap)
            if self._counts(due_us, project_id):
                del self._due[project_id]
                self.on_due(project_id)
        self._arm()


def _nobody(project_id: int) -> None:
    raise RuntimeError(f"something is due in project {project_id}, and nobody was told to do it")
