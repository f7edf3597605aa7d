"""What one session is still to be sent: a position per project, and a short lane for everything else.

A session that keeps up costs no task and no queue: the hub writes a prepared frame straight to its socket. One whose
socket is full falls behind by position only, and a pump, started for it, reads on from there (from the hub's tail, or
from the journal) as fast as the socket takes it, and ends when it has caught up.

    what                              bound                         when full
    events                            none is held: a position      the session lags
    replies                           `replies`                     the session reads no further frame
    transient events, presence        `transients`, newest by key   the oldest is dropped
    time without a byte taken         `patience_s`                  the session is closed with 4410
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from relay.core import access, frames
from relay.core.flag import Flag
from relay.core.hub import Burst, Hub, Member, Shown
from relay.core.ports import Link, StorageUnavailable, Store
from relay.core.traces import Tracer
from relay.protocol.errors import CloseCode, SessionClosed
from relay.protocol.position import JournalBounds

log = logging.getLogger(__name__)

PAGE = 256
RETRY_S = 0.5
"""Before the journal is asked again, after the storage did not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboxLimits:
    replies: int = 1024
    transients: int = 1024
    patience_s: float = 20.0
    page_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Waiting:
    """How full an outbox is: answers, transient events, and bytes that the socket has not taken."""

    replies: int
    transients: int
    bytes: int


class Lane:
    """One session's place in one project. `position` is the offset of the last entry that was dealt with."""

    __slots__ = ("_outbox", "hub", "member", "own", "position", "session_id")

    def __init__(self, outbox: Outbox, hub: Hub, member: Member, position: int) -> None:
        self._outbox = outbox
        self.session_id = outbox.session_id
        self.hub = hub
        self.member = member
        self.position = position
        self.own: set[int] = set()
        """Offsets after `position` that this very session published: it is not shown them."""

    def offer(self, burst: Burst) -> None:
        """The hub has new entries. Write them now if this lane is up to date and the socket takes them; else lag."""
        if self.position + 1 != burst.first or not self._outbox.is_direct:
            self._outbox.wake()
        elif burst.for_all and self.session_id not in burst.origins and not self.own:
            self.position = burst.last
            self._outbox.link.send(burst.frames)
            if self.hub.tracer is not None:
                for shown in burst.shown:
                    self._trace(self.hub.tracer, shown)
        else:
            for shown in burst.shown:
                self.take(shown)

    def take(self, shown: Shown) -> None:
        """Deal with the next entry: send it, or pass over what this site may not see."""
        self.position = offset = shown.offset
        draft = shown.entry.draft
        if draft.origin == self.session_id or offset in self.own:
            self.own.discard(offset)
        elif access.sees(self.member.site_id, self.member.role, draft):
            self._outbox.link.send(shown.frame)
            if self.hub.tracer is not None:
                self._trace(self.hub.tracer, shown)

    def _trace(self, tracer: Tracer, shown: Shown) -> None:
        tracer.delivered(self.hub.project_id, shown.offset, self.member.site_id, self.member.uid)

    def sent(self, offset: int) -> None:
        """This session published the entry at `offset`: remember it, if the session is still to come by there."""
        if offset > self.position:
            self.own.add(offset)

    def pass_by(self, key: Hashable, frame: bytes) -> None:
        self._outbox.transient(key, frame)


