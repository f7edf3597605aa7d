"""Multipart uploads of files, streamed into the file store: 256 KiB of a request are in memory, whatever its size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request
from streaming_form_data import ParseFailedException, StreamingFormDataParser
from streaming_form_data.targets import BaseTarget

from relay.core.file_ports import FileStore, Incoming
from relay.core.files import LISTS, Arrived
from relay.web.legacy.answers import Refused, bad
from relay.web.legacy.bodies import chunks, too_large

PIECE_BYTES = 256 * 1024
FIELD_BYTES = 256


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
        parser = StreamingFormDataParser(headers={"Content-Type": request.headers.get("content-type", "")})
    except ParseFailedException:
        raise bad({"detail": "Multipart form parse error - Invalid boundary in multipart: None"}) from None
    upload = Upload()
    files = {type_: _Files(type_, store, upload, max_files) for type_ in LISTS}
    fields = {name: _Field(name, upload) for name in names}
    for name, target in {**files, **fields}.items():
        parser.register(name, target)
    try:
        await _feed(chunks(request, stall_s), parser, max_bytes)
        if any(target.is_open for target in files.values()):
            raise bad({"detail": "Multipart form parse error - the body breaks off"})
        yield upload
    finally:
        for incoming in [one for target in files.values() for one in target.begun]:
            incoming.discard()


async def _feed(body: AsyncIterator[bytes], parser: StreamingFormDataParser, max_bytes: int) -> None:
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
            await _parse(parser, b"".join(waiting))
            waiting.clear()
            size = 0
    if waiting:
        await _parse(parser, b"".join(waiting))


async def _parse(parser: StreamingFormDataParser, piece: bytes) -> None:
    try:
        await asyncio.to_thread(parser.data_received, piece)
    except ParseFailedException as error:
        raise bad({"detail": f"Multipart form parse error - {error}"}) from None


class _Files(BaseTarget):  # type: ignore[misc]
    """The parts of one type of file. A part without a file name is none, and is skipped."""

    def __init__(self, type_: str, store: FileStore, upload: Upload, max_files: int) -> None:
        super().__init__()
        self.multipart_filename: str | None = None
        self.begun: list[Incoming] = []
        self.is_open = False
        self._type = type_
        self._store = store
        self._upload = upload
        self._max_files = max_files

    def on_start(self) -> None:
        if self.multipart_filename is None:
            return
        if len(self._upload.files) >= self._max_files:
            raise Refused(413, {"detail": f"More than {self._max_files} files."})
        self.is_open = True
        self.begun.append(self._store.begin())

    def on_data_received(self, chunk: bytes) -> None:
        if self.is_open:
            self.begun[-1].write(chunk)

    def on_finish(self) -> None:
        if self.is_open:
            name = self.multipart_filename or self._type
            self._upload.files.append(Arrived(type=self._type, name=name, incoming=self.begun[-1]))
        self.is_open = False
        self.multipart_filename = None


class _Field(BaseTarget):  # type: ignore[misc]
    """A text field. Of several of one name the last counts."""

    def __init__(self, name: str, upload: Upload) -> None:
        super().__init__()
        self._name = name
        self._upload = upload
        self._value = b""

    def on_start(self) -> None:
        self._value = b""

    def on_data_received(self, chunk: bytes) -> None:
        if len(self._value) + len(chunk) > FIELD_BYTES:
            raise Refused(413, {"detail": f"{self._name} exceeds {FIELD_BYTES} bytes."})
        self._value += chunk

    def on_finish(self) -> None:
        self._upload.fields[self._name] = self._value.decode("utf-8", "replace")
