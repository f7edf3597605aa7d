"""The lower rungs: a session's frames over plain HTTP (protocol, "Without a WebSocket").

The session above speaks frames, as it does on a WebSocket; here each becomes a request, one after the other, so that
publishes keep their order. What comes back is made into frames again:

    hello        POST hello/                       welcome, once every project is followed
    publish      POST projects/{id}/events/        ok, error
    ack          POST projects/{id}/ack/
    call         POST calls/{method}/              ok, error
    refresh      POST hello/ with the new token    ok, error
    events       by a feed for each project: `relay.client.feeds`

Nothing but a WebSocket tells at once that the site has joined or left a project through another process: so every
`Limits.look_s` the relay is asked where the site stands.
"""

from __future__ import annotations

import asyncio
import base64
import random
import ssl as ssl_module
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from relay.client.api import Api
from relay.client.credentials import Credentials
from relay.client.feeds import Feed, Place
from relay.client.frames import ProjectState
from relay.client.limits import Limits
from relay.client.proxies import Proxy
from relay.client.transport import Disconnected, Refused
from relay.protocol import codec
from relay.protocol.envelope import Ack, Call, Hello, Publish, Ref, Refresh
from relay.protocol.errors import CloseCode, ErrorCode

WAITING_EVENTS = 64
WAITING_BYTES = 4 * 1024 * 1024
EXPIRY_NOTICE_S = 60.0
_MOVES = frozenset({"projects.create", "projects.join", "projects.leave", "projects.transfer"})


class _Standing(msgspec.Struct):
    """What this transport itself reads of the answer to a hello."""

    site: dict[str, Any]
    projects: dict[int, ProjectState]
    expires_at: datetime | None = None


