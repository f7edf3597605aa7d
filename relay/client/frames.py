"""What the relay sends, read into records (protocol, section 5), and what the application is shown of it."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from relay.client.errors import ProtocolViolation
from relay.protocol import codec


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event of a project, in the order of its journal.

    `sender` is the uid of the site that published it, None for the relay's own events. `offset` is None for a transient
    event. What was published is in `data` (JSON) or in `payload` (bytes). A payload that was too long for where it was
    read from (`Site.history`) is None there, and `size` says how many bytes it has. Of an event that was sealed (see
    `Site`, `identity`), `round` and `to`, the uids that it was sealed for, are as its sender has signed them.

    One kind is made by this client: `resync`. The journal no longer reaches back to where this site was, or it is
    another one (a restored backup): events may be missing before this point, others may come again. Its `data` is
    `{"from": offset, "runs": [run, …]}`: the events that follow come after that offset, and the runs are the project's
    (a participant's own) as they are now, read anew by this client. What is known of runs from before is void.
    """

    project: int
    kind: str
    id: str
    at: datetime
    offset: int | None = None
    sender: str | None = None
    run: int | None = None
    batch: int | None = None
    data: Any = None
    payload: bytes | None = field(default=None, repr=False)
    size: int | None = None
    round: int | None = None
    to: tuple[str, ...] | None = None
    origin: Origin | None = field(default=None, repr=False, compare=False)
    """The site that was shown it: of use to `open` and `save`."""

    def open(
        self, *, max_bytes: int | None = None, on_progress: Callable[[int, int], None] | None = None
    ) -> AbstractAsyncContextManager[PayloadStream]:
        """The payload as a stream, wherever it is: in the event, in the journal, or a blob that the data refers to.

            async with event.open() as stream:
                async for piece in stream:
                    …

        It goes on where it was after a lost connection, until it is cancelled; a blob that is still being uploaded is
        read along. The last byte is shown only if all of them are right, so what came before is to be taken back if
        this raises `Corrupted`. `save` fetches it again by itself.

        Args:
            max_bytes: longer ones are refused.
            on_progress: is told how many bytes of how many are there. It must not wait.

        Raises:
            ValueError: the event has no payload; or it was not shown by a site.
            RelayError: the relay does not show it (`unknown_blob`).
            Corrupted: other bytes came than were sent.
            TooLong: it has more bytes than are taken.
            Closed: the site's `async with` block was left.
        """
        return self._site.open(self, max_bytes=max_bytes, on_progress=on_progress)

    async def save(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Path:
        """Save the payload to a file, which appears there (or takes the place of another) once it is whole, right and
        on disk. Until then it has another name beside it, from which a later call goes on, after a cancellation or in
        another process. What comes damaged is fetched again, `Limits.damage_tries` times in all. Returns the path.

        Args and what is raised: as for `open`; and
            OSError: the file cannot be written.
            InUse: it is being saved already.
        """
        return await self._site.save(self, path, max_bytes=max_bytes, on_progress=on_progress)

    @property
    def _site(self) -> Origin:
        if self.origin is None:
            raise ValueError("this event was not shown by a site")
        return self.origin


class PayloadStream(Protocol):
    """A payload's bytes, as they come: `async for piece in stream`."""

    @property
    def size(self) -> int | None:
        """In all; None as long as the relay does not know it."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def __anext__(self) -> bytes: ...
    async def read(self) -> bytes:
        """All that has not been read yet, in memory."""
        ...


class Origin(Protocol):
    """Where an event's payload is fetched."""

    def open(
        self, event: Event, *, max_bytes: int | None, on_progress: Callable[[int, int], None] | None
    ) -> AbstractAsyncContextManager[PayloadStream]: ...

    async def save(
        self,
        event: Event,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> Path: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A publish that was stored. `duplicate`: it had been there before, by an earlier attempt with the same id.

    `offset` is None for a transient event.
    """

    offset: int | None
    duplicate: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Membership:
    """A project that this site takes part in, as last told. `online` are the uids of the others that are there."""

    project: int
    role: str
    epoch: str
    online: frozenset[str]


class EventFrame(msgspec.Struct, frozen=True, tag_field="type", tag="event"):
    project: int
    id: str
    kind: str
    at: datetime
    sender: str | None = msgspec.field(default=None, name="from")
    offset: int | None = None
    run: int | None = None
    batch: int | None = None
    data: Any = None
    payload: str | None = None
    size: int | None = None

    def event(self, payload: bytes | None = None) -> Event:
        return Event(
            project=self.project,
            kind=self.kind,
            id=self.id,
            at=self.at,
            offset=self.offset,
            sender=self.sender,
            run=self.run,
            batch=self.batch,
            data=self.data,
            payload=payload,
            size=self.size,
        )


class SiteInfo(msgspec.Struct, frozen=True):
    id: int
    uid: str
    name: str


class FrameLimits(msgspec.Struct, frozen=True):
    """Bytes: of a text frame, and of a binary frame's payload."""

    frame: int = 1024 * 1024
    inline: int = 16 * 1024 * 1024


class ProjectState(msgspec.Struct, frozen=True):
    role: str
    epoch: str
    offset: int
    start: int = msgspec.field(name="from")
    recovered: bool
    online: frozenset[str] = frozenset()


class Welcome(msgspec.Struct, frozen=True, tag_field="type", tag="welcome"):
    session: str
    site: SiteInfo
    projects: dict[int, ProjectState]
    limits: FrameLimits = FrameLimits()
    ref: int | str | None = None
    expires_at: datetime | None = None


class Subscribed(msgspec.Struct, frozen=True, tag_field="type", tag="subscribed"):
    project: int
    role: str
    epoch: str
    offset: int
    start: int = msgspec.field(name="from")
    recovered: bool
    online: frozenset[str] = frozenset()

    @property
    def state(self) -> ProjectState:
        return ProjectState(self.role, self.epoch, self.offset, self.start, self.recovered, self.online)


class Unsubscribed(msgspec.Struct, frozen=True, tag_field="type", tag="unsubscribed"):
    project: int
    reason: str = ""


class Ok(msgspec.Struct, frozen=True, tag_field="type", tag="ok"):
    ref: int | str | None = None
    offset: int | None = None
    duplicate: bool = False
    result: Any = None
    expires_at: datetime | None = None


class Error(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    code: str
    message: str = ""
    ref: int | str | None = None
    details: dict[str, Any] | None = None


class Presence(msgspec.Struct, frozen=True, tag_field="type", tag="presence"):
    """A site came or went. `state` is `online` or `offline`."""

    project: int
    site: str
    state: str
    at: datetime | None = None


class Receipt(msgspec.Struct, frozen=True, tag_field="type", tag="receipt"):
    """A site has acknowledged an event that was published with `receipts=True`."""

    project: int
    offset: int
    site: str


class Goodbye(msgspec.Struct, frozen=True, tag_field="type", tag="goodbye"):
    code: str
    retry_after: float | None = None


ServerFrame = Welcome | EventFrame | Ok | Error | Presence | Receipt | Subscribed | Unsubscribed | Goodbye
Shown = Event | Welcome | Ok | Error | Presence | Receipt | Subscribed | Unsubscribed | Goodbye

_decoder: msgspec.json.Decoder[ServerFrame] = msgspec.json.Decoder(ServerFrame)
_KNOWN_TYPES = frozenset(str(frame.__struct_config__.tag) for frame in ServerFrame.__args__)


class _Tag(msgspec.Struct):
    type: str


def decode(frame: str | bytes) -> Shown | None:
    """Read a frame of the relay. None: a type that a later version of the protocol may have; it is to be ignored.

    Raises:
        ProtocolViolation: it cannot be read. To pass over it could be to lose an event.
    """
    try:
        if isinstance(frame, str):
            decoded = _decoder.decode(frame)
            return decoded.event() if isinstance(decoded, EventFrame) else decoded
        header, payload = codec.split_binary(frame)
        decoded = _decoder.decode(header)
        return decoded.event(payload) if isinstance(decoded, EventFrame) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, codec.FrameError) as error:
        if isinstance(frame, str) and _type_of(frame) not in _KNOWN_TYPES:
            return None
        raise ProtocolViolation(f"the relay sent a frame that cannot be read: {error}") from error


def _type_of(frame: str) -> str | None:
    """The frame's `type`; one of the known ones if the frame is no object with a type at all."""
    try:
        return msgspec.json.decode(frame, type=_Tag).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "event"


def event_of(found: Any) -> Event:
    """An event as `history.read` shows it, its payload in base64.

    Raises:
        ProtocolViolation: it is not an event.
    """
    try:
        frame = msgspec.convert({"type": "event"} | found, EventFrame)
        return frame.event(None if frame.payload is None else base64.b64decode(frame.payload, validate=True))
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise ProtocolViolation(f"the relay sent an event that cannot be read: {error}") from error
