"""A project's live side on this node: who is connected, who they are, and the newest entries, encoded once.

Invariants:

- `advance` applies entries in offset order, each once. Commits that finish out of order are put in order here; what
  does not turn up is read from the journal.
- `head` and `members` change only by applying an entry, so a lane that is at `head` knows exactly the members of that
  moment. Nothing in between awaits: a session goes live in one step.
- What goes to everybody and was committed together is written to a socket together: with a thousand sites, one call
  each for a commit, not for an event.
- The tail is bounded by entries and by bytes. A lane that is behind it reads the journal itself (`relay.core.outbox`).
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from relay.core import access, frames
from relay.core.model import Draft, Entry, JsonObject, Kind, Participant, Role
from relay.core.ports import StorageUnavailable, Store
from relay.core.traces import Tracer
from relay.protocol.position import JournalBounds

GAP_PATIENCE_S = 0.05
"""How long an entry may be overtaken by later ones before the journal is asked for it."""
BURST_BYTES = 64 * 1024
"""As much as is written at once without asking whether the socket takes more, unless one frame is longer."""
LOOK_AGAIN_S = 0.5
"""Before the journal is asked again, after the storage did not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A participation, as much of it as delivery needs."""

    site_id: int
    uid: str
    role: Role
    participant_id: int
    joined: int


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry and its frame. `entry.offset` is None for a transient event."""

    entry: Entry
    frame: bytes

    @property
    def offset(self) -> int:
        assert self.entry.offset is not None
        return self.entry.offset


class Burst:
    """Consecutive entries that are offered together.

    `for_all`: every member may see each of them, so that whoever has sent none itself is written `frames` as it is.
    """

    __slots__ = ("first", "for_all", "frames", "last", "origins", "shown")

    def __init__(self, shown: Sequence[Shown], *, for_all: bool) -> None:
        self.shown = shown
        self.for_all = for_all
        self.first, self.last = shown[0].offset, shown[-1].offset
        self.frames = shown[0].frame if len(shown) == 1 else b"".join([one.frame for one in shown])
        self.origins = {one.entry.draft.origin for one in shown}


@dataclass(frozen=True, kw_only=True, slots=True)
class TailLimits:
    """How much of the newest a hub keeps at hand."""

    entries: int = 1024
    bytes: int = 8 * 1024 * 1024


class Subscriber(Protocol):
    """Somebody who follows the project here: a session's lane, or a request's reader."""

    member: Member

    @property
    def session_id(self) -> str | None: ...

    def offer(self, burst: Burst) -> None:
        """There are new entries. Called in offset order, and never waits."""

    def pass_by(self, key: Hashable, frame: bytes) -> None:
        """Something transient comes by; a newer one with the same key takes its place."""


class Watcher(Protocol):
    """Told by a hub what concerns more than one project."""

    def member_joined(self, hub: Hub, member: Member) -> None: ...
    def roles_changed(self, hub: Hub) -> None: ...
    def member_left(self, hub: Hub, member: Member, reason: str) -> None: ...
    def wants_receipt(self, hub: Hub, entry: Entry) -> None: ...