class Rest:
    """A `Transport`. See the module."""

    def __init__(self, api: Api, feed: Feed, limits: Limits) -> None:
        self._api = api
        self._feed = feed
        self._limits = limits
        self._answers: deque[str] = deque()
        self._events: deque[str | bytes] = deque()
        self._event_bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._gone: Disconnected | None = None
        self._uid = ""
        self._feeds: dict[int, asyncio.Task[None]] = {}
        self._online: dict[int, frozenset[str]] = {}
        self._roles: dict[int, str] = {}
        self._looking: asyncio.Task[None] | None = None
        self._look_lock = asyncio.Lock()
        self._expiry: asyncio.TimerHandle | None = None

    # --- the port

    async def send(self, frame: bytes, *, binary: bool = False) -> None:
        if self._gone is not None:
            raise self._gone
        said, payload = codec.decode_binary(frame) if binary else (codec.decode_text(frame), None)
        if isinstance(said, Hello):
            await self._hello(said)
            return
        ref = None if isinstance(said, Ack) else said.ref
        try:
            self._ok(ref, await self._do(said, payload))
        except Refused as refused:
            self._refuse(ref, refused, about_token=isinstance(said, Refresh))

    async def receive(self) -> str | bytes:
        while True:
            if self._answers:
                return self._answers.popleft()
            if self._events:
                event = self._events.popleft()
                self._event_bytes -= len(event)
                self._room.set()
                return event
            if self._gone is not None:
                raise self._gone
            self._news.clear()
            await self._news.wait()

    async def close(self, code: int) -> None:
        self._end(Disconnected(code, "closed from this side"))
        tasks = [*self._feeds.values(), *([self._looking] if self._looking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._api.close()

    def drop(self) -> None:
        self._end(Disconnected(1006, "dropped from this side"))

    def _end(self, why: Disconnected) -> None:
        if self._gone is not None:
            return
        self._gone = why
        self._news.set()
        if self._expiry is not None:
            self._expiry.cancel()

    # --- frames out

    async def _hello(self, hello: Hello) -> None:
        said = {"client": hello.client, "projects": hello.projects or {}}
        answer, standing = await self._stand(said)
        self._uid = standing.site["uid"]
        places = [self._follow(project, state) for project, state in standing.projects.items()]
        for place in places:
            await place.ready.wait()
        if self._gone is not None:
            raise self._gone
        welcome = {"type": "welcome", "ref": hello.ref, "session": ""} | msgspec.json.decode(answer)
        self._answers.appendleft(codec.encode(welcome).decode())
        self._news.set()
        self._looking = asyncio.create_task(self._keep_looking(), name="relay-look")

    async def _do(self, said: Publish | Ack | Call | Refresh, payload: bytes | None) -> dict[str, Any] | None:
        """Have it done; the fields of the answer, None if there is none. Raises `Refused`."""
        match said:
            case Publish():
                answer = await self._api.post(f"projects/{said.project}/events/", _publication(said, payload))
                published: dict[str, Any] = msgspec.json.decode(answer.body)
                return published
            case Ack():
                await self._api.post(f"projects/{said.project}/ack/", codec.encode({"offset": said.offset}))
                return None
            case Call():
                answer = await self._api.post(f"calls/{said.method}/", codec.encode(said.params or {}))
                if said.method in _MOVES:
                    await self._look()
                return {"result": msgspec.json.decode(answer.body)["result"]}
            case Refresh():
                return await self._refresh(said.token or "")

    async def _refresh(self, token: str) -> dict[str, Any]:
        """Feeds that are under way go on, until the old token ends them: they come back with the new one."""
        _, standing = await self._stand({}, token)
        if standing.site["uid"] != self._uid:
            raise Refused(401, "the token is not one of this site", code=ErrorCode.UNAUTHENTICATED)
        expires_at = standing.expires_at
        return {"expires_at": None if expires_at is None else expires_at.isoformat()}

    async def _stand(self, said: Mapping[str, Any], token: str | None = None) -> tuple[bytes, _Standing]:
        """Say hello; see to it that the token's end is told in time. Raises `Refused`."""
        answer = await self._api.post("hello/", codec.encode(dict(said)), token=token)
        try:
            standing = msgspec.json.decode(answer.body, type=_Standing)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            raise Refused(answer.status, "the answer is none of a relay's") from None
        if self._expiry is not None:
            self._expiry.cancel()
        if standing.expires_at is not None and self._gone is None:
            left_s = (standing.expires_at - _date(answer.headers)).total_seconds()
            goodbye = {"type": "goodbye", "code": "token_expiring"}
            notice_s = max(0.0, left_s - EXPIRY_NOTICE_S)
            self._expiry = asyncio.get_running_loop().call_later(notice_s, self._answer, goodbye)
        return answer.body, standing

    # --- answers

    def _ok(self, ref: Ref, fields: dict[str, Any] | None) -> None:
        if fields is not None:
            self._answer({"type": "ok", "ref": ref} | fields)

    def _refuse(self, ref: Ref, refused: Refused, *, about_token: bool) -> None:
        """Tell the caller, or end the connection if it is not about this one request, or the token that it brought."""
        ends = None if about_token and refused.status == 401 else ending(refused)
        if ends is not None:
            if refused.retry_after_s is not None:
                goodbye = {"type": "goodbye", "code": "draining", "retry_after": refused.retry_after_s}
                self._answer(goodbye)
            self._end(ends)
            raise ends
        if refused.status == 407:
            raise refused
        error = {"code": refused.code, "message": refused.message, "details": refused.details}
        if refused.code is None:
            message = f"something between this site and the relay answered HTTP {refused.status}: {refused.message}"
            error = {"code": _ON_THE_WAY.get(refused.status, ErrorCode.FORBIDDEN), "message": message}
        self._answer({"type": "error", "ref": ref} | error)

    def _answer(self, frame: Mapping[str, Any]) -> None:
        self._answers.append(codec.encode(dict(frame)).decode())
        self._news.set()

    # --- events in

    def _follow(self, project: int, state: ProjectState) -> Place:
        place = Place(project=project, epoch=state.epoch, offset=state.start)
        self._online[project] = state.online
        self._roles[project] = state.role
        self._feeds[project] = asyncio.create_task(self._feed_from(place), name=f"relay-feed-{project}")
        return place

    async def _feed_from(self, place: Place) -> None:
        try:
            await self._feed(self._api, place, self._put, self._limits)
        except (Disconnected, OSError) as lost:
            self._end(_lost(lost))
        except Refused as refused:
            if refused.code == ErrorCode.UNKNOWN_PROJECT:
                self._left(place.project)
            else:
                self._end(ending(refused) or Disconnected(1006, str(refused)))
        finally:
            place.ready.set()

    async def _put(self, event: str | bytes) -> None:
        while len(self._events) >= WAITING_EVENTS or (self._events and self._event_bytes >= WAITING_BYTES):
            self._room.clear()
            await self._room.wait()
        self._events.append(event)
        self._event_bytes += len(event)
        self._news.set()

    # --- where the site stands

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._limits.look_s * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
            try:
                await self._look()
            except (Disconnected, OSError) as lost:
                self._end(_lost(lost))
            except Refused as refused:
                ends = ending(refused)
                if ends is not None:
                    self._end(ends)

    async def _look(self) -> None:
        """Follow what has been joined, and leave what has been left, and tell the session of both."""
        async with self._look_lock:  # an answer that is older than another one is not acted upon after it
            _, standing = await self._stand({})
            for project in self._feeds.keys() - standing.projects.keys():
                self._feeds[project].cancel()
                self._left(project)
            for project, state in standing.projects.items():
                if project not in self._feeds:
                    self._answer(_subscribed(project, state))
                    self._follow(project, state)
                elif self._roles[project] != state.role:  # the feed goes on: it is the relay that shows more, or less
                    self._roles[project] = state.role
                    self._answer(_subscribed(project, state) | {"recovered": True})
                self._see(project, state.online)

    def _see(self, project: int, online: frozenset[str]) -> None:
        """Tell who came and who went since; a stream has told most of it already."""
        before, self._online[project] = self._online[project], online
        at = datetime.now(UTC).isoformat()
        for site in before ^ online:
            state = "online" if site in online else "offline"
            self._answer({"type": "presence", "project": project, "site": site, "state": state, "at": at})

    def _left(self, project: int) -> None:
        if self._feeds.pop(project, None) is not None:
            self._answer({"type": "unsubscribed", "project": project, "reason": "left"})


def ending(refused: Refused) -> Disconnected | None:
    """What ends the connection, of all that a request can be answered with: close codes for HTTP statuses."""
    message = str(refused)
    if refused.status == 401:
        return Disconnected(CloseCode.UNAUTHENTICATED, message)
    if refused.code == ErrorCode.DRAINING:
        return Disconnected(CloseCode.RESTARTING, message)
    if refused.code is None and (refused.status >= 500 or refused.status in (408, 429)):
        return Disconnected(CloseCode.OVERLOADED, message)
    return None


def _lost(lost: Disconnected | OSError) -> Disconnected:
    return lost if isinstance(lost, Disconnected) else Disconnected(1006, str(lost))


_ON_THE_WAY: Mapping[int, ErrorCode] = {
    404: ErrorCode.UNKNOWN_METHOD,
    405: ErrorCode.UNKNOWN_METHOD,
    413: ErrorCode.TOO_LARGE,
}
"""What it means when not the relay, but something before it, refuses a request. An old relay has no `calls/`."""


def _publication(said: Publish, payload: bytes | None) -> bytes:
    fields: dict[str, Any] = {
        "id": said.id,
        "kind": said.kind,
        "to": said.to,
        "run": said.run,
        "transient": said.transient,
        "receipts": said.receipts,
    }
    body = {name: value for name, value in fields.items() if value is not None}
    if payload is not None:
        body["payload"] = base64.b64encode(payload).decode("ascii")
    elif said.data is not msgspec.UNSET:
        body["data"] = said.data
    return codec.encode(body)


def _subscribed(project: int, state: ProjectState) -> dict[str, Any]:
    return {
        "type": "subscribed",
        "project": project,
        "role": state.role,
        "epoch": state.epoch,
        "offset": state.offset,
        "from": state.start,
        "recovered": state.recovered,
        "online": sorted(state.online),
    }


def _date(headers: Mapping[str, str]) -> datetime:
    """The relay's own time, if it says it: a site's clock may be wrong."""
    try:
        return parsedate_to_datetime(headers["Date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)


class RestRung:
    """A `Rung`; `feed` says how events come.

    Opening takes no request yet: whether it gets through is seen by the hello, which opens the feeds too.
    """

    def __init__(
        self,
        name: str,
        feed: Feed,
        url: str,
        credentials: Credentials,
        limits: Limits,
        *,
        ssl: ssl_module.SSLContext | None,
        proxy: Proxy | None,
    ) -> None:
        self.name = name
        self._feed = feed
        self._url = url
        self._credentials = credentials
        self._limits = limits
        self._ssl = ssl
        self._proxy = proxy

    async def open(self) -> Rest:
        api = Api(self._url, self._credentials, self._limits, ssl=self._ssl, proxy=self._proxy)
        return Rest(api, self._feed, self._limits)
