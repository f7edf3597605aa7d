"""Where a backup is: a directory, or a tar file. It has its name only once it is whole, and only its owner reads it."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from relay.backup.manifest import NAME, BadBackup
from relay.blobs.disk import flush_directory

MAX_MANIFEST_BYTES = 1024 * 1024


class Writer(Protocol):
    """Takes files, once each. Its methods block."""

    def put(self, name: str, data: IO[bytes]) -> None:
        """Add a file, from its beginning."""

    def put_content(self, name: str, size: int, pieces: Iterable[bytes], lying_at: Path | None) -> None:
        """Add a content. All pieces are taken, or the backup has nothing of it. `lying_at`: it is this file, too."""


class Reader(Protocol):
    """Gives them. Its methods block."""

    def open(self, name: str) -> IO[bytes]:
        """Raises `BadBackup` if it has no such file."""


# --- writing


@contextmanager
def writing(target: Path) -> Iterator[Writer]:
    """A new backup: a tar file if the name ends in `.tar`, else a directory. What is not finished is removed.

    Raises:
        BadBackup: something is there already.
    """
    if target.exists():
        raise BadBackup(f"{target} is there already: a backup is never written over")
    part = target.with_name(target.name + ".part")
    make = _tar if target.suffix == ".tar" else _directory
    try:
        with make(part) as writer:
            yield writer
        part.rename(target)
        flush_directory(target.absolute().parent)
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
        raise


@contextmanager
def _directory(part: Path) -> Iterator[Writer]:
    try:
        part.mkdir(mode=0o700)
    except FileExistsError:
        raise BadBackup(f"{part} is there: another backup runs, or was cut off; remove it in that case") from None
    yield _DirectoryWriter(part)
    for folder, _, _ in os.walk(part, topdown=False):
        flush_directory(Path(folder))


@contextmanager
def _tar(part: Path) -> Iterator[Writer]:
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BadBackup(f"{part} is there: another backup runs, or was cut off; remove it in that case") from None
    with os.fdopen(handle, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            yield _TarWriter(tar, part.parent)
        file.flush()
        os.fsync(file.fileno())


class _DirectoryWriter:
    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, data: IO[bytes]) -> None:
        data.seek(0)
        with self._new(name) as file:
            shutil.copyfileobj(data, file, 1024 * 1024)
            _flush(file)

    def put_content(self, name: str, size: int, pieces: Iterable[bytes], lying_at: Path | None) -> None:
        path = self._root / name
        if lying_at is not None and _linked(lying_at, path):
            for _ in pieces:  # they are read to the end, so that they are known to be right
                pass
            return
        with self._new(name) as file:
            try:
                for piece in pieces:
                    file.write(piece)
            except BaseException:
                path.unlink()
                raise
            _flush(file)

    def _new(self, name: str) -> IO[bytes]:
        path = self._root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _linked(lying_at: Path, path: Path) -> bool:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.link(lying_at, path)
    except OSError:  # another file system, or one that has no links
        return False
    return True


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


class _TarWriter:
    def __init__(self, tar: tarfile.TarFile, beside: Path) -> None:
        self._tar = tar
        self._beside = beside

    def put(self, name: str, data: IO[bytes]) -> None:
        self._add(name, data.seek(0, io.SEEK_END), data)

    def put_content(self, name: str, size: int, pieces: Iterable[bytes], lying_at: Path | None) -> None:
        """Through a file: what turns out to be damaged at its end must not be in the archive by then."""
        with tempfile.TemporaryFile(dir=self._beside) as file:
            for piece in pieces:
                file.write(piece)
            self._add(name, size, file)

    def _add(self, name: str, size: int, data: IO[bytes]) -> None:
        data.seek(0)
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o600
        self._tar.addfile(member, data)


# --- reading


@contextmanager
def reading(source: Path) -> Iterator[Reader]:
    """A backup.

    Raises:
        BadBackup: it is none.
    """
    if source.is_dir():
        yield _DirectoryReader(source)
        return
    try:
        with tarfile.open(source, "r:") as tar:
            yield _TarReader(source, tar)
    except FileNotFoundError:
        raise BadBackup(f"there is no {source}") from None
    except tarfile.TarError as error:
        raise BadBackup(f"{source} is neither a directory nor a tar file that is whole: {error}") from None


def manifest_of(reader: Reader) -> bytes:
    with reader.open(NAME) as file:
        return file.read(MAX_MANIFEST_BYTES)


class _DirectoryReader:
    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._root / name).open("rb")
        except FileNotFoundError:
            raise _lacks(self._root, name) from None


class _TarReader:
    def __init__(self, source: Path, tar: tarfile.TarFile) -> None:
        self._source = source
        self._tar = tar
        self._members = {member.name: member for member in tar if member.isfile()}

    def open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(self._members[name]) if name in self._members else None
        if file is None:
            raise _lacks(self._source, name)
        return file


def _lacks(source: Path, name: str) -> BadBackup:
    if name == NAME:
        return BadBackup(f"{source} has no {NAME}: it is no backup, or one that was cut off")
    return BadBackup(f"{source} lacks {name}")
