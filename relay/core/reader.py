"""Following a project without a session: what a long poll and an event stream read from.

A reader is a position on a hub and a bell. It holds no entries: what it shows is read from the hub's tail or from the
journal when it is asked for, so that a request whose client is slow costs lag, as a session does.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from relay.core import access
from relay.core.hub import Burst, Hub, Member
from relay.core.model import Entry
from relay.core.node import Node
from relay.core.session import Identity

_PAGE = 256


class Reader:
    """See the module. `passing` is bounded: the oldest transient frame is dropped for a newer one."""

    session_id = None

    def __init__(self, node: Node, identity: Identity, hub: Hub, member: Member, position: int) -> None:
        self.identity = identity
        self.hub = hub
        self.member = member
        self.position = position
        self.ended = False
        self._node = node
        self._bell = asyncio.Event()
        self._passing: OrderedDict[Hashable, bytes] = OrderedDict()

    # --- relay.core.hub.Subscriber

    def offer(self, burst: Burst) -> None:
        self._bell.set()

    def pass_by(self, key: Hashable, frame: bytes) -> None:
        self._passing.pop(key, None)
        self._passing[key] = frame
        if len(self._passing) > self._node.limits.outbox.transients:
            self._passing.popitem(last=False)
        self._bell.set()

    # --- the request's side

    @property
    def is_member(self) -> bool:
        """Whether the site still takes part; a reader of one that does not shows nothing more."""
        member = self.hub.members.get(self.member.site_id)
        return member is not None and member.participant_id == self.member.participant_id

    def end(self) -> None:
        """The relay stops, or the caller's credentials are no longer good: let go of whoever waits."""
        self.ended = True
        self._bell.set()

    async def page(self, limit: int) -> list[Entry]:
        """The next entries that the site may see, at most `limit`; empty at the journal's head. Moves the position.

        Where the journal no longer reaches back to the position, the reader ends: the next request begins anew.

        Raises:
            StorageUnavailable: the journal could not be read.
        """
        found: list[Entry] = []
        room = self._node.limits.payload_bytes
        while self.position < self.hub.head and self.is_member and not self.ended:
            head = self.hub.head
            entries = await self._read()
            for entry in entries:
                visible = access.sees(self.member.site_id, self.member.role, entry.draft)
                room -= len(entry.draft.payload or entry.draft.data or b"") if visible else 0
                if found and room < 0:
                    return found
                self.position = entry.offset or self.position
                if visible:
                    found.append(entry)
                    self._trace(entry)
                if len(found) == limit:
                    return found
            if not entries and not self.ended:
                self.position = max(self.position, head)
        return found

    def _trace(self, entry: Entry) -> None:
        if self.hub.tracer is not None and entry.offset is not None:
            self.hub.tracer.delivered(self.hub.project_id, entry.offset, self.member.site_id, self.member.uid)

    async def _read(self) -> list[Entry]:
        tail = self.hub.after(self.position, _PAGE)
        if tail is not None:
            return [shown.entry for shown in tail]
        async with self._node.catch_up, self._node.store.snapshot() as tx:
            entries = await tx.journal.read(
                self.hub.project_id, self.position, limit=_PAGE, max_bytes=self._node.limits.outbox.page_bytes
            )
            whole = bool(entries) and entries[0].offset == self.position + 1
            bounds = None if whole else await tx.journal.bounds(self.hub.project_id)
        if bounds is None or bounds.oldest <= self.position + 1:
            return entries
        self.hub.oldest = max(self.hub.oldest, bounds.oldest)
        self.end()
        return []

    def passing(self) -> list[bytes]:
        """The transient frames that have come by since this was last asked."""
        frames = list(self._passing.values())
        self._passing.clear()
        return frames

    async def news(self, timeout_s: float) -> bool:
        """Wait until there may be something to read. False if nothing came within the time."""
        if self.ended or self.position < self.hub.head or self._passing:
            return True
        self._bell.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._bell.wait()
        except TimeoutError:
            return False
        return True


@contextmanager
def following(node: Node, identity: Identity, hub: Hub, member: Member, position: int) -> Iterator[Reader]:
    """A reader on the hub for as long as the block."""
    reader = Reader(node, identity, hub, member, position)
    hub.lanes.add(reader)
    node.readers.add(reader)
    try:
        yield reader
    finally:
        node.readers.discard(reader)
        hub.lanes.discard(reader)
