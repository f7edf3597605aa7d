"""What the stores on a disk share: the size of a piece, errors by their names, and directories that are flushed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.core.ports import StorageFull, StorageUnavailable

PIECE_BYTES = 256 * 1024
"""Smaller pieces, or larger ones, halve the rate."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def named_errors() -> Iterator[None]:
    """Turns the operating system's errors into the two that the ports name."""
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in _FULL else StorageUnavailable
        raise kind(f"{type(error).__name__}: {error.strerror}") from error


def flush_directory(path: Path) -> None:
    """Make durable what is called what in a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
