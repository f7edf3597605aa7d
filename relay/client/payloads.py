"""Payloads of any length: into an event if they are short, else over HTTP as blobs; and back.

What carries the session's frames does not matter here: bulk goes over requests of its own, with the same credentials
and through the same proxy.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from relay.client.api import Api
from relay.client.downloads import Download, Reference, inline
from relay.client.errors import Closed, Corrupted, RelayError, TooLong
from relay.client.frames import Event, PayloadStream
from relay.client.limits import Limits
from relay.client.notes import Note
from relay.client.offloop import off_loop
from relay.client.partfile import PartFile
from relay.client.retries import Retries
from relay.client.sources import Content, Source, measure
from relay.client.uploads import OnProgress, Progress, Upload, Wish

log = logging.getLogger(__name__)

PIECE_BYTES = 1024 * 1024
"""As much is gathered before it is written to a file."""


class _Stream(AsyncIterator[bytes]):
    """A `PayloadStream`."""

    def __init__(self, pieces: AsyncIterator[bytes], size: Callable[[], int | None]) -> None:
        self._pieces = pieces
        self._size = size

    @property
    def size(self) -> int | None:
        return self._size()

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])


class Payloads:
    """For one site. Nothing is opened before it is needed.

    Args:
        new_api: makes a client of the relay's API; of this object's own, to be closed with it.
    """

    def __init__(self, new_api: Callable[[], Api], limits: Limits, *, renewable: bool) -> None:
        self._new_api = new_api
        self._limits = limits
        self._renewable = renewable
        self._api: Api | None = None
        self._over = asyncio.Event()

    async def close(self) -> None:
        """The site is left: what is under way here ends with `Closed`."""
        self._over.set()
        if self._api is not None:
            await self._api.close()
            self._api = None

    def retries(self) -> Retries:
        return Retries(self._limits, self._over, renewable=self._renewable)

    @property
    def api(self) -> Api:
        """Raises `Closed`."""
        if self._over.is_set():
            raise Closed("the site's `async with` block has been left")
        if self._api is None:
            self._api = self._new_api()
        return self._api

    # --- out

    async def measure(self, source: Source) -> Content:
        limits = self._limits
        return await measure(source, limits.part_bytes if limits.parallel_parts > 1 else source.size + 1)

    async def upload(
        self, source: Source, content: Content, wish: Wish, note: Note, on_progress: OnProgress | None
    ) -> Reference:
        """Have the relay have it. Raises as `Upload.run` does."""
        upload = Upload(
            self.api,
            source,
            content,
            wish,
            note,
            limits=self._limits,
            new_retries=self.retries,
            on_progress=on_progress,
        )
        return Reference(id=await upload.run(), size=content.size, sha256=content.sha256)

    # --- back

    @asynccontextmanager
    async def open(
        self, event: Event, *, max_bytes: int | None = None, on_progress: OnProgress | None = None
    ) -> AsyncIterator[PayloadStream]:
        """See `Event.open`."""
        if event.payload is not None:
            _require_room(event.payload, max_bytes)
            size = len(event.payload)
            yield _Stream(inline(event.payload, PIECE_BYTES), lambda: size)
            return
        download = self._download(event, max_bytes)
        async with aclosing(download.pieces(0, hashlib.sha256())) as pieces:
            yield _Stream(_told(pieces, download, on_progress), lambda: download.size)

    async def save(
        self,
        event: Event,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Path:
        """See `Event.save`."""
        place = Path(path)
        reference = Reference.of(event.data)
        file = PartFile(place, f"{event.project}/{event.id}" if reference is None else reference.id)
        await off_loop(file.open)
        try:
            await self._saved(event, file, max_bytes, on_progress)
            await off_loop(file.commit)
        except (RelayError, Corrupted, TooLong, ValueError):
            await off_loop(file.remove)
            raise
        finally:
            await off_loop(file.close)
        return place

    async def _saved(self, event: Event, file: PartFile, max_bytes: int | None, on_progress: OnProgress | None) -> None:
        if event.payload is not None:
            _require_room(event.payload, max_bytes)
            await off_loop(file.restart)
            await off_loop(file.append, event.payload)
            return
        damaged: Corrupted | None = None
        for _ in range(self._limits.damage_tries):
            try:
                download = self._download(event, max_bytes)
                await self._append(download, file, on_progress)
                return
            except Corrupted as error:
                log.warning("a download is damaged: %s; fetching it again", error)
                damaged = error
                await off_loop(file.restart)
        assert damaged is not None
        raise damaged

    async def _append(self, download: Download, file: PartFile, on_progress: OnProgress | None) -> None:
        if download.size is not None and file.size > download.size:
            await off_loop(file.restart)
        at, waiting = file.size, bytearray()
        async with aclosing(download.pieces(at, file.digest.copy())) as pieces:
            try:
                async for piece in pieces:
                    waiting += piece
                    if len(waiting) >= PIECE_BYTES:
                        await off_loop(file.append, bytes(waiting))
                        waiting.clear()
                        _tell(on_progress, file.size, download.size)
            finally:  # what has come is kept, for who goes on with it
                await off_loop(file.append, bytes(waiting))
        _tell(on_progress, file.size, download.size)

    def _download(self, event: Event, max_bytes: int | None) -> Download:
        reference = Reference.of(event.data)
        if reference is not None:
            path, size, sha256 = f"blobs/{reference.id}", reference.size, reference.sha256
        elif event.size is not None and event.offset is not None:
            path, size, sha256 = f"projects/{event.project}/events/{event.offset}/payload/", event.size, None
        else:
            raise ValueError(f"this event ({event.kind}) has no payload and refers to no blob")
        return Download(self.api, path, self.retries(), size=size, sha256=sha256, max_bytes=max_bytes)


async def _told(
    pieces: AsyncGenerator[bytes, None], download: Download, on_progress: OnProgress | None
) -> AsyncGenerator[bytes, None]:
    at = 0
    async for piece in pieces:
        yield piece
        at += len(piece)
        _tell(on_progress, at, download.size)


def _tell(on_progress: OnProgress | None, done: int, total: int | None) -> None:
    if total is not None:
        Progress(total, on_progress).at(0, done)


def _require_room(payload: bytes, max_bytes: int | None) -> None:
    if max_bytes is not None and len(payload) > max_bytes:
        raise TooLong(f"at most {max_bytes} bytes are taken, this payload has {len(payload)}")
