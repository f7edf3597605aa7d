"""The port to where the bytes of blobs and files are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from relay.core.model import Content, Lying


class Incoming(Protocol):
    """A file on its way into the file store. Every method blocks: call it in a thread.

    Nothing can be read before `keep`, and nothing is left after `discard`, or after a crash.
    """

    @property
    def size(self) -> int:
        """Bytes so far."""

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            StorageFull: there is no room. StorageUnavailable: the disk does not take it.
        """

    def keep(self) -> Content:
        """Make it durable, and readable under its SHA-256. Raises as `write` does."""

    def discard(self) -> None:
        """Forget what was written, unless it was kept. May be called at any time, and twice."""


class Readable(Protocol):
    """Bytes that can be read anywhere. Its methods block."""

    def read(self, start: int, count: int) -> bytes:
        """At most `count` bytes; fewer only at the end.

        Raises:
            StorageUnavailable: they cannot be read, or are not what they were when they were stored.
        """

    def close(self) -> None: ...


class Staged(Protocol):
    """An upload that is not finished, on disk. It outlives the process. Every method blocks: call it in a thread, and
    none beside another.
    """

    @property
    def size(self) -> int:
        """Bytes that count: those that a crash would leave."""

    def write(self, data: bytes) -> None:
        """Append. Raises `StorageFull` or `StorageUnavailable`; then nothing of it counts."""

    def hold(self) -> None:
        """What is written from now on does not count, and is gone after a crash, until `release`."""

    def release(self) -> None: ...
    def revert(self) -> None:
        """Forget what was written since `hold`."""

    def digest(self) -> str:
        """The SHA-256 of all that is there, in hexadecimal digits."""

    def reader(self) -> Readable:
        """What is there, and what will be; it goes on to be readable when the upload is finished or discarded."""

    def keep(self) -> Content:
        """Make it durable, and readable under its SHA-256. It is also here until `discard`."""

    def close(self) -> None: ...
    def discard(self) -> None:
        """Remove it."""


class FileStore(Protocol):
    """Where large things lie, by the SHA-256 of their bytes: the same bytes are stored once. Its methods block."""

    def begin(self) -> Incoming: ...
    def stage(self, name: str) -> Staged:
        """The unfinished upload of this name (a UUID), as far as it has come; a new one if there is none."""

    def open(self, sha256: str) -> Readable:
        """What was kept. Raises `StorageUnavailable` if it is not there."""

    def location(self, sha256: str, lasts_s: int) -> str | None:
        """A URL at which anybody can read it for so long, if there is one beside the relay."""

    def size(self, sha256: str) -> int:
        """Bytes of what was kept. Raises as `open` does."""

    def contents(self) -> Iterator[Lying]:
        """All that is kept, in any order."""

    def staged(self) -> Iterator[Lying]:
        """All unfinished uploads, in any order."""

    def drop(self, sha256: str, before_us: int) -> bool:
        """Remove what was last kept before then. False if it was later, or is not there."""

    def free_bytes(self) -> int:
        """Room on the disk that uploads arrive on."""

    def drop_staged(self, name: str, before_us: int) -> bool:
        """Remove an unfinished upload that was last written before then."""

    def pieces(self, sha256: str) -> Iterator[bytes]:
        """The bytes, in pieces of at most 256 KiB. Raises `StorageUnavailable` if they are not there."""
