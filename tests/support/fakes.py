"""The ports of the core, in memory: a store with transactions and outages, and a socket that can stall.

`FakeStore` passes the same journal suite as the real ones (tests/db/test_journal.py).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from relay.core.audit_chain import GENESIS, ChainHead, Note, Record, follow
from relay.core.model import Draft, Entry, Participant, Project, Role, Site, User
from relay.core.ports import AlreadyThere, StorageUnavailable, Store
from relay.protocol.position import JournalBounds

_ids = itertools.count(1)


@dataclass
class State:
    """All that is stored. A transaction works on a copy, which takes its place at the commit."""

    bounds: dict[int, JournalBounds] = field(default_factory=dict)
    entries: dict[int, tuple[Entry, ...]] = field(default_factory=dict)
    offsets: dict[tuple[int, int, str], int] = field(default_factory=dict)
    cursors: dict[tuple[int, int], int] = field(default_factory=dict)
    progress: dict[tuple[int, int], Entry] = field(default_factory=dict)
    presence: dict[int, tuple[bool, int]] = field(default_factory=dict)
    sites: dict[int, Site] = field(default_factory=dict)
    projects: dict[int, Project] = field(default_factory=dict)
    participants: dict[int, Participant] = field(default_factory=dict)
    audit: dict[int, Record] = field(default_factory=dict)

    def copy(self) -> State:
        return replace(self, **{name: dict(value) for name, value in vars(self).items()})


class FakeJournal:
    def __init__(self, state: State) -> None:
        self._state = state

    async def create(self, project_id: int, epoch: str) -> None:
        self._state.bounds[project_id] = JournalBounds(epoch=epoch, head=0)
        self._state.entries[project_id] = ()

    async def lock(self, project_ids: Iterable[int]) -> dict[int, JournalBounds]:
        return {one: self._state.bounds[one] for one in sorted(set(project_ids)) if one in self._state.bounds}

    async def bounds(self, project_id: int) -> JournalBounds | None:
        return self._state.bounds.get(project_id)

    async def offsets_of(self, project_id: int, ids: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
        known = self._state.offsets
        return {key: known[project_id, *key] for key in ids if (project_id, *key) in known}

    async def append(self, entries: Sequence[Entry]) -> None:
        state = self._state
        for entry in entries:
            assert entry.offset is not None
            project_id, draft, bounds = entry.project_id, entry.draft, state.bounds[entry.project_id]
            assert entry.offset == bounds.head + 1, f"expected offset {bounds.head + 1}, got {entry.offset}"
            if draft.sender_id is not None:
                key = (project_id, draft.sender_id, draft.id)
                if key in state.offsets:
                    raise AlreadyThere(draft.id)
                state.offsets[key] = entry.offset
            stored = replace(entry, draft=replace(draft, origin=None))
            state.entries[project_id] += (stored,)
            state.bounds[project_id] = replace(bounds, head=entry.offset)

    async def read(
        self, project_id: int, after: int, *, limit: int, max_bytes: int, kind: str | None = None
    ) -> list[Entry]:
        page: list[Entry] = []
        size = 0
        for entry in self._state.entries.get(project_id, ()):
            if (entry.offset or 0) <= after or kind not in (None, entry.draft.kind):
                continue
            size += _size(entry)
            if len(page) == limit or (page and size > max_bytes):
                break
            page.append(entry)
        return page

    async def get(self, project_id: int, offset: int) -> Entry | None:
        entries = self._state.entries.get(project_id, ())
        return next((entry for entry in entries if entry.offset == offset), None)

    async def awaiting_receipt(self, project_id: int, *, limit: int) -> list[Entry]:
        wanted = [entry for entry in self._state.entries.get(project_id, ()) if entry.draft.receipts]
        return [
            replace(entry, draft=replace(entry.draft, data=None, payload=b"" if entry.draft.payload else None))
            for entry in wanted[-limit:]
        ]


def _size(entry: Entry) -> int:
    draft = entry.draft
    return len(draft.payload if draft.payload is not None else draft.data or b"null")


class FakeCursors:
    def __init__(self, state: State) -> None:
        self._state = state

    async def of_site(self, site_id: int) -> dict[int, int]:
        return {project: offset for (site, project), offset in self._state.cursors.items() if site == site_id}

    async def of_project(self, project_id: int) -> dict[int, int]:
        return {site: offset for (site, project), offset in self._state.cursors.items() if project == project_id}

    async def advance(self, cursors: Mapping[tuple[int, int], int], now_us: int) -> None:
        for key, offset in cursors.items():
            self._state.cursors[key] = max(offset, self._state.cursors.get(key, 0))


class FakeProgress:
    def __init__(self, state: State) -> None:
        self._state = state

    async def put(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            assert entry.draft.run is not None and entry.draft.sender_id is not None
            self._state.progress[entry.draft.run, entry.draft.sender_id] = entry


class FakeAudit:
    def __init__(self, state: State) -> None:
        self._records = state.audit

    async def head(self) -> ChainHead:
        last = self._records.get(len(self._records))
        return GENESIS if last is None else ChainHead(seq=last.seq, hash=last.hash)

    async def append(self, notes: Sequence[Note]) -> None:
        self._records.update({record.seq: record for record in follow(await self.head(), notes)})

    async def read(self, after: int, *, limit: int, since_us: int = 0) -> list[Record]:
        wanted = [one for one in self._records.values() if one.seq > after and one.at_us >= since_us]
        return wanted[:limit]


class FakeUsers:
    async def create(self, *, username: str, email: str, password_hash: str, is_operator: bool, now_us: int) -> User:
        return User(
            id=next(_ids),
            username=username,
            email=email,
            password_hash=password_hash,
            is_operator=is_operator,
            is_active=True,
            created_us=now_us,
        )


class FakeSites:
    def __init__(self, state: State) -> None:
        self._state = state

    async def create(self, *, connected: bool, now_us: int, **fields: Any) -> Site:
        site = Site(id=next(_ids), connected=connected, seen_us=now_us, created_us=now_us, updated_us=now_us, **fields)
        self._state.sites[site.id] = site
        return site

    async def record_presence(self, states: Mapping[int, tuple[bool, int]]) -> None:
        self._state.presence |= states


class FakeProjects:
    def __init__(self, state: State) -> None:
        self._state = state

    async def create(self, *, now_us: int, **fields: Any) -> Project:
        project = Project(
            id=next(_ids), batch=0, agent_config={}, agent_log=[], created_us=now_us, updated_us=now_us, **fields
        )
        self._state.projects[project.id] = project
        return project

    async def delete(self, project_id: int) -> None:
        for table in (self._state.projects, self._state.bounds, self._state.entries):
            cast("dict[int, object]", table).pop(project_id, None)


class FakeParticipants:
    def __init__(self, state: State) -> None:
        self._state = state

    async def create(
        self, *, project_id: int, site_id: int, role: Role, notes: str, joined: int, now_us: int
    ) -> Participant:
        participant = Participant(
            id=next(_ids),
            project_id=project_id,
            site_id=site_id,
            site_uid=self._state.sites[site_id].uid,
            role=role,
            notes=notes,
            joined=joined,
            created_us=now_us,
            updated_us=now_us,
        )
        self._state.participants[participant.id] = participant
        return participant

    async def delete(self, participant_id: int) -> None:
        del self._state.participants[participant_id]

    async def of_site(self, site_id: int) -> list[Participant]:
        return [one for one in self._state.participants.values() if one.site_id == site_id]

    async def standings(self, site_ids: Sequence[int]) -> dict[int, dict[int, int | None]]:
        standings: dict[int, dict[int, int | None]] = {}
        for one in self._state.participants.values():
            if one.site_id in site_ids:
                acknowledged = self._state.cursors.get((one.site_id, one.project_id))
                standings.setdefault(one.site_id, {})[one.project_id] = acknowledged
        return standings

    async def of_project(self, project_id: int) -> list[Participant]:
        return [one for one in self._state.participants.values() if one.project_id == project_id]


class FakeTx:
    def __init__(self, state: State) -> None:
        self.journal = FakeJournal(state)
        self.cursors = FakeCursors(state)
        self.progress = FakeProgress(state)
        self.users = FakeUsers()
        self.sites = FakeSites(state)
        self.projects = FakeProjects(state)
        self.participants = FakeParticipants(state)
        self.audit = FakeAudit(state)


class FakeStore:
    """One writer at a time, as SQLite has it. `port` is it as the core and the tests know a store.

    `down` makes everything unavailable; `doubtful` makes commits happen and fail all the same; `gate`, when not set,
    holds commits back; `poison` says which drafts no database would take.
    """

    def __init__(self) -> None:
        self.state = State()
        self.down = False
        self.doubtful = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.poison: Callable[[Draft], bool] = lambda _draft: False
        self.commits = 0
        self.reads = 0
        self._writer = asyncio.Lock()

    @property
    def port(self) -> Store:
        return cast("Store", self)

    def fail_if_down(self) -> None:
        if self.down:
            raise StorageUnavailable("the test has taken it down")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[FakeTx]:
        self.fail_if_down()
        async with self._writer:
            state = self.state.copy()
            yield FakeTx(state)
            await asyncio.sleep(0)
            await self.gate.wait()
            self.fail_if_down()
            self.state = state
            self.commits += 1
            if self.doubtful:
                raise StorageUnavailable("cut off, though it has happened")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[FakeTx]:
        self.fail_if_down()
        await asyncio.sleep(0)
        self.reads += 1
        yield FakeTx(self.state)
        await asyncio.sleep(0)

    async def append_fast(self, drafts: Mapping[int, Sequence[Draft]], now_us: int) -> dict[int, JournalBounds]:
        async with self.transaction() as tx:
            for project_id, of_project in drafts.items():
                if any(self.poison(draft) for draft in of_project):
                    raise ValueError("no database would take this")
                held = (await tx.journal.lock([project_id])).get(project_id)
                if held is not None:
                    await tx.journal.append(
                        [
                            Entry(project_id=project_id, offset=offset, at_us=now_us, draft=draft)
                            for offset, draft in enumerate(of_project, start=held.head + 1)
                        ]
                    )
            return await tx.journal.lock(drafts)

    def trim(self, project_id: int, oldest: int) -> None:
        """Retention: entries before `oldest` are dropped."""
        bounds = self.state.bounds[project_id]
        self.state = self.state.copy()
        self.state.bounds[project_id] = replace(bounds, oldest=oldest)
        kept = (entry for entry in self.state.entries[project_id] if (entry.offset or 0) >= oldest)
        self.state.entries[project_id] = tuple(kept)


class FakeLink:
    """A socket. It takes `room` frames (any number, if None) before it is full; `drain` has the peer read."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.frames: list[bytes] = []
        self.writes: list[int] = []
        """How many frames were handed over at once."""
        self.is_open = True
        self._unread = 0
        self._stalled = False
        self._drained = asyncio.Event()

    @property
    def writable(self) -> bool:
        return not self._stalled and (self.room is None or self._unread < self.room)

    def send(self, frames: bytes) -> None:
        if not self.is_open:
            return
        before = len(self.frames)
        while frames:
            start, length = _head_of(frames)
            self.frames.append(frames[: start + length])
            frames = frames[start + length :]
        self.writes.append(len(self.frames) - before)
        self._unread += self.writes[-1]

    def pending_bytes(self) -> int:
        return self._unread

    async def drained(self) -> None:
        while self.is_open and not self.writable:
            self._drained.clear()
            await self._drained.wait()

    def close(self, code: int, reason: str) -> None:
        self.cut()

    # --- the peer

    def stall(self) -> None:
        """Read no more."""
        self._stalled = True

    def drain(self, frames: int | None = None) -> None:
        """Read that many frames, or all; and go on reading."""
        self._unread = 0 if frames is None else max(0, self._unread - frames)
        self._stalled = False
        self._drained.set()

    def sip(self, frames: int = 1) -> None:
        """Read a little, and stay too slow."""
        self._unread = max(0, self._unread - frames)

    def cut(self) -> None:
        self.is_open = False
        self._drained.set()

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The frames as messages: a binary one's header, with its payload as `payload`."""
        return [_message(frame) for frame in self.frames]

    def events(self, project_id: int | None = None) -> list[int | None]:
        """The offsets of the events among them, of one project or of all."""
        events = (one for one in self.shown if one["type"] == "event" and project_id in (None, one["project"]))
        return [event.get("offset") for event in events]


def _head_of(frame: bytes) -> tuple[int, int]:
    """Where the body of the first frame starts, and how long it is."""
    length: int = frame[1]
    if length == 126:
        return 4, struct.unpack_from(">H", frame, 2)[0]
    if length == 127:
        return 10, struct.unpack_from(">Q", frame, 2)[0]
    return 2, length


def _message(frame: bytes) -> dict[str, Any]:
    """Undo the WebSocket framing (RFC 6455, section 5.2: unmasked, whole) and the protocol's."""
    is_binary = frame[0] & 0x0F == 2
    start, length = _head_of(frame)
    body = frame[start:]
    assert len(body) == length
    if not is_binary:
        return cast("dict[str, Any]", json.loads(body))
    (header,) = struct.unpack_from(">I", body)
    return {**json.loads(body[4 : 4 + header]), "payload": body[4 + header :]}
