"""How the relay is, for its operators: once as JSON, or as a stream of what changes.

    GET /starfish/api/v1/status/      `relay.core.overview`; with `Accept: text/event-stream` a stream (SSE)

On the stream each message is the whole, sent when something has changed, at most each second; in between an event
`still` says that nothing has. A viewer that does not keep up misses what was in between, never the newest. While nobody
looks, nothing is looked up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from relay.core.model import JsonObject
from relay.core.node import Node
from relay.core.overview import Overview
from relay.core.ports import StorageUnavailable
from relay.protocol import codec
from relay.protocol.errors import ErrorCode, ReplyError
from relay.web.auth import Authenticator
from relay.web.events import API, Streamed
from relay.web.operators import admit, asking_for_login, require_own_page
from relay.web.replies import Json

if TYPE_CHECKING:
    from relay.config import Settings

VIEWERS = 32
PERIOD_S = 1.0
STILL_S = 5.0
"""The longest that a stream is silent. The login is looked at again then."""

_ALWAYS_MOVING = frozenset({"at", "uptime_s", "events"})


class StatusDoor:
    """See the module."""

    def __init__(self, node: Node, overview: Overview, auth: Authenticator, settings: Settings) -> None:
        self._node = node
        self._overview = overview
        self._auth = auth
        self._settings = settings
        self._viewers: set[asyncio.Event] = set()
        self._looking: asyncio.Task[None] | None = None
        self._newest = b""
        self._essence: JsonObject = {}
        self._stopped = False

    def routes(self) -> list[BaseRoute]:
        return [Route(f"{API}/status/", asking_for_login(self.read), methods=["GET"])]

    def stop(self) -> None:
        """The relay is about to end: the streams do."""
        self._stopped = True
        for bell in self._viewers:
            bell.set()

    async def read(self, request: Request) -> Response:
        require_own_page(self._settings, request)
        await admit(self._auth, request)
        if "text/event-stream" not in request.headers.get("accept", ""):
            return Json(await self._overview.look(), headers={"Cache-Control": "no-store"})
        if self._stopped:
            raise ReplyError(ErrorCode.DRAINING, "the relay restarts; try again", {"retry_after": 1})
        if len(self._viewers) >= VIEWERS:
            raise ReplyError(ErrorCode.TOO_MANY_SESSIONS, f"{VIEWERS} look already", {"limit": VIEWERS})
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Streamed(self._stream(request), self._settings.outbox_patience_s, headers=headers)

    # --- the stream

    async def _stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        with self._viewing() as bell:
            yield b"retry: 2000\n\n"
            while not self._stopped:
                bell.clear()
                if self._newest:
                    yield self._newest
                while not await _rings(bell, STILL_S):
                    if not await self._is_still_welcome(request):
                        return
                    yield b"event: still\ndata: {}\n\n"

    @contextmanager
    def _viewing(self) -> Iterator[asyncio.Event]:
        bell = asyncio.Event()
        self._viewers.add(bell)
        if self._looking is None:
            self._looking = self._node.spawn(self._look_on(), "status")
        try:
            yield bell
        finally:
            self._viewers.discard(bell)

    async def _is_still_welcome(self, request: Request) -> bool:
        try:
            await admit(self._auth, request)
        except StorageUnavailable:
            return True  # that it does not answer is what there is to see
        except ReplyError:
            return False
        return True

    async def _look_on(self) -> None:
        """Look each second, as long as there are viewers, and wake them when there is something new."""
        try:
            while self._viewers and not self._stopped:
                seen = await self._overview.look()
                if (essence := _essence(seen)) != self._essence:
                    self._essence, self._newest = essence, b"data: " + codec.encode(seen) + b"\n\n"
                    for bell in self._viewers:
                        bell.set()
                await asyncio.sleep(PERIOD_S)
        finally:
            self._looking = None
            self._essence, self._newest = {}, b""


def _essence(seen: JsonObject) -> JsonObject:
    """What counts as a change: not that time goes by."""
    database = {name: value for name, value in seen["database"].items() if name != "latency_ms"}
    return {name: value for name, value in seen.items() if name not in _ALWAYS_MOVING} | {"database": database}


async def _rings(bell: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await bell.wait()
    except TimeoutError:
        return False
    return True
