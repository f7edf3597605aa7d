"""Hello and welcome: where a session's delivery begins (protocol, sections 4 and 5)."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Literal

from relay.core import frames
from relay.core.hub import Hub, Member
from relay.core.node import Node
from relay.core.session import Session
from relay.protocol.envelope import Hello, ResumeFrom
from relay.protocol.errors import invalid
from relay.protocol.position import MAX_OFFSET, Resume, judge_resume


async def welcome(node: Node, session: Session, hello: Hello, *, ping_interval_s: float) -> None:
    """Answer a hello: subscribe the session to every project that its site takes part in, and say so.

    Everything that may wait is done first. Then, without awaiting, the hubs' heads are looked at, the welcome is sent
    and the session subscribed: no event falls between what `welcome` says and what is delivered after it.

    Raises:
        ReplyError: `invalid`, for offsets that cannot be; `unavailable`.
    """
    wanted = _wanted(hello)
    async with AsyncExitStack() as stack:
        async with node.store.snapshot() as tx:
            participations = await tx.participants.of_site(session.site.id)
        cursors = await node.keeper.cursors_of(session.site.id)
        hubs: dict[int, Hub] = {}
        missing = {participation.project_id for participation in participations}
        while missing:
            for project_id in missing:
                hub = await stack.enter_async_context(node.use_hub(project_id))
                if hub is not None:
                    hubs[project_id] = hub
            missing = session.pending_joins - hubs.keys()  # joined while we waited
            session.pending_joins.clear()
        _go_live(node, session, hello, hubs, wanted, cursors, ping_interval_s)


def _wanted(hello: Hello) -> dict[int, ResumeFrom]:
    wanted = {}
    for name, point in (hello.projects or {}).items():
        if not (name.isascii() and name.isdigit() and len(name) <= 19):
            raise invalid(projects=f"its keys are project ids, got {name[:40]!r}")
        if isinstance(point.offset, int) and not 0 <= point.offset <= MAX_OFFSET:
            raise invalid(**{f"projects.{name}.offset": "an offset is 0 or more"})
        wanted[int(name)] = point
    return wanted


def _go_live(
    node: Node,
    session: Session,
    hello: Hello,
    hubs: dict[int, Hub],
    wanted: dict[int, ResumeFrom],
    cursors: dict[int, int],
    ping_interval_s: float,
) -> None:
    """No await from here on."""
    node.open_presence(session)
    lanes: list[tuple[Hub, Member, Resume]] = []
    for project_id, hub in sorted(hubs.items()):
        member = hub.members.get(session.site.id)
        if member is None:  # left while we waited
            continue
        cursor = cursors.get(project_id)
        resume = _resume(hub, member, wanted.get(project_id), cursor)
        node.receipts.starts_from(project_id, member.site_id, cursor or 0)
        lanes.append((hub, member, resume))
    message = {
        "type": "welcome",
        **({} if hello.ref is None else {"ref": hello.ref}),
        "session": session.id,
        "site": {"id": session.site.id, "uid": session.site.uid, "name": session.site.name},
        "server": {"name": "starfish-relay", "version": node.version, "node": node.name},
        "ping_interval": int(ping_interval_s) if ping_interval_s == int(ping_interval_s) else ping_interval_s,
        "expires_at": session.expires_at,
        "limits": {"frame": node.limits.text_bytes, "inline": node.limits.payload_bytes},
        "projects": {
            str(hub.project_id): node.describe(hub, member, resume.start, recovered=resume.recovered)
            for hub, member, resume in lanes
        },
    }
    session.client = (hello.client or "")[:100]
    session.live = True
    session.outbox.reply(frames.text(message))
    for hub, member, resume in lanes:
        session.outbox.subscribe(hub, member, resume.start)
    session.watch_expiry(node.now_us())


def _resume(hub: Hub, member: Member, point: ResumeFrom | None, cursor: int | None) -> Resume:
    requested: int | Literal["new"] | None = None if point is None else point.offset
    epoch = None if point is None else point.epoch
    return judge_resume(requested, epoch, journal=hub.bounds, cursor=cursor, joined=member.joined)
