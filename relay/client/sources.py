"""What is to be sent, read as it is needed, and what is known of it: its size and its hashes.

A `Source` is the one door through which bytes go out. It can be read from any place and again, as a cut may require,
so it gives the same bytes each time; what does not is noticed by its hash.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from relay.client.errors import SourceChanged
from relay.client.offloop import off_loop

MEASURE_BYTES = 1024 * 1024
MAX_PARTS = 200
"""Of one blob. What has more is sent in one: a relay allows somewhat more unfinished uploads than this, and puts parts
together within one request, which must not take longer than what is on the way allows.
"""

Sendable = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""Bytes, a path, or an open binary file that can seek (it is sent from where it stands)."""


class Source(Protocol):
    @property
    def size(self) -> int: ...

    @property
    def name(self) -> str:
        """What it is called where it is downloaded; may be empty."""
        ...

    async def read(self, at: int, length: int) -> bytes:
        """So many bytes from this place.

        Raises:
            SourceChanged: there are fewer.
        """
        ...


class FileSource:
    """A `Source`: an open file. Reads are done in threads, one after the other."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._start = file.tell()
        self.size = file.seek(0, os.SEEK_END) - self._start
        self.name = name

    async def read(self, at: int, length: int) -> bytes:
        piece = await off_loop(self._read, at, length)
        if len(piece) < length:
            raise SourceChanged(f"it had {self.size} bytes, and now ends after {at + len(piece)}")
        return piece

    def _read(self, at: int, length: int) -> bytes:
        with self._lock:
            self._file.seek(self._start + at)
            return self._file.read(length)


@asynccontextmanager
async def opened(given: Sendable) -> AsyncIterator[Source]:
    """What was given, as a source. A file that was opened here is closed at the end.

    Raises:
        TypeError, ValueError: it is none of what can be sent.
        OSError: the file cannot be opened.
    """
    if isinstance(given, bytes | bytearray | memoryview):
        yield FileSource(BytesIO(given), "")
    elif isinstance(given, str | os.PathLike):
        path = Path(given)
        file = await off_loop(path.open, "rb")
        try:
            yield await off_loop(FileSource, file, path.name)
        finally:
            await off_loop(file.close)
    elif hasattr(given, "seek") and given.seekable():
        name = getattr(given, "name", "")
        yield await off_loop(FileSource, given, Path(name).name if isinstance(name, str) else "")
    else:
        raise TypeError("bytes, a path, or a binary file that can seek")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Bytes from `start` up to, and not with, `end`; and their SHA-256 in hexadecimal digits."""

    start: int
    end: int
    sha256: str

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """A source, measured: the whole, and the parts in which it is sent (one, if it is not long)."""

    size: int
    sha256: str
    parts: tuple[Part, ...]


async def measure(source: Source, part_bytes: int) -> Content:
    """Read all of it once.

    Args:
        part_bytes: how long a part is; less than two of them, or more than `MAX_PARTS`, are sent in one.

    Raises:
        SourceChanged: it became shorter meanwhile.
    """
    whole, parts = hashlib.sha256(), []
    for start, end in _spans(source.size, part_bytes):
        is_all = end - start == source.size
        digest = await hashed(source, start, end, None if is_all else whole)
        parts.append(Part(start=start, end=end, sha256=digest))
    sha256 = parts[0].sha256 if len(parts) == 1 else whole.hexdigest()
    return Content(size=source.size, sha256=sha256, parts=tuple(parts))


async def hashed(source: Source, start: int, end: int, along: hashlib._Hash | None = None) -> str:
    """The SHA-256 of these bytes. They are fed to another hash too, if it is given. Raises as `Source.read` does."""
    digest = hashlib.sha256()
    for at in range(start, end, MEASURE_BYTES):
        piece = await source.read(at, min(MEASURE_BYTES, end - at))
        await off_loop(_feed, piece, digest, along)
    return digest.hexdigest()


def _feed(piece: bytes, digest: hashlib._Hash, along: hashlib._Hash | None) -> None:
    digest.update(piece)
    if along is not None:
        along.update(piece)


def _spans(size: int, part_bytes: int) -> list[tuple[int, int]]:
    if not 2 * part_bytes <= size <= MAX_PARTS * part_bytes:
        return [(0, size)]
    return [(start, min(start + part_bytes, size)) for start in range(0, size, part_bytes)]
