"""Who only looks on: a project's events as a site may see them, past ones and those that come, and nothing else.

A `Site` is a part in the training: what it is shown counts as processed, and moves the cursor from which the site's
controller goes on. An onlooker moves nothing and publishes nothing. It asks over plain HTTP, which gets wherever a
session gets: an event stream, or long polls where streams are held back.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as ssl_module
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from relay import __version__
from relay.client import feeds, frames
from relay.client.api import Api
from relay.client.credentials import Credentials, TokenSource
from relay.client.errors import BY_STATUS, NotConnected, RelayError
from relay.client.feeds import Place
from relay.client.frames import Event, ProjectState, SiteInfo
from relay.client.limits import Limits, backoff
from relay.client.payloads import Payloads
from relay.client.proxies import proxy_for
from relay.client.transport import Disconnected, HeldBack, Refused, api_url, socket_url
from relay.protocol import codec
from relay.protocol.errors import ErrorCode, unknown_project

if TYPE_CHECKING:
    from relay.client.sealed import Identity
    from relay.client.sealed.desk import Desk

log = logging.getLogger(__name__)

PAGE = 200
"""Events of one look into the past."""
AHEAD = 64
"""Events that are held for who is slow to take them."""


class _Standing(msgspec.Struct):
    site: SiteInfo
    projects: dict[int, ProjectState]


class Onlooker:
    """Looks on for one site. Made by `async with`; for one task.

    While it looks, its site counts as online, unless the token's scope is read-only: which is the one to be used here.

    Args:
        url, token, ssl, proxy, limits: as for `relay.client.Site`.
        identity: opens what was sealed for this site. What cannot be opened is shown without its content.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | TokenSource,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | bool = True,
        limits: Limits | None = None,
        identity: Identity | None = None,
    ) -> None:
        socket = socket_url(url)
        if ssl is None and socket.startswith("wss:"):
            ssl = ssl_module.create_default_context()
        self._limits = limits or Limits()
        credentials = Credentials(token, None, None, None, self._limits)
        way_out = proxy_for(socket, proxy)
        self._payloads = Payloads(
            lambda: Api(api_url(socket), credentials, self._limits, ssl=ssl, proxy=way_out),
            self._limits,
            renewable=credentials.renewable,
        )
        self._identity = identity
        self._desk: Desk | None = None
        self._epochs: dict[int, str] = {}
        self.site = SiteInfo(0, "", "")
        self.projects: dict[int, ProjectState] = {}
        """What the site takes part in, as of the beginning."""

    async def __aenter__(self) -> Self:
        """
        Raises:
            SessionEnded: the relay refused it for good (`Unauthenticated`, `Forbidden`, `UnknownSite`).
            NotConnected: the relay was not reached.
            SealError: the identity is another site's.
        """
        try:
            standing = await self._stand({})
            self.site, self.projects = standing.site, standing.projects
            if self._identity is not None:
                await self._unseal(self._identity)
        except (OSError, Disconnected) as error:
            await self._close()
            raise NotConnected(str(error)) from error
        except Refused as refused:
            await self._close()
            raise BY_STATUS.get(refused.status, NotConnected)(str(refused)) from None
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._desk is not None:
            self._desk.close()
        await self._payloads.close()

    async def _unseal(self, identity: Identity) -> None:
        from relay.client.sealed.desk import Desk  # noqa: PLC0415 - its parts are an extra

        self._desk = Desk(
            identity,
            None,
            self.call,
            on_refused=None,
            epoch=lambda project: self._epochs.get(project, ""),
            rewound=frozenset(),
        )
        await self._desk.enter(self.site.uid)

    # --- asking

    async def call(self, method: str, /, **params: Any) -> Any:
        """A method of `call` (protocol): one that changes nothing.

        Raises:
            RelayError: the relay refused it.
            NotConnected: the relay was not reached, or something between refused it.
        """
        try:
            answer = await self._payloads.api.post(f"calls/{method}/", codec.encode(params))
            return msgspec.json.decode(answer.body)["result"]
        except Refused as refused:
            if refused.code is None or refused.status in (401, 503):
                raise BY_STATUS.get(refused.status, NotConnected)(str(refused)) from None
            raise RelayError.of(refused.code, refused.message, refused.details) from None
        except (Disconnected, OSError) as error:
            raise NotConnected(str(error)) from error

    async def _stand(self, projects: dict[str, Any]) -> _Standing:
        """Where the site stands, and where it would go on from such places."""
        said = {"client": f"starfish-py/{__version__}", "projects": projects}
        answer = await self._payloads.api.post("hello/", codec.encode(said))
        try:
            standing = msgspec.json.decode(answer.body, type=_Standing)
        except msgspec.DecodeError:
            raise Refused(404, "the answer is none of a relay's") from None
        self._epochs = {project: state.epoch for project, state in standing.projects.items()}
        return standing

    # --- the past

    async def history(self, project: int, kind: str, *, after: int, through: int) -> AsyncIterator[Event]:
        """The events of a kind in (`after`, `through`], oldest first. Raises as `call`."""
        while after < through:
            page = await self.call("history.read", project=project, after=after, limit=PAGE, kind=kind)
            for shown in page:
                event = frames.event_of(shown)
                after = event.offset or after
                if after > through:
                    return
                yield await self._opened(event)
            if not page:
                return

    async def _opened(self, event: Event) -> Event:
        event = replace(event, origin=self._payloads)
        if self._desk is None:
            return event
        from relay.client.sealed import SealError  # noqa: PLC0415 - its parts are an extra

        try:
            (opened,) = await self._desk.looked_up([event])
        except SealError as refusal:
            log.warning("event %s of project %d is refused: %s", event.offset, event.project, refusal)
            return replace(event, data=None, payload=None, origin=None)
        return opened

    # --- what comes

    async def follow(self, project: int, *, after: int) -> AsyncGenerator[Event, None]:
        """The events after an offset, and those that come, for ever. A lost connection is no error.

        One kind is made here: `resync`, as in `relay.client.Event`: the journal is another one, or no longer reaches
        back to where this was; its `data` is `{"from": offset}`.

        Raises:
            RelayError: `unknown_project`: the site takes no part in it (any more).
            SessionEnded: the token is no longer good.
        """
        ways = [feeds.stream, feeds.poll]
        attempt, place = 0, Place(project=project, epoch=self._epochs.get(project, ""), offset=after)
        while True:
            before = place.offset
            error: Exception = Disconnected(1006, "the feed has ended")
            try:
                resumed = await self._resumed(place)
                if resumed is not None:
                    place = resumed
                    yield _resync(place)
                async for event in self._fed(ways[0], place):
                    yield event
            except Refused as refused:
                error = _passing(refused, is_last=len(ways) == 1)
                if refused.code is None and len(ways) > 1:
                    del ways[0]
            except HeldBack as held:
                error = held
                ways = ways[-1:]
            except (Disconnected, OSError) as lost:
                error = lost
            attempt = 0 if place.offset > before else attempt
            wait_s = backoff(self._limits, attempt, getattr(error, "retry_after_s", None))
            log.info("not connected: %s; trying again in %.1f s", error, wait_s)
            await asyncio.sleep(wait_s)
            attempt += 1

    async def _resumed(self, place: Place) -> Place | None:
        """Where the journal goes on from, if that is elsewhere."""
        standing = await self._stand({str(place.project): {"offset": place.offset, "epoch": place.epoch}})
        state = standing.projects.get(place.project)
        if state is None:
            refusal = unknown_project()
            raise RelayError(refusal.code, refusal.message)
        if state.recovered and (state.epoch, state.start) == (place.epoch, place.offset):
            return None
        return Place(project=place.project, epoch=state.epoch, offset=state.start)

    async def _fed(self, feed: feeds.Feed, place: Place) -> AsyncIterator[Event]:
        """What a feed puts, until it ends: by what it raises."""
        tray = _Tray()
        feeding = asyncio.ensure_future(feed(self._payloads.api, place, tray.put, self._limits))
        feeding.add_done_callback(lambda _: tray.bell.set())
        try:
            while True:
                while tray.frames:  # what was put is shown before what has ended the feed is told
                    shown = frames.decode(tray.take())
                    if isinstance(shown, Event):
                        yield await self._opened(shown)
                if feeding.done():
                    await feeding
                    return
                tray.bell.clear()
                await tray.bell.wait()
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