class Hub:
    """See the module. Made by `Hubs.open`, never shared between event loops."""

    def __init__(self, project_id: int, store: Store, limits: TailLimits, watcher: Watcher) -> None:
        self.project_id = project_id
        self.epoch = ""
        self.head = -1
        self.oldest = 1
        self.members: dict[int, Member] = {}
        self.lanes: set[Subscriber] = set()
        self.deleted = False
        self.tracer: Tracer | None = None
        self._store = store
        self._limits = limits
        self._watcher = watcher
        self._tail: deque[Shown] = deque()
        self._tail_bytes = 0
        self._early: dict[int, Entry] = {}
        self._look: asyncio.Task[None] | None = None
        self._hinted = False
        """The journal may have moved since it was last read."""
        self._loaded = False

    # --- coming to be

    def load(self, bounds: JournalBounds, participants: Iterable[Participant]) -> None:
        """Take the state that a snapshot showed; then what was committed meanwhile."""
        self.epoch, self.head, self.oldest = bounds.epoch, bounds.head, bounds.oldest
        self.members = _members(participants)
        self._loaded = True
        self._apply_early()
        if self._hinted:
            self.look()

    @property
    def bounds(self) -> JournalBounds:
        return JournalBounds(epoch=self.epoch, head=self.head, oldest=self.oldest)

    # --- the journal moves on

    def advance(self, entries: Sequence[Entry]) -> None:
        """Take entries that have been committed, in whatever order the commits were noticed."""
        for entry in entries:
            if entry.offset is not None and (entry.offset > self.head or not self._loaded):
                known = self._early.get(entry.offset)
                if known is None or known.draft.origin is None:  # else it knows the session that published it
                    self._early[entry.offset] = entry
        self._apply_early()

    def look(self) -> None:
        """The journal may have moved without telling: read on from `head`. One look at a time, which heeds them all."""
        self._hinted = True
        if self._loaded and (self._look is None or self._look.done()):
            self._look = asyncio.create_task(self._read_on(), name=f"hub-{self.project_id}-look")

    def close(self) -> None:
        self._early.clear()
        if self._look is not None:
            self._look.cancel()

    def _apply_early(self) -> None:
        if not self._loaded or not self._early:
            return
        for offset in [offset for offset in self._early if offset <= self.head]:
            del self._early[offset]
        while ready := self._take_ready():
            for burst in _bursts(ready):
                self._apply(burst)
        if self._early:
            asyncio.get_running_loop().call_later(GAP_PATIENCE_S, self._look_if_gap)

    def _take_ready(self) -> list[Entry]:
        """What follows on the head, without a gap."""
        ready: list[Entry] = []
        while (entry := self._early.pop(self.head + 1 + len(ready), None)) is not None:
            ready.append(entry)
        return ready

    def _look_if_gap(self) -> None:
        if self._early and not self.deleted:
            self.look()

    async def _read_on(self) -> None:
        """Read to the journal's head. While the storage does not answer, ask again until it does."""
        while self._hinted:
            self._hinted = False
            try:
                async with self._store.snapshot() as tx:
                    bounds = await tx.journal.bounds(self.project_id)
                    entries = await tx.journal.read(self.project_id, self.head, limit=256, max_bytes=self._limits.bytes)
                    if entries and entries[0].offset != self.head + 1:
                        self._leap(entries[0].offset or 0, await tx.participants.of_project(self.project_id))
            except StorageUnavailable:
                self._hinted = True
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            if bounds is None:
                return
            self.epoch, self.oldest = bounds.epoch, bounds.oldest
            if entries:
                self._hinted = True
                self.advance(entries)

    def _leap(self, offset: int, participants: Iterable[Participant]) -> None:
        """The journal begins past this hub's head now: go on there, with the members of today."""
        self.head = offset - 1
        self._tail.clear()
        self._tail_bytes = 0
        before, self.members = self.members, _members(participants)
        for site_id, member in before.items():
            if site_id not in self.members:
                self._watcher.member_left(self, member, "removed")
        changed = [
            one for one in self.members.values() if one.site_id in before and one.role is not before[one.site_id].role
        ]
        for member in changed:
            self._change(member)
        for site_id, member in self.members.items():
            if site_id not in before:
                self._watcher.member_joined(self, member)
        if changed:
            self._watcher.roles_changed(self)

    def _apply(self, burst: Burst) -> None:
        self.head = burst.last
        for shown in burst.shown:
            self._keep(shown)
        entry = burst.shown[-1].entry  # one that changes who takes part is alone
        joined = self._apply_membership(entry)
        for lane in tuple(self.lanes):
            lane.offer(burst)
        for shown in burst.shown:
            if shown.entry.draft.receipts:
                self._watcher.wants_receipt(self, shown.entry)
        if joined is not None:
            self._watcher.member_joined(self, joined)
        if entry.draft.kind is Kind.PARTICIPANT:
            self._drop_if_left(entry)
            self._hand_over_if_transferred(entry)
        elif entry.draft.kind is Kind.PROJECT:
            self._close_if_deleted(entry)

    def _apply_membership(self, entry: Entry) -> Member | None:
        """A `participant` entry that says joined adds the member before it is shown, so that it may see it."""
        draft = entry.draft
        if draft.kind is not Kind.PARTICIPANT:
            return None
        change = _read(draft)
        if change["change"] != "joined" or draft.subject_id is None:
            return None
        member = Member(
            site_id=draft.subject_id,
            uid=change["site"],
            role=Role[change["role"].upper()],
            participant_id=change["participant"],
            joined=0 if change["role"] == Role.COORDINATOR.display else entry.offset or 0,
        )
        known = self.members.get(draft.subject_id)
        if known is not None and known.participant_id == member.participant_id:
            return None
        self.members[member.site_id] = member
        return member

    def _drop_if_left(self, entry: Entry) -> None:
        change = _read(entry.draft)
        member = self.members.get(entry.draft.subject_id or 0)
        if change["change"] == "left" and member is not None and member.participant_id == change["participant"]:
            del self.members[member.site_id]
            self._watcher.member_left(self, member, change.get("reason", "left"))

    def _hand_over_if_transferred(self, entry: Entry) -> None:
        """Everybody is shown the entry as what it was; what comes after it, as what it is now."""
        change = _read(entry.draft)
        heir, former = self.members.get(entry.draft.subject_id or 0), self.by_uid(change.get("former", ""))
        if change["change"] != "transferred" or heir is None or former is None or heir.role is Role.COORDINATOR:
            return
        self._change(replace(former, role=Role.PARTICIPANT))
        self._change(replace(heir, role=Role.COORDINATOR, joined=0))
        self._watcher.roles_changed(self)

    def _change(self, member: Member) -> None:
        """A member has another role: whoever follows the project for it goes on where it is, as what it is now."""
        self.members[member.site_id] = member
        for lane in self.lanes:
            if lane.member.site_id == member.site_id:
                lane.member = member

    def _close_if_deleted(self, entry: Entry) -> None:
        if _read(entry.draft).get("change") == "deleted":
            self.deleted = True
            for member in list(self.members.values()):
                del self.members[member.site_id]
                self._watcher.member_left(self, member, "deleted")

    def _keep(self, shown: Shown) -> None:
        tail = self._tail
        tail.append(shown)
        self._tail_bytes += len(shown.frame)
        while len(tail) > self._limits.entries or (self._tail_bytes > self._limits.bytes and len(tail) > 1):
            self._tail_bytes -= len(tail.popleft().frame)

    # --- reading

    def after(self, position: int, limit: int) -> list[Shown] | None:
        """The entries after a position, from the tail; None if they are not all there and the journal must be read."""
        if position >= self.head:
            return []
        if not self._tail or self._tail[0].offset > position + 1:
            return None
        skip = position + 1 - self._tail[0].offset
        return list(islice(self._tail, skip, skip + limit))

    def coordinator(self) -> Member | None:
        return next((member for member in self.members.values() if member.role is Role.COORDINATOR), None)

    def by_uid(self, uid: str) -> Member | None:
        return next((member for member in self.members.values() if member.uid == uid), None)

    # --- what passes without a trace

    def transient(self, entry: Entry) -> None:
        """Show an event to who is online now, and may see it."""
        draft = entry.draft
        shown = Shown(entry, frames.of_entry(entry))
        key = (self.project_id, draft.kind, draft.sender_id, draft.run)
        for lane in tuple(self.lanes):
            if draft.origin != lane.session_id and access.sees(lane.member.site_id, lane.member.role, draft):
                lane.pass_by(key, shown.frame)


def _members(participants: Iterable[Participant]) -> dict[int, Member]:
    return {
        part.site_id: Member(
            site_id=part.site_id,
            uid=part.site_uid,
            role=part.role,
            participant_id=part.id,
            joined=part.joined,
        )
        for part in participants
    }


def _bursts(entries: Iterable[Entry]) -> Iterator[Burst]:
    """What may be offered together, made one after the other: applying one can change who sees the next."""
    together: list[Shown] = []
    size = 0
    for entry in entries:
        shown = Shown(entry, frames.of_entry(entry))
        alone = entry.draft.audience is not None or entry.draft.kind in (Kind.PARTICIPANT, Kind.PROJECT)
        if together and (alone or size + len(shown.frame) > BURST_BYTES):
            yield Burst(together, for_all=True)
            together, size = [], 0
        if alone:
            yield Burst([shown], for_all=False)
        else:
            together.append(shown)
            size += len(shown.frame)
    if together:
        yield Burst(together, for_all=True)


def _read(draft: Draft) -> JsonObject:
    """The data of one of the relay's own events."""
    data = json.loads(draft.data or b"{}")
    assert isinstance(data, dict)
    return data
