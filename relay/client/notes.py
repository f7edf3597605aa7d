"""What outlives this process of an upload under way: which uploads were begun for it, and the id of its event.

A note is a small file of JSON lines, each written once and never changed: whoever is killed while writing one leaves a
last line that is passed over. It is named for the content and for where that goes, so a file that has changed meanwhile
has another note. Whoever sends it has it locked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Self

from relay.client.errors import InUse

if sys.platform != "win32":
    import fcntl

PREFIX = ".starfish-upload-"
KEPT_S = 7 * 86_400.0
"""Notes of uploads that nobody has gone on with for so long are removed: the relay has forgotten them long before."""


class Note:
    """See the module. Without a directory, it is kept in memory alone.

    Attributes:
        event: the id of the event that is published at the end.
    """

    def __init__(self, event: str) -> None:
        self.event = event
        self._uploads: dict[str, str] = {}
        self._kept: dict[str, Any] = {}
        self._path: Path | None = None
        self._file: BinaryIO | None = None

    @classmethod
    def open(cls, directory: Path, about: list[object], event: str) -> Self:
        """The note about this, from an earlier process or new.

        Args:
            about: what makes it this one: the content, and where it goes.
            event: the id, if there is none yet.

        Raises:
            InUse: another one has it.
            OSError: it cannot be written.
        """
        _sweep(directory)
        name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
        note = cls(event)
        note._path = directory / f"{PREFIX}{name}"
        note._file = open_locked(note._path, os.O_APPEND)
        try:
            note._read(note._file)
        except BaseException:
            note.close()
            raise
        return note

    def _read(self, file: BinaryIO) -> None:
        file.seek(0)
        text = file.read()
        if text and not text.endswith(b"\n"):
            file.write(b"\n")  # who wrote the last line was killed at it
        known = False
        for line in text.splitlines():
            with contextlib.suppress(ValueError, AttributeError, TypeError):
                said = json.loads(line)
                self._uploads |= said.get("uploads", {})
                self._kept |= said.get("kept", {})
                known = known or "event" in said
                self.event = said.get("event", self.event)
        if not known:
            self._write({"event": self.event})

    def upload(self, name: str) -> str | None:
        """The id of the upload that was begun for this part."""
        return self._uploads.get(name) or None

    def remember(self, name: str, upload: str) -> None:
        """An empty id: there is none any more."""
        self._uploads[name] = upload
        self._write({"uploads": {name: upload}})

    def kept(self, name: str) -> Any:
        """What was kept by this name; None if nothing was."""
        return self._kept.get(name)

    def keep(self, name: str, value: Any) -> None:
        self._kept[name] = value
        self._write({"kept": {name: value}})

    def begin_anew(self) -> None:
        """What was uploaded belongs to bytes that are there no more."""
        for name in self._uploads:
            self.remember(name, "")

    @property
    def companion(self) -> Path | None:
        """A file that goes when the note goes; None for one in memory."""
        return None if self._path is None else self._path.with_name(f"{self._path.name}.body")

    def _write(self, said: dict[str, object]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(said).encode() + b"\n")
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """It is done."""
        if self._path is not None and self.companion is not None:
            self.companion.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)


def open_locked(path: Path, flags: int) -> BinaryIO:
    """The file at this path, made if there is none, for this one alone until it is closed.

    Raises:
        InUse: another one has it.
        OSError: it cannot be written.
    """
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600), "r+b", buffering=0)
        try:
            _lock(file, path)
            if _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # who had it has put it elsewhere, or removed it, in between


def _lock(file: BinaryIO, path: Path) -> None:
    if sys.platform == "win32":  # it has no such locks: two at once would do twice what one can
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUse(f"{path} is in use by another one that does the same") from None


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sweep(directory: Path) -> None:
    for path in directory.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - KEPT_S:
                path.unlink()
