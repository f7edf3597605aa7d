"""Hello and welcome: where a session's delivery begins (protocol, sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Literal

from relay.core import frames
from relay.core.hub import Hub, Member
from relay.core.model import JsonObject, Site, rfc3339
from relay.core.node import Node
from relay.core.session import Identity, Session
from relay.protocol.envelope import Hello, ResumeFrom
from relay.protocol.errors import invalid
from relay.protocol.position import MAX_OFFSET, Resume, judge_resume


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """All that had to be waited for. Projects may still be left before they are looked at."""

    hubs: Mapping[int, Hub]
    cursors: Mapping[int, int | None]
    wanted: Mapping[int, ResumeFrom]

    def lanes(self, node: Node, site_id: int) -> list[tuple[Hub, Member, Resume]]:
        """Where delivery begins in each project of the site, by id."""
        lanes = []
        for project_id, hub in sorted(self.hubs.items()):
            member = hub.members.get(site_id)
            if member is None:  # it left while we waited
                continue
            cursor = self.cursors.get(project_id)
            lanes.append((hub, member, _resume(hub, member, self.wanted.get(project_id), cursor)))
            node.receipts.starts_from(project_id, site_id, cursor or 0)
        return lanes


async def welcome(node: Node, session: Session, hello: Hello, *, ping_interval_s: float) -> None:
    """Answer a hello: subscribe the session to every project that its site takes part in, and say so.

    Everything that may wait is done first. Then, without awaiting, the hubs' heads are looked at, the welcome is sent
    and the session subscribed: no event falls between what `welcome` says and what is delivered after it.

    Raises:
        ReplyError: `invalid`, for offsets that cannot be; `unavailable`.
    """
    async with AsyncExitStack() as stack:
        loaded = await _load(node, stack, session.site.id, hello, session.pending_joins)
        _go_live(node, session, hello, loaded, ping_interval_s)


async def standing(node: Node, identity: Identity, hello: Hello, *, ping_interval_s: float) -> JsonObject:
    """What a welcome to this hello would say now, for a site that is to follow its projects one by one over HTTP.

    Raises:
        ReplyError: `invalid`, for offsets that cannot be; `unavailable`.
    """
    async with AsyncExitStack() as stack:
        loaded = await _load(node, stack, identity.site.id, hello, set())
        lanes = loaded.lanes(node, identity.site.id)
        expires_at = None if identity.expires_us is None else rfc3339(identity.expires_us)
        return _described(node, identity.site, expires_at, lanes, ping_interval_s)


async def _load(node: Node, stack: AsyncExitStack, site_id: int, hello: Hello, joins: set[int]) -> _Loaded:
    """Open the hubs of the site's projects, those in `joins` too: it may have joined them while we waited."""
    wanted = _wanted(hello)
    cursors = await node.standings.get(site_id) or {}
    hubs: dict[int, Hub] = {}
    missing = set(cursors)
    while missing:
        for project_id in missing:
            hub = await stack.enter_async_context(node.use_hub(project_id))
            if hub is not None:
                hubs[project_id] = hub
        missing = joins - hubs.keys()
        joins.clear()
    return _Loaded(hubs=hubs, cursors=cursors, wanted=wanted)


def _wanted(hello: Hello) -> dict[int, ResumeFrom]:
    wanted = {}
    for name, point in (hello.projects or {}).items():
        if not (name.isascii() and name.isdigit() and len(name) <= 19):
            raise invalid(projects=f"its keys are project ids, got {name[:40]!r}")
        if isinstance(point.offset, int) and not 0 <= point.offset <= MAX_OFFSET:
            raise invalid(**{f"projects.{name}.offset": "an offset is 0 or more"})
        wanted[int(name)] = point
    return wanted


def _go_live(node: Node, session: Session, hello: Hello, loaded: _Loaded, ping_interval_s: float) -> None:
    """No await from here on."""
    if session.principal.takes_part:
        node.open_presence(session)
    lanes = loaded.lanes(node, session.site.id)
    message = {
        "type": "welcome",
        **({} if hello.ref is None else {"ref": hello.ref}),
        "session": session.id,
        **_described(node, session.site, session.expires_at, lanes, ping_interval_s),
    }
    session.client = (hello.client or "")[:100]
    session.live = True
    session.outbox.reply(frames.text(message))
    for hub, member, resume in lanes:
        session.outbox.subscribe(hub, member, resume.start)
    session.watch_expiry(node.now_us())


def _described(
    node: Node,
    site: Site,
    expires_at: str | None,
    lanes: list[tuple[Hub, Member, Resume]],
    ping_interval_s: float,
) -> JsonObject:
    """What a welcome says, but for the session's own."""
    return {
        "site": {"id": site.id, "uid": site.uid, "name": site.name},
        "server": {"name": "starfish-relay", "version": node.version, "node": node.name},
        "ping_interval": int(ping_interval_s) if ping_interval_s == int(ping_interval_s) else ping_interval_s,
        "expires_at": expires_at,
        "limits": {"frame": node.limits.text_bytes, "inline": node.limits.payload_bytes},
        "projects": {
            str(hub.project_id): node.describe(hub, member, resume.start, recovered=resume.recovered)
            for hub, member, resume in lanes
        },
    }


def _resume(hub: Hub, member: Member, point: ResumeFrom | None, cursor: int | None) -> Resume:
    requested: int | Literal["new"] | None = None if point is None else point.offset
    epoch = None if point is None else point.epoch
    return judge_resume(requested, epoch, journal=hub.bounds, cursor=cursor, joined=member.joined)