class Outbox:
    """See the module. `on_close` is called once, from the pump, when the session has to end."""

    def __init__(
        self,
        session_id: str,
        link: Link,
        store: Store,
        limits: OutboxLimits,
        catch_up: asyncio.Semaphore,
        on_close: Callable[[SessionClosed], None],
    ) -> None:
        self.session_id = session_id
        self.link = link
        self.lanes: dict[int, Lane] = {}
        self._store = store
        self._limits = limits
        self._catch_up = catch_up
        self._on_close = on_close
        self._replies: list[bytes] = []
        self._room = Flag(is_set=True)
        self._transients: OrderedDict[Hashable, bytes] = OrderedDict()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False
        self.dropped = 0

    @property
    def is_direct(self) -> bool:
        """Nothing is waiting, and the socket takes more: frames may go straight to it, in order."""
        return self._pump is None and self.link.writable and not self._closed

    @property
    def lag(self) -> int:
        """Entries behind, over all projects."""
        return sum(lane.hub.head - lane.position for lane in self.lanes.values())

    @property
    def waiting(self) -> Waiting:
        return Waiting(len(self._replies), len(self._transients), self.link.pending_bytes())

    def subscribe(self, hub: Hub, member: Member, position: int) -> Lane:
        """From now on, what comes after `position` is delivered. The caller has looked at the hub without awaiting."""
        lane = Lane(self, hub, member, position)
        self.lanes[hub.project_id] = lane
        hub.lanes.add(lane)
        if position < hub.head:
            self.wake()
        return lane

    def unsubscribe(self, project_id: int) -> None:
        lane = self.lanes.pop(project_id, None)
        if lane is not None:
            lane.hub.lanes.discard(lane)

    def reply(self, frame: bytes) -> None:
        """Send an answer. `room` bounds how many can be waiting."""
        if self.is_direct:
            self.link.send(frame)
            return
        if self._closed:
            return
        self._replies.append(frame)
        if len(self._replies) >= self._limits.replies:
            self._room.clear()
        self.wake()

    async def room(self) -> None:
        """Wait until there is room for another answer. A client that reads none of them is not read either."""
        await self._room.wait()

    def transient(self, key: Hashable, frame: bytes) -> None:
        """Send what may be lost: a newer one takes the place of an older one that still waits."""
        if self.is_direct:
            self.link.send(frame)
            return
        self._transients.pop(key, None)
        self._transients[key] = frame
        if len(self._transients) > self._limits.transients:
            self._transients.popitem(last=False)
            self.dropped += 1
        self.wake()

    def wake(self) -> None:
        """Something waits: see that a pump runs."""
        if self._pump is None and not self._closed:
            self._pump = asyncio.create_task(self._run(), name=f"pump-{self.session_id}")

    def close(self) -> None:
        """The session is over: nothing is sent any more, and the hubs forget it."""
        self._closed = True
        for project_id in list(self.lanes):
            self.unsubscribe(project_id)
        self._replies.clear()
        self._transients.clear()
        self._room.set()
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()

    # --- the pump

    async def _run(self) -> None:
        try:
            while await self._step():
                pass
        except SessionClosed as closed:
            self._give_up(closed)
        except asyncio.CancelledError:
            self._closed = True  # by `close`, or by the end of the loop: no other pump takes its place
            raise
        except Exception:
            log.exception("pump failed", extra={"session": self.session_id})
            self._give_up(SessionClosed(CloseCode.OVERLOADED, "internal error; reconnect"))
        finally:
            self._pump = None
            if self._waiting and not self._closed:
                self.wake()

    def _give_up(self, closed: SessionClosed) -> None:
        """Send no more, and let go who waits for room, so that the session can end."""
        self._closed = True
        self._room.set()
        self._on_close(closed)

    @property
    def _waiting(self) -> bool:
        return bool(
            self._replies or self._transients or any(lane.position < lane.hub.head for lane in self.lanes.values())
        )

    async def _step(self) -> bool:
        """Send what the socket takes. False when nothing waits any more: no await stands before that is acted on."""
        if not self.link.writable:
            await self._wait_for_socket()
        if self._closed:
            return False
        while self._replies and self.link.writable:
            self.link.send(self._replies.pop(0))
        if len(self._replies) < self._limits.replies:
            self._room.set()
        behind = [lane for lane in self.lanes.values() if lane.position < lane.hub.head]
        for lane in behind:
            if self.link.writable:
                await self._advance(lane)
        while self._transients and self.link.writable:
            self.link.send(self._transients.popitem(last=False)[1])
        return self._waiting and not self._closed

    async def _advance(self, lane: Lane) -> None:
        head = lane.hub.head
        page = lane.hub.after(lane.position, PAGE)
        if page is None:
            page = await self._read(lane)
            if page is None:
                return
            if not page:
                lane.position = max(lane.position, head)  # the project is deleted, and its journal with it
        for shown in page:
            if self.lanes.get(lane.hub.project_id) is not lane or not self.link.writable:
                return
            if shown.offset > lane.hub.head:
                return  # committed, but the hub has not come to it: nobody is ahead of what the hub knows
            if shown.offset > lane.position:
                lane.take(shown)
        await asyncio.sleep(0)

    async def _read(self, lane: Lane) -> list[Shown] | None:
        """A page from the journal. None: the storage does not answer; the session waits for it, and is not closed."""
        try:
            async with self._catch_up, self._store.snapshot() as tx:
                entries = await tx.journal.read(
                    lane.hub.project_id, lane.position, limit=PAGE, max_bytes=self._limits.page_bytes
                )
                if not entries or entries[0].offset != lane.position + 1:
                    _require_reach(await tx.journal.bounds(lane.hub.project_id), lane)
        except StorageUnavailable as error:
            log.warning("backlog not read: %s", error.cause, extra={"session": self.session_id})
            await asyncio.sleep(RETRY_S)
            return None
        return [Shown(entry, frames.of_entry(entry)) for entry in entries]

    async def _wait_for_socket(self) -> None:
        """Wait for a full socket. As long as bytes move it is slow, which is no fault; stalled, it is closed."""
        while True:
            before = self.link.pending_bytes()
            try:
                async with asyncio.timeout(self._limits.patience_s):
                    await self.link.drained()
                return
            except TimeoutError:
                if self.link.pending_bytes() >= before:
                    raise SessionClosed(
                        CloseCode.TOO_SLOW, f"nothing was read for {self._limits.patience_s:.0f} s"
                    ) from None


def _require_reach(bounds: JournalBounds | None, lane: Lane) -> None:
    """Refuse to go on where events between have been removed: within a session there is no gap.

    Raises:
        SessionClosed: with 4410; the next session is told that it is not `recovered`.
    """
    if bounds is not None and bounds.oldest > lane.position + 1:
        lane.hub.oldest = max(lane.hub.oldest, bounds.oldest)
        raise SessionClosed(CloseCode.TOO_SLOW, "the journal no longer reaches back to where this session was")