class _Tray:
    """Frames between a feed and who takes them, at most `AHEAD`: then the feed waits."""

    def __init__(self) -> None:
        self.frames: deque[str | bytes] = deque()
        self.bell = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, frame: str | bytes) -> None:
        while len(self.frames) >= AHEAD:
            self._room.clear()
            await self._room.wait()
        self.frames.append(frame)
        self.bell.set()

    def take(self) -> str | bytes:
        self._room.set()
        return self.frames.popleft()


def _resync(place: Place) -> Event:
    data = {"from": place.offset}
    return Event(project=place.project, kind="resync", id=str(uuid.uuid4()), at=datetime.now(UTC), data=data)


def _passing(refused: Refused, *, is_last: bool) -> Exception:
    """A refusal after which it is tried again. Raises what it means, if that does not pass."""
    if refused.code == ErrorCode.UNKNOWN_PROJECT:
        raise RelayError.of(refused.code, refused.message, refused.details) from None
    if refused.status in BY_STATUS and (refused.code is not None or is_last):
        raise BY_STATUS[refused.status](str(refused)) from None
    return refused


async def merged(*histories: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """Several histories as one, in the order of the journal."""
    heads = {history: event for history in histories if (event := await anext(history, None)) is not None}
    while heads:
        history, event = min(heads.items(), key=lambda item: item[1].offset or 0)
        yield event
        following = await anext(history, None)
        if following is None:
            del heads[history]
        else:
            heads[history] = following
