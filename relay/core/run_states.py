"""The states of a run, and which may follow which.

The table is the one of the polling API that controllers in the field know. A run moves alone by `TRANSITIONS`; a
coordinator may set a whole batch to any status, whatever each run stands in (`update_all`, stop, restart).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum


class Status(IntEnum):
    FAILED = 0
    PENDING_FAILED = 1
    STANDBY = 2
    PREPARING = 3
    RUNNING = 4
    PENDING_SUCCESS = 5
    PENDING_AGGREGATING = 6
    AGGREGATING = 7
    SUCCESS = 8

    @property
    def display(self) -> str:
        """The string that stands for it in every answer, e.g. `Pending Success`."""
        return self.name.replace("_", " ").title()

    @property
    def is_terminal(self) -> bool:
        """Nothing more happens to the run unless somebody restarts it."""
        return self in TERMINAL


TERMINAL = frozenset({Status.FAILED, Status.SUCCESS})
"""Only these two. A stopped run stands in Pending Failed until its controller has seen it and says Failed."""

BY_DISPLAY: Mapping[str, Status] = {status.display: status for status in Status}

_ALWAYS = frozenset({Status.STANDBY})

TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.FAILED: _ALWAYS,
    Status.PENDING_FAILED: _ALWAYS | {Status.FAILED},
    Status.STANDBY: _ALWAYS | {Status.PREPARING, Status.PENDING_FAILED},
    Status.PREPARING: _ALWAYS | {Status.RUNNING, Status.PENDING_FAILED},
    Status.RUNNING: _ALWAYS | {Status.PENDING_SUCCESS, Status.PENDING_FAILED},
    Status.PENDING_SUCCESS: _ALWAYS | {Status.PENDING_AGGREGATING, Status.SUCCESS},
    Status.PENDING_AGGREGATING: _ALWAYS | {Status.AGGREGATING, Status.FAILED},
    Status.AGGREGATING: _ALWAYS | {Status.SUCCESS, Status.FAILED},
    Status.SUCCESS: _ALWAYS,
}
"""Status → the statuses that a run may move to by itself. Standby is a restart, allowed from anywhere."""


def may_move(now: Status, to: Status) -> bool:
    """Whether a run alone may go from `now` to `to`."""
    return to in TRANSITIONS[now]


def common(statuses: Iterable[Status]) -> Status | None:
    """The one status that all runs of a batch stand in, or None."""
    distinct = set(statuses)
    return distinct.pop() if len(distinct) == 1 else None
