"""The journal over plain HTTP, for sites that cannot hold a WebSocket (protocol, section 9): same rules, same offsets.

    GET  projects/{id}/events/                     long poll; with `Accept: text/event-stream` a stream (SSE)
    POST projects/{id}/events/                     publish
    POST projects/{id}/ack/                        acknowledge
    GET  projects/{id}/events/{offset}/payload/    a binary event's bytes

Each request speaks for one site: a Bearer token, or Basic with `X-Starfish-Site`. A site that polls or streams here
counts as online, as one with a session does.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from relay.core import access, admission, frames, messaging
from relay.core.access import Right
from relay.core.hub import Hub, Member
from relay.core.model import Entry
from relay.core.node import Node
from relay.core.reader import Reader, following
from relay.core.session import Identity
from relay.protocol import codec
from relay.protocol.envelope import Publish
from relay.protocol.errors import ErrorCode, ReplyError, invalid, unknown_project
from relay.protocol.position import MAX_OFFSET, judge_resume
from relay.web.auth import Authenticator, asking
from relay.web.connection import patience
from relay.web.replies import Json, answering, read_body

API = "/starfish/api/v1"
MAX_LIMIT = 1000
MAX_WAIT_S = 60.0
KEEP_ALIVE_S = 15.0
"""The longest that an event stream is silent, by default: proxies cut what is idle for 60 s."""

_LAST_EVENT_ID = re.compile(r"([\w.-]{1,64}):(\d{1,19})")


class PublishBody(msgspec.Struct):
    """A `publish` without its `type`, `ref` and `project`; `payload` is base64, in place of `data`."""

    id: str | None = None
    kind: str | None = None
    to: str | list[str] | None = None
    run: int | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payload: str | None = None
    transient: bool | None = None
    receipts: bool | None = None


class AckBody(msgspec.Struct):
    offset: int


class EventDoor:
    """See the module.

    Args:
        keep_alive_s: a comment goes on an event stream on which nothing was sent for so long.
        is_draining: whether the relay is about to end: nothing new is begun then.
    """

    def __init__(
        self, node: Node, auth: Authenticator, is_draining: Callable[[], bool], keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        self._node = node
        self._auth = auth
        self._is_draining = is_draining
        self._keep_alive_s = keep_alive_s

    def routes(self) -> list[BaseRoute]:
        project = API + "/projects/{project}"
        return [
            Route(f"{project}/events/", answering(self.read), methods=["GET"]),
            Route(f"{project}/events/", answering(self.publish), methods=["POST"]),
            Route(f"{project}/events/{{offset}}/payload/", answering(self.payload), methods=["GET"]),
            Route(f"{project}/ack/", answering(self.ack), methods=["POST"]),
        ]

    @asynccontextmanager
    async def _member(self, request: Request, right: Right) -> AsyncIterator[tuple[Identity, Hub, Member]]:
        """The site that asks, and its part in the project.

        Raises:
            ReplyError: `unauthenticated` …, and `unknown_project` for absent and foreign alike.
        """
        identity = await asking(self._auth, self._node.shares, request, right)
        number = request.path_params["project"]
        project_id = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0
        async with self._node.use_hub(project_id) as hub:
            member = None if hub is None else hub.members.get(identity.site.id)
            if hub is None or member is None:
                raise unknown_project()
            yield identity, hub, member

    # --- reading

    async def read(self, request: Request) -> Response:
        if self._is_draining():
            raise ReplyError(ErrorCode.DRAINING, "the relay restarts; try again", {"retry_after": 1})
        async with AsyncExitStack() as stack:
            seen = self._node.credentials.seen
            identity, hub, member = await stack.enter_async_context(self._member(request, Right.READ))
            stack.enter_context(self._node.shares.following(identity.site))
            position = await self._position(request, identity, hub, member)
            reader = stack.enter_context(following(self._node, identity, hub, member, position))
            self._node.credentials.heed(seen)
            headers = {"X-Starfish-Epoch": hub.epoch, "X-Starfish-From": str(position), "Cache-Control": "no-store"}
            if "text/event-stream" not in request.headers.get("accept", ""):
                return await self._poll(request, reader, headers)
            return Streamed(
                self._stream(stack.pop_all(), reader, identity),
                self._node.limits.outbox.patience_s,
                headers=headers | {"X-Accel-Buffering": "no"},
            )

    async def _poll(self, request: Request, reader: Reader, headers: dict[str, str]) -> Response:
        limit = _number(request, "limit", 100, least=1, most=MAX_LIMIT)
        wait_s = _number(request, "wait", 0, least=0, most=MAX_WAIT_S)
        if reader.identity.principal.takes_part:
            self._node.presence.heartbeat(reader.member.site_id, alive=True)
        entries = await reader.page(int(limit))
        while not entries and reader.is_member and not reader.ended and wait_s > 0:
            before = _now()
            if not await reader.news(wait_s):
                break
            reader.passing()
            entries = await reader.page(int(limit))
            wait_s -= _now() - before
        if not reader.is_member:
            raise unknown_project()
        events = [self._shown(entry) for entry in entries]
        return Json({"events": events}, headers=headers | {"X-Starfish-Offset": str(reader.position)})

    async def _stream(self, stack: AsyncExitStack, reader: Reader, identity: Identity) -> AsyncGenerator[bytes, None]:
        """An event stream, until the client leaves, the site leaves the project, or the relay stops."""
        async with stack:
            if identity.principal.takes_part:
                self._node.presence.session_opened(identity.site.id)
                stack.callback(self._node.presence.session_closed, identity.site.id, clean=False)
            yield b": welcome\n\n"
            silent_since = _now()
            while not reader.ended and self._is_good(identity):
                async for piece in self._pieces(reader):
                    yield piece
                    silent_since = _now()
                if not reader.is_member:
                    reason = await admission.why_out(self._node, reader.hub, reader.member.site_id)
                    yield _data(
                        codec.encode({"type": "unsubscribed", "project": reader.hub.project_id, "reason": reason})
                    )
                    return
                if not await reader.news(max(0.0, silent_since + self._keep_alive_s - _now())):
                    yield b":\n\n"
                    silent_since = _now()

    async def _pieces(self, reader: Reader) -> AsyncIterator[bytes]:
        for entry in await reader.page(MAX_LIMIT):
            mark = b"id: %s:%d\n" % (reader.hub.epoch.encode(), entry.offset or 0)
            yield mark + _data(codec.encode(self._shown(entry)))
        for frame in reader.passing():
            yield _data(_as_text(frame))

    def _is_good(self, identity: Identity) -> bool:
        return identity.expires_us is None or identity.expires_us > self._node.now_us()

    async def _position(self, request: Request, identity: Identity, hub: Hub, member: Member) -> int:
        """After which offset to go on: `after`, `Last-Event-ID`, or the site's cursor; never before its joining."""
        requested: int | None = None
        epoch = request.query_params.get("epoch")
        resumed = _LAST_EVENT_ID.fullmatch(request.headers.get("last-event-id", ""))
        if resumed is not None:
            epoch, requested = resumed[1], int(resumed[2])
        elif "after" in request.query_params:
            requested = int(_number(request, "after", 0, least=0, most=MAX_OFFSET))
        cursor = (await self._node.keeper.cursors_of(identity.site.id)).get(hub.project_id)
        resume = judge_resume(requested, epoch, journal=hub.bounds, cursor=cursor, joined=member.joined)
        return resume.start

    def _shown(self, entry: Entry) -> dict[str, Any]:
        return codec.event_object(frames.event_of(entry), inline_limit=self._node.limits.text_bytes)

    async def payload(self, request: Request) -> Response:
        async with self._member(request, Right.READ) as (_, hub, member):
            number = request.path_params["offset"]
            offset = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0
            async with self._node.store.snapshot() as tx:
                entry = await tx.journal.get(hub.project_id, offset)
        visible = entry is not None and offset > member.joined and access.sees(member.site_id, member.role, entry.draft)
        if entry is None or not visible or entry.draft.payload is None:
            raise ReplyError(ErrorCode.UNKNOWN_BLOB, "there is no such event with a payload among those of this site")
        return Response(entry.draft.payload, media_type="application/octet-stream")

    # --- writing

    async def publish(self, request: Request) -> Response:
        async with self._member(request, Right.PUBLISH) as (_, hub, member):
            limits = self._node.limits
            body = await read_body(request, PublishBody, limits.payload_bytes * 4 // 3 + limits.text_bytes)
            payload = None if body.payload is None else _decode(body.payload)
            size, limit = (
                (len(payload), limits.payload_bytes)
                if payload is not None
                else (len(body.data) if isinstance(body.data, msgspec.Raw) else 0, limits.text_bytes)
            )
            if size > limit:
                raise ReplyError(ErrorCode.TOO_LARGE, f"at most {limit} bytes, got {size}", {"limit": limit})
            frame = Publish(
                id=body.id,
                project=hub.project_id,
                kind=body.kind,
                to=body.to,
                run=body.run,
                data=body.data,
                transient=body.transient,
                receipts=body.receipts,
            )
            draft, transient = await messaging.compose(self._node, hub, member, frame, payload, origin=None)
            if transient:
                messaging.pass_on(self._node, hub, draft)
                return Json({"duplicate": False}, 201)
            traceparent = request.headers.get("traceparent")
            appended = await messaging.append(
                self._node, hub, draft, None if traceparent is None else traceparent.encode("latin-1")
            )
        return Json({"offset": appended.offset, "duplicate": appended.duplicate}, 200 if appended.duplicate else 201)

    async def ack(self, request: Request) -> Response:
        async with self._member(request, Right.ACT) as (_, hub, member):
            body = await read_body(request, AckBody, 4096)
            if not 0 <= body.offset <= MAX_OFFSET:
                raise invalid(offset="0 or more")
            messaging.settle(self._node, hub, member, body.offset)
        return Response(status_code=204)


class Streamed(StreamingResponse):
    """An event stream. A client that takes none of it is cut off, as a session is."""

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[bytes, None], patience_s: float, headers: dict[str, str]) -> None:
        super().__init__(pieces, headers=headers)
        self._pieces = pieces
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_patiently(message: Message) -> None:
            with patience(scope, self._patience_s):
                await send(message)

        async with aclosing(self._pieces):
            await super().__call__(scope, receive, send_patiently)


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(payload="base64") from None


def _number(request: Request, name: str, default: float, *, least: float, most: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not least <= int(text) <= most:
        raise invalid(**{name: f"a whole number from {least:g} to {most:g}, got {text[:40]!r}"})
    return int(text)


def _data(message: bytes) -> bytes:
    """A message as the data of one event. What a site published may have line ends between its tokens."""
    return b"".join(b"data: %s\n" % line for line in message.splitlines()) + b"\n"


def _as_text(frame: bytes) -> bytes:
    """The message of a prepared WebSocket frame; a binary event has its payload as base64."""
    message, is_binary = frames.message_of(frame)
    if not is_binary:
        return message
    header, payload = codec.split_binary(message)
    event = msgspec.json.decode(header) | {"payload": base64.b64encode(payload).decode("ascii")}
    return codec.encode(event)


def _now() -> float:
    return asyncio.get_running_loop().time()
