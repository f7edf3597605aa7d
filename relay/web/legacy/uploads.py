"""Multipart uploads of files, streamed into the file store: 256 KiB of a request are in memory, whatever its size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from relay.core.file_ports import FileStore, Incoming
from relay.core.files import LISTS, Arrived
from relay.web.legacy.answers import Refused, bad
from relay.web.legacy.bodies import chunks, too_large
from relay.web.legacy.multipart import BadForm, Head, Multipart

PIECE_BYTES = 256 * 1024
FIELD_BYTES = 256
MAX_PARTS = 2000


@dataclass(kw_only=True, slots=True)
class Upload:
    """What a request has brought: its text fields, and its files, none of which is kept yet."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[Arrived] = field(default_factory=list)


@asynccontextmanager
async def received(
    request: Request, store: FileStore, names: tuple[str, ...], *, max_bytes: int, max_files: int, stall_s: float
) -> AsyncIterator[Upload]:
    """The upload of a request, whole. What of it was not kept by the end of the block is gone after it.

    Args:
        names: the text fields that are wanted; others are skipped.

    Raises:
        Refused: 400 for a body that is no multipart form or breaks off, 408, 413.
        StorageFull, StorageUnavailable: the disk does not take it.
    """
    if int(request.headers.get("content-length") or 0) > max_bytes:
        raise too_large(max_bytes)
    try:
        form = Multipart(request.headers.get("content-type", ""), max_parts=MAX_PARTS)
    except BadForm as error:
        raise _unreadable(error) from None
    parts = _Parts(form, store, names, max_files)
    try:
        await _feed(chunks(request, stall_s), parts, max_bytes)
        if not form.is_whole:
            raise bad({"detail": "Multipart form parse error - the body breaks off"})
        yield parts.upload
    finally:
        for incoming in parts.begun:
            incoming.discard()


async def _feed(body: AsyncIterator[bytes], parts: _Parts, max_bytes: int) -> None:
    """Parsing writes to the disk and hashes: it is done in a thread, a piece at a time."""
    waiting: list[bytes] = []
    size = total = 0
    async for chunk in body:
        waiting.append(chunk)
        size += len(chunk)
        total += len(chunk)
        if total > max_bytes:
            raise too_large(max_bytes)
        if size >= PIECE_BYTES:
            await asyncio.to_thread(parts.take, b"".join(waiting))
            waiting.clear()
            size = 0
    if waiting:
        await asyncio.to_thread(parts.take, b"".join(waiting))


def _unreadable(error: BadForm) -> Refused:
    return bad({"detail": f"Multipart form parse error - {error}"})


class _Parts:
    """What the parts of a form are made into, as they come. A part that is neither wanted nor a file is skipped."""

    def __init__(self, form: Multipart, store: FileStore, names: tuple[str, ...], max_files: int) -> None:
        self.upload = Upload()
        self.begun: list[Incoming] = []
        self._form = form
        self._store = store
        self._names = names
        self._max_files = max_files
        self._file: Arrived | None = None
        self._field: str | None = None
        self._value = b""

    def take(self, data: bytes) -> None:
        """The next bytes of the body. Blocks."""
        try:
            for piece in self._form.feed(data):
                if isinstance(piece, Head):
                    self._begin(piece)
                elif piece is not None:
                    self._add(piece)
                else:
                    self._end()
        except BadForm as error:
            raise _unreadable(error) from None

    def _begin(self, head: Head) -> None:
        self._file = self._field = None
        if head.filename is not None and head.name in LISTS:
            if len(self.upload.files) >= self._max_files:
                raise Refused(413, {"detail": f"More than {self._max_files} files."})
            incoming = self._store.begin()
            self.begun.append(incoming)
            self._file = Arrived(type=head.name, name=head.filename or head.name, incoming=incoming)
        elif head.filename is None and head.name in self._names:
            self._field, self._value = head.name, b""

    def _add(self, data: bytes) -> None:
        if self._file is not None:
            self._file.incoming.write(data)
        elif self._field is not None:
            if len(self._value) + len(data) > FIELD_BYTES:
                raise Refused(413, {"detail": f"{self._field} exceeds {FIELD_BYTES} bytes."})
            self._value += data

    def _end(self) -> None:
        """Of several fields of one name the last counts."""
        if self._file is not None:
            self.upload.files.append(self._file)
        elif self._field is not None:
            self.upload.fields[self._field] = self._value.decode("utf-8", "replace")
