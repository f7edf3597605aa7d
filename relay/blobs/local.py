"""A directory as the file store. Serves `relay.core.ports.FileStore`.

    <root>/incoming/<random>     what is being written: held by a lock, and removed at the next start if nobody holds it
    <root>/ab/cd0123…            contents, by the SHA-256 of their bytes

A file is written, flushed to the disk, and only then moved to its place, so that whatever is there is whole. No name
from outside is ever part of a path.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from relay.core.model import Content
from relay.core.ports import StorageFull, StorageUnavailable

PIECE_BYTES = 256 * 1024
"""Smaller pieces, or larger ones, halve the rate."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SHA256 = re.compile(r"[0-9a-f]{64}")


class LocalFiles:
    """See the module.

    Args:
        root: the directory; it is made if need be, and what a crash left in it unfinished is removed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        for path in self._incoming.iterdir():
            _remove_unless_held(path)

    def begin(self) -> IncomingFile:
        with _named_errors():
            return IncomingFile(self._root, self._incoming / uuid.uuid4().hex)

    def pieces(self, sha256: str) -> Iterator[bytes]:
        with _named_errors(), _place(self._root, sha256).open("rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece


class IncomingFile:
    """Serves `relay.core.ports.Incoming`. Its methods may be called from several threads, one after the other."""

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self._path = path
        self._hash = hashlib.sha256()
        self.size = 0
        self._lock = threading.Lock()  # a discard waits for the write that is under way in another thread
        self._file = path.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, data: bytes) -> None:
        with self._lock, _named_errors():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            self._hash.update(data)
            self.size += len(data)

    def keep(self) -> Content:
        with self._lock, _named_errors():
            os.fsync(self._file.fileno())
            sha256 = self._hash.hexdigest()
            place = _place(self._root, sha256)
            if not place.parent.exists():
                place.parent.mkdir(exist_ok=True)
                _flush_directory(self._root)
            self._path.replace(place)  # the same bytes, if there are some: they lie there once
            _flush_directory(place.parent)
            self._file.close()
            return Content(sha256=sha256, size=self.size)

    def discard(self) -> None:
        with self._lock:
            if not self._file.closed:
                self._path.unlink(missing_ok=True)
                self._file.close()


def _place(root: Path, sha256: str) -> Path:
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"expected the hexadecimal digits of a SHA-256, got {sha256!r:.80}")
    return root / sha256[:2] / sha256[2:]


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_unless_held(path: Path) -> None:
    """Remove what a process that has ended was writing. One that still runs holds a lock on what it writes."""
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in _FULL else StorageUnavailable
        raise kind(f"{type(error).__name__}: {error.strerror}") from error
