"""How many events are committed, by the second: of each project for the last few, of all for the last minute."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

RATE_S = 10
"""A rate is the mean of so many seconds."""
HISTORY_S = 60


class Meter:
    """See the module. It holds as many numbers as projects have said something within `RATE_S`, and `HISTORY_S` more.

    Args:
        clock: seconds, from whenever, never back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = int(clock())
        self._now: Counter[int] = Counter()
        self._lately: deque[Counter[int]] = deque(maxlen=RATE_S)
        self._totals: deque[int] = deque([0] * HISTORY_S, maxlen=HISTORY_S)

    def count(self, project_id: int, events: int) -> None:
        self._move_on()
        self._now[project_id] += events

    def rates(self) -> tuple[float, dict[int, float]]:
        """Events a second, of all and of each project that has had any; the second that runs is not counted yet."""
        self._move_on()
        sums: Counter[int] = Counter()
        for counts in self._lately:
            sums.update(counts)
        return sums.total() / RATE_S, {project_id: count / RATE_S for project_id, count in sums.items()}

    def history(self) -> list[int]:
        """Events of each of the last `HISTORY_S` whole seconds, oldest first."""
        self._move_on()
        return list(self._totals)

    def _move_on(self) -> None:
        passed = int(self._clock()) - self._second
        if passed <= 0:
            return
        self._second += passed
        self._lately.append(self._now)
        self._totals.append(self._now.total())
        self._now = Counter()
        for _ in range(min(passed - 1, HISTORY_S)):
            self._lately.append(Counter())
            self._totals.append(0)
