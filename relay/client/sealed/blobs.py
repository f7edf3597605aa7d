"""Payloads that are too long for an event: sealed into a file before they are uploaded, opened when all is here.

What is uploaded is the body of an envelope alone; its head is in the event, with the reference to the blob, and the
signature in it is over the blob's hash. Nothing of a blob is shown before all of it has come and was found to be right:
`save` and `open` need room on disk for the sealed and the open form.
"""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from relay.client.errors import Corrupted, TooLong
from relay.client.frames import Event, Origin, PayloadStream
from relay.client.notes import Note
from relay.client.offloop import off_loop
from relay.client.payloads import Payloads
from relay.client.sealed import envelope
from relay.client.sealed.envelope import Envelope, Header
from relay.client.sealed.errors import Altered, SealError
from relay.client.sealed.identity import Identity, PublicKeys
from relay.client.sources import Source, opened
from relay.client.updates import Update
from relay.client.uploads import Wish

PIECE_BYTES = 1024 * 1024
ROOM = 1.001
"""A sealed body is longer than what is in it: 16 bytes for each 64 KiB, and"""
ROOM_BYTES = 1024 * 1024
"""a head, with a line for each addressee."""


async def upload(
    update: Update,
    source: Source,
    payloads: Payloads,
    note: Note,
    header: Header,
    identity: Identity,
    recipients: list[PublicKeys],
) -> tuple[bytes, dict[str, object]]:
    """Seal a source and upload it. Returns the head, and the reference to the blob.

    What an earlier process has sealed for the same addressees, and has not brought to the relay, is gone on with.

    Raises: as `Payloads.upload` does.
    """
    for_whom = sorted(recipient.id for recipient in recipients)
    async with _place(update, note) as body:
        sealed = await off_loop(_earlier, note, header, for_whom, body)
        if sealed is None:
            await off_loop(note.begin_anew)
            drawn = _Drawn(source, asyncio.get_running_loop())
            head, sha256 = await _drawing(drawn, lambda: _seal(body, drawn, header, identity, recipients))
            sealed = _Sealed(head=head, sha256=sha256, for_whom=for_whom)
            await off_loop(note.keep, "sealed", msgspec.to_builtins(sealed))
        wish = Wish(
            project=header.project, run=header.run, filename=update.filename or "", media_type=update.media_type
        )
        async with opened(body) as ready:
            content = await payloads.measure(ready)
            if content.sha256 != sealed.sha256:
                raise Corrupted("the sealed file was written to meanwhile")
            blob = await payloads.upload(ready, content, wish, note, update.on_progress)
        return sealed.head, {"id": blob.id, "size": blob.size, "sha256": blob.sha256}


class _Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """What a note keeps of a sealed file: its head, the SHA-256 of its body, and the keys that can open it."""

    head: bytes
    sha256: str
    for_whom: list[str]


def _earlier(note: Note, header: Header, for_whom: list[str], body: Path) -> _Sealed | None:
    """What was sealed as this is to be, if it is there."""
    try:
        sealed = msgspec.convert(note.kept("sealed"), _Sealed)
        earlier = envelope.read(sealed.head).header
    except (msgspec.ValidationError, Altered):
        return None
    same = msgspec.structs.replace(earlier, at=header.at) == header and sealed.for_whom == for_whom
    return sealed if same and body.exists() else None


@asynccontextmanager
async def _place(update: Update, note: Note) -> AsyncIterator[Path]:
    """Where the body is to lie: beside the note, as long as that; or for as long as the block."""
    if note.companion is not None:
        yield note.companion
        return
    with tempfile.TemporaryDirectory(prefix="starfish-sealed-", dir=update.state) as home:
        yield Path(home) / "body"


