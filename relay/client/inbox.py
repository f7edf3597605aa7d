"""Events on their way from the socket to the application, and acknowledgements on their way back.

For each project this keeps where the application stands: the last offset that was *received* (it is in the buffer, or
beyond it), and the last that was *processed*. A reconnect goes on from the former, since what is in the buffer is still
there; an acknowledgement names the latter. An event at or before the received offset is a repeat and is dropped, so the
application sees each offset of an epoch once, in order, however often the connection is lost.

    what                      bound                            when full
    events in the buffer      `buffer_events`, `buffer_bytes`  the socket is not read further: the relay holds the rest
    … while answers wait      `buffer_excess` times as much    overrun: events are let go of, and are sent again later
    … for longer than         `stall_s`                        overrun
    acknowledgements          one a project                    a higher one takes the place of a lower one
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from relay.client.errors import SessionEnded
from relay.client.frames import Event, ProjectState
from relay.client.limits import Limits


@dataclass(kw_only=True, slots=True)
class Position:
    """Where the application stands in one incarnation of a project's journal."""

    epoch: str
    start: int
    """Where the relay began to deliver: there is nothing to acknowledge up to here."""
    received: int
    processed: int


@dataclass(frozen=True, slots=True)
class _Item:
    """What waits in the buffer. Without an event: an offset that was passed over, to be counted as processed."""

    event: Event | None
    position: Position | None
    offset: int | None
    size: int


class Inbox:
    """See the module.

    Args:
        is_own: whether an event was published through this very object; the relay shows it only in a replay.
        on_ack: there is something to acknowledge.
        on_drained: the buffer is empty after an overrun: connect anew, and have sent again what was let go of.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        is_own: Callable[[Event], bool],
        on_ack: Callable[[], None],
        on_drained: Callable[[], None],
    ) -> None:
        self.overrun = False
        """Events are being let go of: they did not fit."""
        self._limits = limits
        self._is_own = is_own
        self._on_ack = on_ack
        self._on_drained = on_drained
        self._positions: dict[int, Position] = {}
        self._buffer: deque[_Item] = deque()
        self._bytes = 0
        self._in_hand: _Item | None = None
        self._unacked: set[int] = set()
        self._arrived = asyncio.Event()
        self._may_read = asyncio.Event()
        self._ended: SessionEnded | None = None
        self._reading = False

    # --- the session's side

    def resume_points(self) -> dict[str, dict[str, Any]]:
        """What `hello.projects` says."""
        return {
            str(project): {"offset": position.received, "epoch": position.epoch}
            for project, position in self._positions.items()
        }

    def welcomed(self, projects: Mapping[int, ProjectState]) -> None:
        """A new connection: delivery begins where the relay says."""
        self.overrun = False
        for project in self._positions.keys() - projects.keys():
            self.unsubscribed(project)
        for project, state in projects.items():
            self.subscribed(project, state)
            self._unacked.add(project)  # what was acknowledged last may have been lost with the connection

    def subscribed(self, project: int, state: ProjectState) -> None:
        known = self._positions.get(project)
        if known is not None and state.recovered and known.epoch == state.epoch:
            known.received = max(known.received, state.start)
            return
        position = Position(epoch=state.epoch, start=state.start, received=state.start, processed=state.start)
        self._positions[project] = position
        if not state.recovered:
            self._push(_Item(_resync(project, state), position, None, 0))

    def unsubscribed(self, project: int) -> None:
        self._positions.pop(project, None)
        self._unacked.discard(project)

    def put(self, event: Event, size: int) -> None:
        """Take an event from the socket; `size` in bytes as it came."""
        position = self._positions.get(event.project)
        if position is None or self.overrun:
            return
        if event.offset is not None and event.offset <= position.received:
            return
        if self._is_full(self._limits.buffer_excess):
            self.overrun = True
            return
        if event.offset is not None:
            position.received = event.offset
        if self._is_own(event):
            self._push(_Item(None, position, event.offset, 0))
        else:
            self._push(_Item(event, position, event.offset, size))

    async def room(self, answers_wait: Callable[[], bool]) -> None:
        """Wait until the socket may be read further."""

        def must_wait() -> bool:
            return self._is_full(1) and not self.overrun and not answers_wait()

        if not must_wait():
            return
        try:
            async with asyncio.timeout(self._limits.stall_s):
                while must_wait():
                    self._may_read.clear()
                    await self._may_read.wait()
        except TimeoutError:
            self.overrun = True

    def look_again(self) -> None:
        """An answer is waited for now: it can only be found by reading on."""
        self._may_read.set()

    def let_go(self) -> None:
        """The application leaves: the socket is read to its end, and what still comes is for the next session."""
        self.overrun = True
        self._may_read.set()

    def take_acks(self) -> Iterable[tuple[int, int]]:
        """What is to be acknowledged: (project, offset). The caller sends it."""
        standing = [(project, self._positions[project]) for project in sorted(self._unacked)]
        self._unacked.clear()
        return [(project, position.processed) for project, position in standing if position.processed > position.start]

    def end(self, why: SessionEnded) -> None:
        """No more will come. What is in the buffer can still be read."""
        self._ended = why
        self._arrived.set()

    # --- the application's side

    async def next(self) -> Event:
        """The next event. The one before it counts as processed.

        Raises:
            SessionEnded: there will be none.
            RuntimeError: another task is waiting already.
        """
        if self._reading:
            raise RuntimeError("the events of a site are read by one task at a time")
        self.settle()
        self._reading = True
        try:
            while True:
                item = await self._take()
                self._in_hand = item
                if item.event is not None:
                    return item.event
                self.settle()
        finally:
            self._reading = False

    def settle(self) -> None:
        """What the application has in hand is processed."""
        item, self._in_hand = self._in_hand, None
        if item is None or item.position is None or item.offset is None:
            return
        item.position.processed = max(item.position.processed, item.offset)
        for project, position in self._positions.items():
            if position is item.position:
                self._unacked.add(project)
                self._on_ack()

    async def _take(self) -> _Item:
        while not self._buffer:
            if self._ended is not None:
                raise self._ended.again()
            if self.overrun:
                self._on_drained()
            self._arrived.clear()
            await self._arrived.wait()
        item = self._buffer.popleft()
        self._bytes -= item.size
        if not self._is_full(1):
            self._may_read.set()
        return item

    # --- the buffer

    def _push(self, item: _Item) -> None:
        self._buffer.append(item)
        self._bytes += item.size
        self._arrived.set()

    def _is_full(self, times: int) -> bool:
        return (
            len(self._buffer) >= self._limits.buffer_events * times or self._bytes >= self._limits.buffer_bytes * times
        )


def _resync(project: int, state: ProjectState) -> Event:
    return Event(project=project, kind="resync", id=str(uuid.uuid4()), at=datetime.now(UTC), data={"from": state.start})
