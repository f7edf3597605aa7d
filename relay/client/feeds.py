"""Events over plain HTTP: a project's journal from a place in it, as frames, until something ends it.

    stream    server-sent events: as quick as a WebSocket, transient ones too; many proxies hold them back, though
    poll      long polls: one request after the other; no transient events

Both tell the session of a journal that is another one than before, or reaches no longer back to the place, by ending
the connection: the hello of the next one learns what has become of it.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec

from relay.client.api import Api
from relay.client.limits import Limits
from relay.client.transport import Disconnected, Refused
from relay.protocol import codec

SOON_S = 1.0
"""An answer with nothing in it that comes within this was cut short: the next request waits as long."""
POLL_LIMIT = 100


@dataclass(kw_only=True, slots=True)
class Place:
    """A place in a project's journal: what comes after `offset` has not been shown yet."""

    project: int
    epoch: str
    offset: int
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """The way is open; or it will not be."""

    @property
    def path(self) -> str:
        return f"projects/{self.project}/events/"

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises `Disconnected`: the answer does not go on from here."""
        epoch, start = headers.get("X-Starfish-Epoch"), headers.get("X-Starfish-From")
        if (epoch, start) != (self.epoch, str(self.offset)):
            raise Disconnected(1006, f"the journal goes on from {epoch}:{start}, not {self.epoch}:{self.offset}")


Put = Callable[[str | bytes], Awaitable[None]]
Feed = Callable[[Api, Place, Put, Limits], Awaitable[None]]
"""Puts events from a place on, and ends only by an exception: `Refused`, `Disconnected`, `Unreachable`."""


async def stream(api: Api, place: Place, put: Put, limits: Limits) -> None:
    """By server-sent events. A stream that is ended by the other side, as proxies do at times, is opened again."""
    while True:
        began = time.monotonic()
        headers = {"Accept": "text/event-stream", "Last-Event-ID": f"{place.epoch}:{place.offset}"}
        async with api.stream(place.path, headers) as (answer, body):
            if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                raise Refused(answer.status, "the answer is not an event stream")
            place.check(answer.headers)
            async for mark, message in sent_events(body, place.ready, limits.frame_bytes):
                await put(await _as_frame(api, place, message))
                if mark is not None:
                    place.offset = mark
        if time.monotonic() - began < SOON_S:
            raise Disconnected(1006, "the event stream was ended at once")


async def sent_events(
    body: AsyncIterator[bytes], opened: asyncio.Event, limit: int
) -> AsyncIterator[tuple[int | None, bytes]]:
    """The events of a stream (WHATWG HTML, 9.2.6): the offset in the id, if there is one, and the data.

    Raises:
        Disconnected: an event is longer than `limit` bytes.
    """
    waiting = bytearray()
    searched = 0
    async for piece in body:
        opened.set()
        waiting += piece
        while (end := waiting.find(b"\n\n", searched)) >= 0:
            event = bytes(waiting[:end])
            del waiting[: end + 2]
            searched = 0
            found = _sent_event(event)
            if found is not None:
                yield found
        searched = max(0, len(waiting) - 1)
        if len(waiting) > limit:
            raise Disconnected(1009, f"an event of more than {limit} bytes")


def _sent_event(event: bytes) -> tuple[int | None, bytes] | None:
    """None: a comment, or nothing that this client knows."""
    mark: int | None = None
    data = []
    for line in event.split(b"\n"):
        name, _, value = line.rstrip(b"\r").partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"id":
            offset = value.rpartition(b":")[2]
            mark = int(offset) if offset.isdigit() and len(offset) < 20 else None
    return (mark, b"\n".join(data)) if data else None


class _Page(msgspec.Struct):
    events: list[msgspec.Raw]


async def poll(api: Api, place: Place, put: Put, limits: Limits) -> None:
    """By long polls."""
    place.ready.set()  # the hello has come through, and no more is needed
    wait_s = max(1, min(60, round(limits.poll_s)))
    while True:
        began = time.monotonic()
        query = f"?after={place.offset}&epoch={quote(place.epoch)}&limit={POLL_LIMIT}&wait={wait_s}"
        answer = await api.get(place.path + query, timeout_s=wait_s + limits.ping_s)
        place.check(answer.headers)
        try:
            page = msgspec.json.decode(answer.body, type=_Page)
            offset = int(answer.headers["X-Starfish-Offset"])
        except (msgspec.DecodeError, KeyError, ValueError, RecursionError):
            raise Refused(answer.status, "the answer is none of a relay's") from None
        for event in page.events:
            await put(await _as_frame(api, place, bytes(event)))
        place.offset = max(place.offset, offset)
        if not page.events and time.monotonic() - began < min(SOON_S, wait_s / 2):
            await asyncio.sleep(SOON_S)


class _Shown(msgspec.Struct):
    offset: int = 0
    payload: str | msgspec.UnsetType | None = msgspec.UNSET


async def _as_frame(api: Api, place: Place, message: bytes) -> str | bytes:
    """An event as a WebSocket would carry it: text, or binary if it has a payload."""
    try:
        shown = msgspec.json.decode(message, type=_Shown)
        if shown.payload is msgspec.UNSET:
            return message.decode()
        if shown.payload is None:
            payload = (await api.get(f"{place.path}{shown.offset}/payload/")).body
        else:
            payload = base64.b64decode(shown.payload, validate=True)
        header = msgspec.json.decode(message)
        del header["payload"]
        return codec.encode_binary(header, payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Disconnected(1006, f"an event cannot be read: {error}") from error
