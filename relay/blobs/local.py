"""A directory as the file store. Serves `relay.core.file_ports.FileStore`.

    <root>/incoming/<random>     what is being written: held by a lock, and removed at the next start if nobody holds it
    <root>/uploads/<id>          uploads that can be resumed, also after a crash (`relay.blobs.staging`)
    <root>/ab/cd0123…            contents, by the SHA-256 of their bytes
    <root>/lock                  held while a content gets its place, and while one that nobody needs is removed
    <root>/kept                  held, by any number, as long as nothing may be removed: a backup reads

A file is written, flushed to the disk, and only then moved to its place, so that whatever is there is whole. No name
from outside is ever part of a path.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from relay.blobs.disk import PIECE_BYTES, flush_directory, named_errors
from relay.blobs.staging import HELD, Shelve, StagedFile
from relay.core.file_ports import Readable
from relay.core.model import Content, Lying
from relay.core.ports import StorageUnavailable

log = logging.getLogger(__name__)

KNOWN_GOOD = 10_000
"""Contents that were found as they should be, and are not hashed again while their file does not change."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHELF = re.compile(r"[0-9a-f]{2}")
_NAME = re.compile(r"[0-9a-f-]{1,64}")

_State = tuple[object, ...]


class LocalFiles:
    """See the module.

    Args:
        root: the directory; it is made if need be, and what a crash left in it unfinished is removed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._uploads = root / "uploads"
        self._good: OrderedDict[str, _State] = OrderedDict()
        for directory in (self._incoming, self._uploads):
            directory.mkdir(parents=True, exist_ok=True)
        with exclusive(root):
            for path in self._incoming.iterdir():
                _remove_unless_held(path)

    def begin(self) -> IncomingFile:
        with named_errors():
            return IncomingFile(self._incoming / uuid.uuid4().hex, self._shelve)

    def stage(self, name: str) -> StagedFile:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected the name of an upload, got {name!r:.80}")
        return StagedFile(self._uploads / name, self._shelve)

    def open(self, sha256: str) -> Readable:
        with named_errors():
            descriptor = os.open(place(self._root, sha256), os.O_RDONLY | os.O_CLOEXEC)
            status = os.fstat(descriptor)
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        return ContentReader(descriptor, Verifying(self._good, sha256, status.st_size, state))

    def location(self, sha256: str, lasts_s: int) -> str | None:
        return None

    def pieces(self, sha256: str) -> Iterator[bytes]:
        reader, at = self.open(sha256), 0
        try:
            while piece := reader.read(at, PIECE_BYTES):
                yield piece
                at += len(piece)
        finally:
            reader.close()

    # --- what lies there

    def size(self, sha256: str) -> int:
        with named_errors():
            return place(self._root, sha256).stat().st_size

    def contents(self) -> Iterator[Lying]:
        for shelf in self._root.iterdir():
            if _SHELF.fullmatch(shelf.name):
                yield from (
                    Lying(name=shelf.name + path.name, size=path.stat().st_size)
                    for path in shelf.iterdir()
                    if _SHA256.fullmatch(shelf.name + path.name)
                )

    def staged(self) -> Iterator[Lying]:
        for path in self._uploads.iterdir():
            if _NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    yield Lying(name=path.name, size=path.stat().st_size)

    def drop(self, sha256: str, before_us: int) -> bool:
        with named_errors(), self._unless_kept() as free, exclusive(self._root):
            return free and _remove_if_older(place(self._root, sha256), before_us)

    @contextmanager
    def all_kept(self) -> Iterator[None]:
        """No content is dropped meanwhile, by whatever process of this machine: what is read stays to its end."""
        with (self._root / "kept").open("ab") as lease:
            fcntl.flock(lease, fcntl.LOCK_SH)
            yield

    @contextmanager
    def _unless_kept(self) -> Iterator[bool]:
        with (self._root / "kept").open("ab") as lease:
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def lying_at(self, sha256: str) -> Path | None:
        """The file that a content is, if it is one on this machine: it is replaced or removed, never changed."""
        return place(self._root, sha256)

    def free_bytes(self) -> int:
        with named_errors():
            return shutil.disk_usage(self._uploads).free

    def drop_staged(self, name: str, before_us: int) -> bool:
        if not _NAME.fullmatch(name):
            return False
        with named_errors():
            is_gone = _remove_if_older(self._uploads / name, before_us)
            if is_gone:
                (self._uploads / (name + HELD)).unlink(missing_ok=True)
            return is_gone

    def _shelve(self, path: Path, sha256: str) -> Content:
        """Give a flushed file its place, and leave it where it is: it goes when the database knows of the content."""
        size = path.stat().st_size
        beside = self._incoming / uuid.uuid4().hex
        with exclusive(self._root):
            os.link(path, beside)
            try:
                _move_to_place(self._root, beside, sha256)
            finally:
                beside.unlink(missing_ok=True)  # of two names of one file, a rename leaves both
        return Content(sha256=sha256, size=size)


class IncomingFile:
    """Serves `relay.core.file_ports.Incoming`. Its methods may be called from several threads, one after the other."""

    def __init__(self, path: Path, shelve: Shelve) -> None:
        self._path = path
        self._shelve = shelve
        self._hash = hashlib.sha256()
        self.size = 0
        self._lock = threading.Lock()  # a discard waits for the write that is under way in another thread
        self._file = path.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, data: bytes) -> None:
        with self._lock, named_errors():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            self._hash.update(data)
            self.size += len(data)

    def keep(self) -> Content:
        with self._lock, named_errors():
            os.fsync(self._file.fileno())
            content = self._shelve(self._path, self._hash.hexdigest())
            self._path.unlink()
            self._file.close()
            return content

    def discard(self) -> None:
        with self._lock:
            if not self._file.closed:
                self._path.unlink(missing_ok=True)
                self._file.close()


class Verifying:
    """Hashes what is read, if it is read from end to end: who does so gets the last piece only if all is good.

    Args:
        good: contents that have been found good, and how they were then; what is found good here is added.
        state: how the content is now.
    """

    def __init__(self, good: OrderedDict[str, _State], sha256: str, size: int, state: _State) -> None:
        self._good = good
        self._sha256 = sha256
        self._size = size
        self._state = state
        self._hash = None if good.get(sha256) == state else hashlib.sha256()
        self._hashed = 0

    def feed(self, start: int, piece: bytes) -> None:
        """Raises `StorageUnavailable` if this was the last piece, and the whole is damaged."""
        if self._hash is None or start != self._hashed:
            return
        self._hash.update(piece)
        self._hashed += len(piece)
        if self._hashed == self._size:
            self._judge(self._hash.hexdigest())

    def _judge(self, digest: str) -> None:
        if digest != self._sha256:
            log.error(
                "a stored file is damaged: restore %s", self._sha256, extra={"reason": f"its bytes have {digest}"}
            )
            raise StorageUnavailable(f"{self._sha256} is damaged")
        self._good[self._sha256] = self._state
        while len(self._good) > KNOWN_GOOD:
            self._good.popitem(last=False)


class ContentReader:
    """Serves `relay.core.file_ports.Readable`."""

    def __init__(self, descriptor: int, verifying: Verifying) -> None:
        self._file = descriptor
        self._verifying = verifying

    def read(self, start: int, count: int) -> bytes:
        with named_errors():
            piece = os.pread(self._file, count, start)
        self._verifying.feed(start, piece)
        return piece

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def sha256_checked(name: str) -> bool:
    """Whether this is how contents are named."""
    return _SHA256.fullmatch(name) is not None


def place(root: Path, sha256: str) -> Path:
    """Where a content lies."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"expected the hexadecimal digits of a SHA-256, got {sha256!r:.80}")
    return root / sha256[:2] / sha256[2:]


def _move_to_place(root: Path, path: Path, sha256: str) -> None:
    """A whole and flushed file becomes the content. The same bytes, if there, make room: they may be damaged."""
    target = place(root, sha256)
    if not target.parent.exists():
        target.parent.mkdir(exist_ok=True)
        flush_directory(root)
    path.replace(target)
    flush_directory(target.parent)


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Nobody else, in whatever process, moves or removes a content meanwhile."""
    with (root / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_if_older(path: Path, before_us: int) -> bool:
    """By the time at which it got its name, or was last written: a content that is kept again is new."""
    with suppress(FileNotFoundError):
        if path.stat().st_ctime_ns // 1000 < before_us:
            path.unlink()
            return True
    return False


def _remove_unless_held(path: Path) -> None:
    """Remove what a process that has ended was writing. One that still runs holds a lock on what it writes."""
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
