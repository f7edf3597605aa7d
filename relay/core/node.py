"""One running relay: its hubs, sessions, presence and writer, and the way to change anything.

`Node.change` is how state changes: the rows and the journal entries that tell of them are one transaction, and once it
has committed the hubs move on. Nothing is announced that did not happen, nothing happens unannounced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay import metrics
from relay.core import access, audit, frames
from relay.core.change import Change
from relay.core.credentials import Credentials
from relay.core.deadlines import Deadlines
from relay.core.hub import Hub, Member, TailLimits
from relay.core.keeper import Keeper
from relay.core.model import Entry, JsonObject, rfc3339
from relay.core.newcomers import Newcomers
from relay.core.outbox import OutboxLimits
from relay.core.ports import StorageUnavailable, Store
from relay.core.presence import Presence, PresenceLimits
from relay.core.rate import RateLimits
from relay.core.receipts import Receipts
from relay.core.run_facts import KnownRuns
from relay.core.session import Session
from relay.core.shares import Shares
from relay.core.together import Together
from relay.core.traces import Tracer
from relay.core.writer import JournalWriter, WriterLimits
from relay.protocol.errors import ReplyError

if TYPE_CHECKING:
    from relay.core.reader import Reader

log = logging.getLogger(__name__)

HUBS_LOADING = 2
"""Hubs that are read from the storage at once; the others wait, in order, and not for a connection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Every bound of the core, with its default. `relay.config` sets them from the environment."""

    tail: TailLimits = field(default_factory=TailLimits)
    outbox: OutboxLimits = field(default_factory=OutboxLimits)
    writer: WriterLimits = field(default_factory=WriterLimits)
    presence: PresenceLimits = field(default_factory=PresenceLimits)
    rate: RateLimits = field(default_factory=RateLimits)
    text_bytes: int = 1024 * 1024
    payload_bytes: int = 16 * 1024 * 1024
    sessions_per_site: int = 16
    sessions_per_user: int = 20_000
    publishes_in_flight: int = 256
    catch_up_reads: int = 3
    """Sessions that may read a backlog from the journal at once."""


class Node:
    """See the module."""

    def __init__(self, store: Store, limits: Limits, *, version: str, name: str) -> None:
        self.store = store
        self.limits = limits
        self.version = version
        self.name = name
        self.hubs: dict[int, Hub] = {}
        self.sessions: dict[int, set[Session]] = {}
        self.writer = JournalWriter(store, limits.writer, self.now_us, self.committed, self.doubt)
        self.deadlines = Deadlines(self.now_us)
        self.keeper = Keeper(store, self.now_us)
        self.presence = Presence(limits.presence, self._presence_changed)
        self.receipts = Receipts()
        self.standings = Together(self.keeper.standings, "standings")
        """Where the sites stand that say hello: their projects and cursors."""
        self.catch_up = asyncio.Semaphore(limits.catch_up_reads)
        self.on_committed: list[Callable[[int, Sequence[Entry]], None]] = []
        """Called after each commit, before anything is shown: caches drop what is no longer true."""
        self.on_presence: list[Callable[[int], None]] = []
        self.on_elsewhere: list[Callable[[], None]] = []
        """Called when another process has changed the database: anything may be different."""
        self.tracer: Tracer | None = None
        self.audit = audit.Recorder(store, self.now_us, self.spawn)
        self.readers: set[Reader] = set()
        """Requests that follow a project: long polls and event streams."""
        self.credentials = Credentials(store, self.now_us, lambda: (self.all_sessions(), self.readers), self.spawn)
        self.shares = Shares(
            limits.rate, sessions_per_site=limits.sessions_per_site, sessions_per_user=limits.sessions_per_user
        )
        self._opening: dict[int, asyncio.Task[Hub | None]] = {}
        self._loading = asyncio.Semaphore(HUBS_LOADING)
        self._users_of_hub: dict[int, int] = {}
        self._hubs_of_site: dict[int, set[int]] = {}
        self.known_runs = KnownRuns(store)
        self.newcomers = Newcomers(self)
        self._tasks: set[asyncio.Task[None]] = set()

    @staticmethod
    def now_us() -> int:
        return time.time_ns() // 1000

    async def start(self) -> None:
        """Remember who was there when the last relay on this database ended."""
        async with self.store.snapshot() as tx:
            for site in await tx.sites.present():
                self.presence.restore(site.id)

    async def stop(self) -> None:
        """Answer what was offered, write what waits, and end all tasks."""
        await self.writer.drain()
        await self.audit.flush()
        self.deadlines.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for hub in self.hubs.values():
            hub.close()
        self.presence.close()
        await self.keeper.close()

    def spawn(self, coroutine: object, name: str) -> asyncio.Task[None]:
        """Run something beside, held and ended with the node; a failure is logged."""
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)  # type: ignore[call-overload]
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=error)

    # --- changing state

    @asynccontextmanager
    async def change(self, *project_ids: int) -> AsyncIterator[Change]:
        """A read-write transaction that holds the journals of these projects.

        Raises:
            ReplyError: `unavailable`; nothing was changed.
        """
        change: Change | None = None
        try:
            async with self.store.transaction() as tx:
                held = await tx.journal.lock(project_ids) if project_ids else {}
                change = Change(tx, {project_id: b.head for project_id, b in held.items()}, self.now_us())
                yield change
                await change.store()
        except (StorageUnavailable, asyncio.CancelledError):
            self.doubt(project_ids)
            if change is not None:  # who has joined, if it has, is subscribed even where no hub is there to look
                for project_id, entries in change.entries.items():
                    self.newcomers.meet(project_id, entries)
            raise
        except ReplyError as error:
            if change is not None:
                self.audit.refused(change.notes, error.code)
            raise
        for project_id, entries in change.entries.items():
            self.committed(project_id, entries)

    def committed(self, project_id: int, entries: Sequence[Entry]) -> None:
        """Entries are in the journal: show them, here and elsewhere."""
        for callback in self.on_committed:
            callback(project_id, entries)
        hub = self.hubs.get(project_id)
        if hub is not None:
            hub.advance(entries)
        self.newcomers.meet(project_id, entries)
        metrics.DELIVERY_SECONDS.observe(max(0, self.now_us() - entries[0].at_us) / 1e6)
        for entry in entries:
            metrics.EVENTS.labels(entry.draft.kind).inc()

    def doubt(self, project_ids: Iterable[int]) -> None:
        """A commit was cut off: it may have happened or not. The hubs look for themselves."""
        for project_id in project_ids:
            for callback in self.on_committed:
                callback(project_id, ())
            self.moved(project_id)

    def changed_elsewhere(self) -> None:
        """Another process, the command line say, has changed the database: look at everything that is remembered."""
        for callback in self.on_elsewhere:
            callback()
        for hub in self.hubs.values():
            hub.look()
        self.credentials.recheck()

    def moved(self, project_id: int) -> None:
        """Another process has appended to this project's journal."""
        hub = self.hubs.get(project_id)
        if hub is not None:
            hub.look()

    # --- hubs

    @asynccontextmanager
    async def use_hub(self, project_id: int) -> AsyncIterator[Hub | None]:
        """The project's hub, loaded if need be, and kept at least as long as the block. None: no such project."""
        self._users_of_hub[project_id] = self._users_of_hub.get(project_id, 0) + 1
        try:
            hub = None if project_id in self._opening else self.hubs.get(project_id)  # one that loads knows nobody yet
            yield hub or await self._open(project_id)
        finally:
            self._users_of_hub[project_id] -= 1
            self.release(project_id)

    async def _open(self, project_id: int) -> Hub | None:
        """Load a hub once, however many ask for it meanwhile."""
        task = self._opening.get(project_id)
        if task is None:
            task = asyncio.create_task(self._load(project_id), name=f"hub-{project_id}-load")
            self._opening[project_id] = task
            task.add_done_callback(lambda _: self._opening.pop(project_id, None))
        return await asyncio.shield(task)

    async def _load(self, project_id: int) -> Hub | None:
        hub = Hub(project_id, self.store, self.limits.tail, self)
        hub.tracer = self.tracer
        # Registered before the snapshot is taken: what commits meanwhile waits in the hub, and none is missed.
        self.hubs[project_id] = hub
        try:
            async with self._loading:
                acknowledged = self.keeper.waiting_cursors(project_id)
                async with self.store.snapshot() as tx:
                    cursors = await tx.cursors.of_project(project_id)
                    bounds = await tx.journal.bounds(project_id)
                    participants = await tx.participants.of_project(project_id)
                    awaiting = await tx.journal.awaiting_receipt(project_id, limit=Receipts.PER_PROJECT)
        except BaseException:
            del self.hubs[project_id]
            raise
        if bounds is None:
            del self.hubs[project_id]
            return None
        for participant in participants:
            self._hubs_of_site.setdefault(participant.site_id, set()).add(project_id)
        self.receipts.load(project_id, awaiting, cursors)
        for site_id, offset in acknowledged.items():
            self.receipts.starts_from(project_id, site_id, offset)
        hub.load(bounds, participants)
        return hub

    def release(self, project_id: int) -> None:
        """Let go of a hub that nobody uses and nobody is connected to."""
        hub = self.hubs.get(project_id)
        if hub is None or hub.lanes or project_id in self._opening or self._users_of_hub.get(project_id):
            return
        self._users_of_hub.pop(project_id, None)
        del self.hubs[project_id]
        hub.close()
        self.receipts.drop(project_id)
        for site_id in list(hub.members):
            self._forget_hub(site_id, project_id)

    def _forget_hub(self, site_id: int, project_id: int) -> None:
        hubs = self._hubs_of_site.get(site_id)
        if hubs is not None:
            hubs.discard(project_id)
            if not hubs:
                del self._hubs_of_site[site_id]

    # --- what hubs tell

    def member_joined(self, hub: Hub, member: Member) -> None:
        self._hubs_of_site.setdefault(member.site_id, set()).add(hub.project_id)
        for session in tuple(self.sessions.get(member.site_id, ())):
            if session.live and hub.project_id not in session.outbox.lanes:
                position = member.joined
                session.outbox.reply(
                    frames.text(
                        {"type": "subscribed", "project": hub.project_id}
                        | self.describe(hub, member, position, recovered=True)
                    )
                )
                session.outbox.subscribe(hub, member, position)

    def roles_changed(self, hub: Hub) -> None:
        """All sessions are told what they are now, and whom they see online; they go on where they are."""
        for member in hub.members.values():
            for session in tuple(self.sessions.get(member.site_id, ())):
                lane = session.outbox.lanes.get(hub.project_id)
                if lane is not None:
                    said = {"type": "subscribed", "project": hub.project_id}
                    state = self.describe(hub, member, lane.position, recovered=True)
                    session.outbox.reply(frames.text(said | state))

    def member_left(self, hub: Hub, member: Member, reason: str) -> None:
        self._forget_hub(member.site_id, hub.project_id)
        self.keeper.forget(member.site_id, hub.project_id)
        for session in tuple(self.sessions.get(member.site_id, ())):
            if hub.project_id in session.outbox.lanes:
                session.outbox.unsubscribe(hub.project_id)
                session.outbox.reply(frames.text({"type": "unsubscribed", "project": hub.project_id, "reason": reason}))
        if not hub.lanes:
            asyncio.get_running_loop().call_soon(self.release, hub.project_id)

    def wants_receipt(self, hub: Hub, entry: Entry) -> None:
        self.receipts.expect(hub.project_id, entry)

    def describe(self, hub: Hub, member: Member, position: int, *, recovered: bool) -> JsonObject:
        """What `welcome` and `subscribed` say of a project."""
        return {
            "role": member.role.display,
            "epoch": hub.epoch,
            "offset": hub.head,
            "from": position,
            "recovered": recovered,
            "online": self.online_uids(hub, member),
        }

    def online_uids(self, hub: Hub, viewer: Member) -> list[str]:
        """Who is online, of those whose presence the viewer may see; itself not among them."""
        return [
            member.uid
            for member in hub.members.values()
            if member.site_id != viewer.site_id
            and access.sees_presence_of(viewer.role, member.role)
            and self.presence.is_online(member.site_id)
        ]

    # --- sessions and presence

    def add_session(self, session: Session) -> None:
        self.sessions.setdefault(session.site.id, set()).add(session)
        self.shares.opened(session.site)

    def open_presence(self, session: Session) -> None:
        self.presence.session_opened(session.site.id)
        session.counted = True

    def remove_session(self, session: Session, *, clean: bool) -> None:
        site_id = session.site.id
        projects = list(self._hubs_of_site.get(site_id, ()))
        session.end()
        of_site = self.sessions.get(site_id)
        if of_site is not None and session in of_site:
            of_site.discard(session)
            self.shares.closed(session.site)
            if not of_site:
                del self.sessions[site_id]
        if session.counted:
            session.counted = False
            self.presence.session_closed(site_id, clean=clean)
        for project_id in projects:
            self.release(project_id)

    def all_sessions(self) -> Iterable[Session]:
        return [session for of_site in self.sessions.values() for session in of_site]

    def _presence_changed(self, site_id: int, online: bool) -> None:
        self.keeper.changed_presence(site_id, online)
        for callback in self.on_presence:
            callback(site_id)
        at = rfc3339(self.now_us())
        for project_id in self._hubs_of_site.get(site_id, ()):
            hub = self.hubs[project_id]
            member = hub.members.get(site_id)
            if member is None:
                continue
            frame = frames.text(
                {
                    "type": "presence",
                    "project": project_id,
                    "site": member.uid,
                    "state": "online" if online else "offline",
                    "at": at,
                }
            )
            for lane in tuple(hub.lanes):
                if lane.member.site_id != site_id and access.sees_presence_of(lane.member.role, member.role):
                    lane.pass_by(("presence", project_id, site_id), frame)
