"""A file that is being saved: beside its place under another name, until it is whole, right and on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from relay.client.notes import open_locked

_READ_BYTES = 1024 * 1024


class PartFile:
    """Blocks: to be used in threads. What an earlier process has left of the same content is gone on with.

    Args:
        content: names what is saved; another content to the same place has another part file.
    """

    def __init__(self, path: Path, content: str) -> None:
        self._path = path
        mark = hashlib.sha256(content.encode()).hexdigest()[:12]
        self._part = path.with_name(f".{path.name[:200]}.{mark}.part")
        self._file: BinaryIO | None = None
        self.digest = hashlib.sha256()
        """Of what it has."""
        self.size = 0

    def open(self) -> None:
        """Raises `InUse`; `OSError`, it cannot be written."""
        file = open_locked(self._part, 0)
        try:
            while piece := file.read(_READ_BYTES):
                self.digest.update(piece)
                self.size += len(piece)
        except BaseException:
            file.close()
            raise
        self._file = file

    def append(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            view = view[self._opened.write(view) :]
        self.digest.update(piece)
        self.size += len(piece)

    def restart(self) -> None:
        """What it has is not right."""
        self._opened.seek(0)
        self._opened.truncate()
        self.digest, self.size = hashlib.sha256(), 0

    def commit(self) -> None:
        """It is what it should be: flush it to the disk, and put it in its place, which is done whole or not at all."""
        os.fsync(self._opened.fileno())
        self._part.replace(self._path)
        self.close()
        with contextlib.suppress(OSError):  # not every system can flush a directory
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """It will not be gone on with."""
        self.close()
        self._part.unlink(missing_ok=True)

    @property
    def _opened(self) -> BinaryIO:
        assert self._file is not None, "open comes first"
        return self._file
