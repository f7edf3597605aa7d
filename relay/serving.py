"""Who serves a SQLite database: one relay at a time, by a lock that ends with its process, however that ends.

Two relays on one file would each keep presence, deadlines and live sessions of their own, and tell half of the sites
half of what happens. The commands of the command line do not serve: they may run beside a relay. On PostgreSQL relays
hear of each other's changes, and nothing is held.

The lock is `flock` on `<database>.lock`. What stands in that file says who holds it, for people.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOOK_S = 0.2


class AlreadyServed(Exception):
    """Another process serves this database. The message says which, and where."""


@contextmanager
def sole_server(database: Path, where: str) -> Iterator[None]:
    """Be the one who serves this file, as long as the block lasts.

    Args:
        database: the SQLite file; its directory is there.
        where: what this process is, for those who find it taken: the address that it serves on, as a rule.

    Raises:
        AlreadyServed: another process is.
        OSError: the lock cannot be made beside the database.
    """
    path = _lock_of(database)
    with path.open("a+b") as lock:
        if not _take(lock) and not _take_soon(lock):
            raise AlreadyServed(f"{database} is served already: {_said_by(path)}")
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "where": where}).encode())
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def server_of(database: Path) -> str | None:
    """Who serves this file now, in words; None if nobody does."""
    path = _lock_of(database)
    try:
        with path.open("rb") as lock:
            return None if _take(lock) else _said_by(path)
    except FileNotFoundError:
        return None


def _lock_of(database: Path) -> Path:
    file = database.resolve()
    return file.with_name(file.name + ".lock")


def _take(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take_soon(lock: IO[bytes]) -> bool:
    """Whoever only looks (`server_of`) has it for a moment, too."""
    time.sleep(LOOK_S)
    return _take(lock)


def _said_by(path: Path) -> str:
    try:
        said = json.loads(path.read_bytes()[:4096])
        return f"process {said['pid']} of {said['host']}, {said['where']}"
    except (OSError, ValueError, LookupError, TypeError):
        return f"a process that has not said which (fuser {path})"
