"""Publishing, acknowledging, and looking back: what sites say to each other through a project's journal."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from msgspec import UNSET, Raw

from relay import metrics
from relay.core import access, blobs, frames
from relay.core.access import Principal
from relay.core.hub import Hub, Member
from relay.core.model import PUBLISHABLE, Appended, Draft, Entry, Kind, Role
from relay.core.node import Node
from relay.core.outbox import Lane
from relay.core.ports import Tx
from relay.core.session import Session
from relay.protocol import codec
from relay.protocol.envelope import Ack, Publish, Ref
from relay.protocol.errors import ReplyError, forbidden, invalid, unknown_project, unknown_run
from relay.protocol.position import MAX_OFFSET

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_PAGE = 256
HISTORY_LIMIT = 1000
UNREAD_LIMIT = 10_000


async def publish(node: Node, session: Session, frame: Publish, payload: bytes | None) -> None:
    """Take a publish of a session. It is answered once: after the commit, or at once if it is refused or transient.

    Waits while too many of the session's publishes are in flight, and for nothing else once a run's facts are known,
    so that the offsets of a session's publishes follow the order in which it sent them.

    Raises:
        ReplyError: the publish is refused, and nothing of it is stored.
    """
    lane = session.outbox.lanes.get(frame.project or 0)
    if lane is None:
        check(frame, payload)
        raise unknown_project()
    draft, transient = await compose(node, lane.hub, lane.member, frame, payload, origin=session.id)
    if transient:
        pass_on(node, lane.hub, draft)
        session.ok(frame.ref)
        return
    await session.flight.acquire()
    begin_trace(node, lane.hub, draft, bytes(frame.trace) if isinstance(frame.trace, Raw) else None)
    try:
        node.writer.offer(lane.hub.project_id, draft, _Answer(node, session, lane, frame.ref, draft))
    except ReplyError as error:
        session.flight.release()
        end_trace(node, lane.hub, draft, error)
        raise


async def append(node: Node, hub: Hub, draft: Draft, traceparent: bytes | None) -> Appended:
    """Take a publish of a request, which waits until it is durable.

    Raises:
        ReplyError: why it was not appended.
    """
    begin_trace(node, hub, draft, traceparent)
    try:
        appended = await node.writer.append(hub.project_id, draft)
    except ReplyError as error:
        end_trace(node, hub, draft, error)
        raise
    end_trace(node, hub, draft, appended)
    return appended


def begin_trace(node: Node, hub: Hub, draft: Draft, parent: bytes | None) -> None:
    if node.tracer is not None:
        node.tracer.published(hub.project_id, draft, parent)


def end_trace(node: Node, hub: Hub, draft: Draft, outcome: Appended | ReplyError) -> None:
    if node.tracer is not None:
        node.tracer.answered(hub.project_id, draft, outcome)


async def compose(
    node: Node, hub: Hub, member: Member, frame: Publish, payload: bytes | None, *, origin: str | None
) -> tuple[Draft, bool]:
    """The draft that a publish asks for, and whether it is transient.

    Raises:
        ReplyError: `invalid`, `forbidden`, `unknown_run`, `unknown_blob`.
    """
    event_id, kind = check(frame, payload)
    access.require_publish(member.role, kind)
    audience = address(hub, member, frame.to)
    batch = None if frame.run is None else await _batch_of(node, member, hub.project_id, frame.run)
    transient = frame.transient if frame.transient is not None else kind is Kind.PROGRESS
    data = None if payload is not None else bytes(frame.data)  # type: ignore[arg-type]
    blob = None if data is None else await blobs.referred(node, member, hub.project_id, data)
    draft = Draft(
        kind=kind,
        id=event_id,
        sender_id=member.site_id,
        sender_uid=member.uid,
        run=frame.run,
        batch=batch,
        audience=audience,
        data=data,
        payload=payload,
        receipts=bool(frame.receipts) and not transient,
        origin=origin,
        blob=blob,
    )
    if transient and blob is not None:
        await blobs.refer_in_passing(node, hub, draft)
    return draft, transient


def check(frame: Publish, payload: bytes | None) -> tuple[str, Kind]:
    """What a publish has to have: its id in lower case, and its kind. Raises `ReplyError` with `invalid`."""
    reasons: dict[str, str] = {}
    event_id = (frame.id or "").lower()
    if not _UUID.fullmatch(event_id):
        reasons["id"] = "required: a UUID, new for each event" if frame.id is None else "not a UUID"
    if frame.project is None:
        reasons["project"] = "required: the project's id"
    if frame.kind not in PUBLISHABLE:
        reasons["kind"] = f"one of {', '.join(sorted(PUBLISHABLE))}"
    if payload is None and frame.data is UNSET:
        reasons["data"] = "required: any JSON, or send a binary frame"
    if payload is not None and frame.data is not UNSET:
        reasons["data"] = "a binary frame has its payload instead"
    if reasons:
        raise invalid(**reasons)
    return event_id, Kind(frame.kind or "")


def address(hub: Hub, sender: Member, to: str | list[str] | None) -> frozenset[int] | None:
    """The site ids that an event is for; None for every member.

    A participant can address the coordinator alone, and cannot tell by trying who else takes part.

    Raises:
        ReplyError: `invalid`, `forbidden`.
    """
    coordinator = hub.coordinator()
    to_coordinator = frozenset() if coordinator is None else frozenset({coordinator.site_id})
    if isinstance(to, list):
        return _by_uid(hub, sender, coordinator, to)
    if to not in (None, "participants", "coordinator"):
        raise invalid(to="`participants`, `coordinator`, or a list of site uids")
    if to == "coordinator" or (to is None and sender.role is Role.PARTICIPANT):
        return to_coordinator
    if sender.role is Role.PARTICIPANT:
        raise forbidden("a participant can address only the coordinator")
    return None


def _by_uid(hub: Hub, sender: Member, coordinator: Member | None, to: list[str]) -> frozenset[int]:
    if not to:
        raise invalid(to="an empty list reaches nobody; leave it out for the default")
    uids = {uid.lower() for uid in to}
    if sender.role is Role.PARTICIPANT and (coordinator is None or uids != {coordinator.uid}):
        raise forbidden("a participant can address only the coordinator")
    members = {uid: hub.by_uid(uid) for uid in uids}
    unknown = sorted(uid for uid, member in members.items() if member is None)
    if unknown:
        raise invalid(to=f"not a member of the project: {', '.join(unknown[:3])[:150]}")
    return frozenset(member.site_id for member in members.values() if member is not None)


async def _batch_of(node: Node, member: Member, project_id: int, run_id: int) -> int:
    facts = await node.known_runs.get(run_id) if 0 < run_id <= MAX_OFFSET else None
    if facts is None or facts.project_id != project_id:
        raise unknown_run()
    if member.role is not Role.COORDINATOR and facts.site_id != member.site_id:
        raise unknown_run()
    return facts.batch


def pass_on(node: Node, hub: Hub, draft: Draft) -> None:
    """Show a transient event to who is online; keep the newest progress of a run for late lookers."""
    entry = Entry(project_id=hub.project_id, offset=None, at_us=node.now_us(), draft=draft)
    _keep_progress(node, entry)
    hub.transient(entry)


def _keep_progress(node: Node, entry: Entry) -> None:
    if entry.draft.kind is Kind.PROGRESS and entry.draft.run is not None:
        node.keeper.progressed(entry)


class _Answer:
    """Called by the writer when it is known what became of a publish."""

    __slots__ = ("_draft", "_lane", "_node", "_ref", "_session", "_since")

    def __init__(self, node: Node, session: Session, lane: Lane, ref: Ref, draft: Draft) -> None:
        self._node, self._session, self._lane, self._ref, self._draft = node, session, lane, ref, draft
        self._since = time.perf_counter()

    def __call__(self, outcome: Appended | ReplyError) -> None:
        self._session.flight.release()
        metrics.PUBLISH_SECONDS.observe(time.perf_counter() - self._since)
        end_trace(self._node, self._lane.hub, self._draft, outcome)
        if isinstance(outcome, ReplyError):
            self._session.error(self._ref, outcome)
            return
        if not outcome.duplicate:
            lane = self._session.outbox.lanes.get(self._lane.hub.project_id)
            if lane is not None:  # another than at the time of publishing, if the site has left and come back
                lane.sent(outcome.offset)
            if self._draft.kind is Kind.PROGRESS:
                entry = Entry(
                    project_id=self._lane.hub.project_id, offset=None, at_us=self._node.now_us(), draft=self._draft
                )
                _keep_progress(self._node, entry)
        self._session.ok(self._ref, offset=outcome.offset, duplicate=outcome.duplicate)


def acknowledge(node: Node, session: Session, frame: Ack) -> None:
    """Move the site's cursor, and tell the senders that wanted to know. An ack is never answered, unless it is invalid.

    Raises:
        ReplyError: `invalid`.
    """
    if frame.project is None or frame.offset is None or not 0 <= frame.offset <= MAX_OFFSET:
        raise invalid(ack="has a project and an offset of 0 or more")
    lane = session.outbox.lanes.get(frame.project)
    if lane is not None:
        settle(node, lane.hub, lane.member, frame.offset)


def settle(node: Node, hub: Hub, member: Member, offset: int) -> None:
    """Everything up to `offset`, but not past the head, is processed by this site."""
    offset = min(offset, hub.head)
    node.keeper.acknowledged(member.site_id, hub.project_id, offset)
    if node.tracer is not None:
        node.tracer.acknowledged(hub.project_id, member.site_id, offset)
    for entry in node.receipts.settle(hub.project_id, member, offset):
        frame = frames.text({"type": "receipt", "project": hub.project_id, "offset": entry.offset, "site": member.uid})
        for lane in tuple(hub.lanes):
            if lane.member.site_id == entry.draft.sender_id:
                lane.pass_by(("receipt", hub.project_id, entry.offset, member.site_id), frame)


async def history(
    node: Node, principal: Principal, site_id: int, project_id: int, *, after: int, limit: int, kind: str | None
) -> list[dict[str, Any]]:
    """Up to `limit` events after an offset that the site may see, in order; an empty list is the journal's end.

    Raises:
        ReplyError: `unknown_project`, `unavailable`.
    """
    async with node.use_hub(project_id) as hub:
        member = None if hub is None else hub.members.get(site_id)
        if hub is None or member is None or not principal.acts_for(site_id):
            raise unknown_project()
        found: list[dict[str, Any]] = []
        room = node.limits.payload_bytes
        position = max(after, member.joined)
        while position < hub.head:
            page = await _page(node, project_id, position, kind)
            for entry in page:
                position = entry.offset or position
                if not access.sees(member.site_id, member.role, entry.draft):
                    continue
                room -= len(entry.draft.payload or entry.draft.data or b"")
                if found and room < 0:
                    return found
                found.append(codec.event_object(frames.event_of(entry), inline_limit=node.limits.text_bytes))
                if len(found) == limit:
                    return found
            if not page:
                break
            await asyncio.sleep(0)
        return found


async def _page(node: Node, project_id: int, after: int, kind: str | None) -> list[Entry]:
    async with node.catch_up, node.store.snapshot() as tx:
        return await tx.journal.read(project_id, after, limit=_PAGE, max_bytes=node.limits.outbox.page_bytes, kind=kind)


async def newest_progress(
    node: Node, principal: Principal, site_id: int, project_id: int, batch: int
) -> list[dict[str, Any]]:
    """The newest progress of each run of a batch, as far as the site may see it.

    Raises:
        ReplyError: `unknown_project`.
    """
    async with node.use_hub(project_id) as hub:
        member = None if hub is None else hub.members.get(site_id)
        if member is None or not principal.acts_for(site_id):
            raise unknown_project()
        async with node.store.snapshot() as tx:
            stored = await tx.progress.of_batch(project_id, batch)
        newest = {(entry.draft.run or 0, entry.draft.sender_id or 0): entry for entry in stored}
        newest |= node.keeper.waiting_progress(project_id, batch)
    return [
        codec.event_object(frames.event_of(entry), inline_limit=node.limits.text_bytes)
        for _, entry in sorted(newest.items())
        if access.sees(member.site_id, member.role, entry.draft)
    ]


async def cursors(node: Node, principal: Principal, project_id: int) -> list[dict[str, Any]]:
    """How far each member that the caller may see has acknowledged, and how much it has not.

    `behind` counts the journal's events after its cursor, `unread` those among the next `UNREAD_LIMIT` of them that it
    is shown: a site that has done all its work has none, however much the others have sent since.

    Raises:
        ReplyError: `unknown_project`.
    """
    async with node.use_hub(project_id) as hub:
        members = [] if hub is None else list(hub.members.values())
        access.require(principal, access.Action.SEE_PROJECT, members)
        assert hub is not None
        acknowledged = await node.keeper.cursors_in(project_id)
        async with node.store.snapshot() as tx:
            return [
                await _standing(tx, hub, member, acknowledged.get(member.site_id, 0))
                for member in members
                if access.may_see_member(principal, member, members)
            ]


async def _standing(tx: Tx, hub: Hub, member: Member, offset: int) -> dict[str, Any]:
    after = max(offset, member.joined)
    through = min(hub.head, after + UNREAD_LIMIT)
    unread = 0
    if through > after:
        unread = await tx.journal.unread(hub.project_id, member.site_id, member.role, after=after, through=through)
    return {"site": member.uid, "offset": offset, "behind": max(0, hub.head - after), "unread": unread}


async def receipts(node: Node, principal: Principal, site_id: int, project_id: int, offset: int) -> dict[str, Any]:
    """Who of an event's addressees has acknowledged it. For its sender, and for the coordinator.

    Raises:
        ReplyError: `unknown_project`; `invalid`, if the site may not see such an event; `forbidden`.
    """
    async with node.use_hub(project_id) as hub:
        member = None if hub is None else hub.members.get(site_id)
        if hub is None or member is None or not principal.acts_for(site_id):
            raise unknown_project()
        async with node.store.snapshot() as tx:
            entry = await tx.journal.get(project_id, offset)
        if entry is None or offset <= member.joined or not access.sees(site_id, member.role, entry.draft):
            raise invalid(offset="there is no such event among those of this site")
        if member.role is not Role.COORDINATOR and entry.draft.sender_id != site_id:
            raise forbidden("receipts are the sender's and the coordinator's")
        acknowledged = await node.keeper.cursors_in(project_id)
        addressees = [
            other
            for other in hub.members.values()
            if other.site_id != entry.draft.sender_id
            and other.joined < offset
            and access.sees(other.site_id, other.role, entry.draft)
            and access.may_see_member(principal, other, list(hub.members.values()))
        ]
    done = [other.uid for other in addressees if acknowledged.get(other.site_id, 0) >= offset]
    return {"offset": offset, "acknowledged": done, "waiting": [o.uid for o in addressees if o.uid not in done]}