def _seal(
    body: Path, source: _Drawn, header: Header, identity: Identity, recipients: list[PublicKeys]
) -> tuple[bytes, str]:
    with os.fdopen(os.open(body, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
        sealed = envelope.seal_file(header, source, target, identity, recipients)
        target.flush()
        os.fsync(target.fileno())
        return sealed


async def _drawing(drawn: _Drawn, work: Callable[[], tuple[bytes, str]]) -> tuple[bytes, str]:
    """Do the work in a thread, which asks this loop for what it reads; it ends soon if this is cancelled."""
    task = asyncio.create_task(asyncio.to_thread(work), name="relay-thread")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        drawn.stopped = True
        await asyncio.wait([task])
        task.exception()  # seen: nobody asks for it any more
        raise


class _Drawn:
    """A source, read from a thread."""

    def __init__(self, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        self.stopped = False
        self._source = source
        self._loop = loop
        self._at = 0
        self._waiting = io.BytesIO()

    def read(self, size: int = -1, /) -> bytes:
        piece = self._waiting.read(size)
        if piece or self._at >= self._source.size:
            return piece
        length = min(PIECE_BYTES, self._source.size - self._at)
        if self.stopped:
            raise InterruptedError("the upload was cancelled")
        self._waiting = io.BytesIO(
            asyncio.run_coroutine_threadsafe(self._source.read(self._at, length), self._loop).result()
        )
        self._at += length
        return self._waiting.read(size)


@dataclass(frozen=True, slots=True)
class SealedBlob(Origin):
    """Where the payload of a sealed event is fetched that travels as a blob: see `Event.open` and `Event.save`."""

    _fetched: Origin
    _sealed: Envelope
    _identity: Identity
    _signer: PublicKeys

    def open(
        self, event: Event, *, max_bytes: int | None, on_progress: Callable[[int, int], None] | None
    ) -> AbstractAsyncContextManager[PayloadStream]:
        return self._open(event, max_bytes, on_progress)

    @asynccontextmanager
    async def _open(
        self, event: Event, max_bytes: int | None, on_progress: Callable[[int, int], None] | None
    ) -> AsyncIterator[PayloadStream]:
        with tempfile.TemporaryDirectory(prefix="starfish-sealed-") as home:
            path = await self.save(event, Path(home) / "open", max_bytes=max_bytes, on_progress=on_progress)
            async with opened(path) as source:
                yield _Pieces(source)

    async def save(
        self,
        event: Event,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> Path:
        place = Path(path)
        body = place.with_name(f".{place.name}.{event.id}.sealed")
        room = None if max_bytes is None else int(max_bytes * ROOM) + ROOM_BYTES
        await self._fetched.save(event, body, max_bytes=room, on_progress=on_progress)
        await off_loop(self._opened, body, place, max_bytes)
        return place

    def _opened(self, body: Path, place: Path, max_bytes: int | None) -> None:
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        try:
            with os.fdopen(handle, "wb") as target, body.open("rb") as source:
                envelope.open_file(self._sealed, source, target, self._identity, self._signer)
                if max_bytes is not None and target.tell() > max_bytes:
                    raise TooLong(f"at most {max_bytes} bytes are taken, this payload has {target.tell()}")
                target.flush()
                os.fsync(target.fileno())
            Path(temporary).replace(place)
            body.unlink()
        except BaseException as error:
            Path(temporary).unlink(missing_ok=True)
            if isinstance(error, SealError | TooLong):
                body.unlink(missing_ok=True)
            raise


@dataclass(frozen=True, slots=True)
class SealedPayload(Origin):
    """The same for an event whose sealed payload was too long for where it was read from."""

    _fetched: Origin
    _event: Event
    _open_event: Callable[[Event], Awaitable[Event]]

    def open(
        self, event: Event, *, max_bytes: int | None, on_progress: Callable[[int, int], None] | None
    ) -> AbstractAsyncContextManager[PayloadStream]:
        return self._open(max_bytes, on_progress)

    @asynccontextmanager
    async def _open(
        self, max_bytes: int | None, on_progress: Callable[[int, int], None] | None
    ) -> AsyncIterator[PayloadStream]:
        clear = await self._whole(max_bytes, on_progress)
        async with self._fetched.open(clear, max_bytes=max_bytes, on_progress=None) as stream:
            yield stream

    async def save(
        self,
        event: Event,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> Path:
        clear = await self._whole(max_bytes, on_progress)
        return await self._fetched.save(clear, path, max_bytes=max_bytes, on_progress=None)

    async def _whole(self, max_bytes: int | None, on_progress: Callable[[int, int], None] | None) -> Event:
        """In memory: no longer than a relay takes in one frame."""
        room = None if max_bytes is None else int(max_bytes * ROOM) + ROOM_BYTES
        async with self._fetched.open(self._event, max_bytes=room, on_progress=on_progress) as stream:
            payload = await stream.read()
        return await self._open_event(replace(self._event, payload=payload, size=None))


class _Pieces:
    """A file as a `PayloadStream`."""

    def __init__(self, source: Source) -> None:
        self.size: int | None = source.size
        self._source = source
        self._at = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        length = min(PIECE_BYTES, self._source.size - self._at)
        if not length:
            raise StopAsyncIteration
        piece = await self._source.read(self._at, length)
        self._at += length
        return piece

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])
