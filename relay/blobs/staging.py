"""Uploads that are not finished, in a directory: a file each, as long as what has arrived.

    <directory>/<name>          the bytes so far
    <directory>/<name>.held     while a piece is being checked: how many bytes counted before it

The file's length is the one truth of how far an upload has come, so a process that is killed at any byte leaves it
right: what is there counts, unless it was on probation (`hold`); then it is cut off when the file is opened next.
"""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from relay.blobs.disk import PIECE_BYTES, flush_directory, named_errors

if TYPE_CHECKING:
    from relay.core.model import Content

HELD = ".held"

Shelve = Callable[[Path, str], "Content"]
"""Gives a whole file its place under its SHA-256, and leaves it where it is, too."""


class StagedFile:
    """Serves `relay.core.file_ports.Staged`.

    Args:
        path: the upload's file; it is made if there is none.
        shelve: where to put it once it is whole.
    """

    def __init__(self, path: Path, shelve: Shelve) -> None:
        self._path = path
        self._held_path = path.with_name(path.name + HELD)
        self._shelve = shelve
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._before: tuple[hashlib._Hash, int] | None = None
        with named_errors():
            is_new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if is_new:
                flush_directory(path.parent)
            self._cut_what_was_held()
            self._end = os.fstat(self._file).st_size
        self._held: int | None = None

    def _cut_what_was_held(self) -> None:
        if self._held_path.exists():
            os.truncate(self._file, min(int(self._held_path.read_text()), os.fstat(self._file).st_size))
            self._held_path.unlink()

    @property
    def size(self) -> int:
        return self._end if self._held is None else self._held

    def write(self, data: bytes) -> None:
        with named_errors():
            try:
                rest, at = memoryview(data), self._end
                while rest:
                    written = os.pwrite(self._file, rest, at)
                    rest, at = rest[written:], at + written
            except OSError:
                os.truncate(self._file, self._end)
                raise
        if self._hashed == self._end:
            self._hash.update(data)
            self._hashed += len(data)
        self._end += len(data)

    # --- on probation

    def hold(self) -> None:
        with named_errors():
            beside = self._held_path.with_name(f"{self._held_path.name}.{uuid.uuid4().hex}")
            beside.write_text(str(self._end))
            beside.replace(self._held_path)
        self._held = self._end
        self._before = (self._hash.copy(), self._hashed)

    def release(self) -> None:
        with named_errors():
            self._held_path.unlink(missing_ok=True)
        self._held = self._before = None

    def revert(self) -> None:
        if self._held is None or self._before is None:
            return
        with named_errors():
            os.truncate(self._file, self._held)
        self._end = self._held
        self._hash, self._hashed = self._before
        self.release()

    # --- the end

    def digest(self) -> str:
        with named_errors():
            while self._hashed < self._end:  # what another process had written, or this one before the file was closed
                piece = os.pread(self._file, PIECE_BYTES, self._hashed)
                if not piece:
                    raise OSError(errno.EIO, "an upload has become shorter")
                self._hash.update(piece)
                self._hashed += len(piece)
        return self._hash.hexdigest()

    def keep(self) -> Content:
        sha256 = self.digest()
        with named_errors():
            os.fsync(self._file)
            return self._shelve(self._path, sha256)

    def reader(self) -> StagedReader:
        with named_errors():
            return StagedReader(os.dup(self._file))

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def discard(self) -> None:
        with named_errors():
            self._path.unlink(missing_ok=True)
            self._held_path.unlink(missing_ok=True)
        self.close()


class StagedReader:
    """Serves `relay.core.file_ports.Readable`, on a descriptor of its own: it outlives the upload."""

    def __init__(self, descriptor: int) -> None:
        self._file = descriptor

    def read(self, start: int, count: int) -> bytes:
        with named_errors():
            return os.pread(self._file, count, start)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
