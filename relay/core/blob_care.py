"""What becomes of blobs that nobody needs, and whether database and disk agree. Beside the work, in small steps.

    unfinished, and its time is over        goes at once
    complete, and no event refers to it     goes when it has been so for as long as the operator keeps such
    bytes that no blob has                  go when they have lain there for a while: a blob that is being
                                            finished has its bytes in place before it has its row

All of it may be cut off at any time, run twice, and run while a relay serves.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from relay.core.file_ports import FileStore
from relay.core.model import Blob, Lying
from relay.core.node import Node
from relay.core.ports import StorageUnavailable, Store

log = logging.getLogger(__name__)

STEP = 256
GRACE_S = 3600.0
"""How long bytes without a blob lie there before they go."""
PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class CareLimits:
    """`keep_s`: how long a blob stays that no event refers to. `interval_s`: between two collections."""

    keep_s: float = 7 * 86_400.0
    interval_s: float = 3600.0
    grace_s: float = GRACE_S


@dataclass(kw_only=True, slots=True)
class Collected:
    """What went: blobs by why, and files of which there was no blob."""

    expired: int = 0
    idle: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is not as it should be. `is_loss`: bytes that a blob should have are not there, or not right."""

    what: str
    name: str
    is_loss: bool


# --- collecting


async def collect(
    store: Store, files: FileStore, limits: CareLimits, now_us: int, on_gone: Callable[[str], None] = lambda _id: None
) -> Collected:
    """Take away what nobody needs. `on_gone` is told the id of each unfinished upload that goes.

    Raises:
        StorageUnavailable: something may have gone already; the next time goes on.
    """
    done = Collected()
    async with store.transaction() as tx:
        await tx.blobs.drop_old_refs()
        await tx.blobs.note_idle(now_us)
    while gone := await _step(store, now_us, now_us - int(limits.keep_s * 1e6)):
        for blob in gone:
            done.expired, done.idle = done.expired + (not blob.is_complete), done.idle + blob.is_complete
            if not blob.is_complete:
                on_gone(blob.id)
                await asyncio.to_thread(files.drop_staged, blob.id, now_us)
    before_us = now_us - int(limits.grace_s * 1e6)
    await _drop_uploads(store, files, before_us, done)
    await _drop_contents(store, files, before_us, done)
    return done


async def _step(store: Store, now_us: int, idle_before_us: int) -> list[Blob]:
    async with store.transaction() as tx:
        return await tx.blobs.drop(expired_us=now_us, idle_us=idle_before_us, limit=STEP)


async def _drop_uploads(store: Store, files: FileStore, before_us: int, done: Collected) -> None:
    async for some in _in_steps(files.staged()):
        async with store.snapshot() as tx:
            running = await tx.blobs.unfinished_among([one.name for one in some])
        for one in some:
            if one.name not in running and await asyncio.to_thread(files.drop_staged, one.name, before_us):
                done.files, done.bytes = done.files + 1, done.bytes + one.size


async def _drop_contents(store: Store, files: FileStore, before_us: int, done: Collected) -> None:
    async for some in _in_steps(files.contents()):
        async with store.snapshot() as tx:
            wanted = await tx.blobs.contents_among([one.name for one in some])
        for one in some:
            if one.name not in wanted and await asyncio.to_thread(files.drop, one.name, before_us):
                done.files, done.bytes = done.files + 1, done.bytes + one.size


async def _in_steps(lying: Iterable[Lying]) -> AsyncIterator[list[Lying]]:
    iterator = iter(lying)
    while some := await asyncio.to_thread(_some, iterator):
        yield some


def _some(iterator: Iterator[Lying]) -> list[Lying]:
    return list(islice(iterator, STEP))


class Collector:
    """Collects now and then, while the relay serves."""

    def __init__(self, node: Node, files: FileStore, limits: CareLimits, on_gone: Callable[[str], None]) -> None:
        self._node = node
        self._files = files
        self._limits = limits
        self._on_gone = on_gone

    def start(self) -> None:
        self._node.spawn(self._run(), "blob-collector")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._limits.interval_s)
            try:
                done = await collect(self._node.store, self._files, self._limits, self._node.now_us(), self._on_gone)
            except StorageUnavailable as error:
                log.warning("blobs not collected: %s", error.cause)
                continue
            if done != Collected():
                log.info(
                    "blobs collected: %d expired, %d not referred to, %d files", done.expired, done.idle, done.files
                )


# --- checking


async def check(store: Store, files: FileStore, *, deep: bool) -> AsyncIterator[Fault]:
    """What database and disk disagree on. `deep` reads all bytes, and says which are not what they were.

    Raises:
        StorageUnavailable.
    """
    async for fault in contents(store, files, deep=deep):
        if fault is not None:
            yield fault
    async for fault in _spares(store, files):
        yield fault


async def contents(store: Store, files: FileStore, *, deep: bool) -> AsyncIterator[Fault | None]:
    """Of each content that blobs and files have, what is wrong with it; None if nothing is."""
    after = ""
    while True:
        async with store.snapshot() as tx:
            some = await tx.blobs.contents_after(after, limit=STEP)
        if not some:
            return
        for sha256, size in some:
            yield await asyncio.to_thread(_fault, files, sha256, size, deep)
        after = some[-1][0]


async def _spares(store: Store, files: FileStore) -> AsyncIterator[Fault]:
    """What lies there without a blob."""
    async for some in _in_steps(files.contents()):
        async with store.snapshot() as tx:
            wanted = await tx.blobs.contents_among([one.name for one in some])
        for name in {one.name for one in some} - wanted:
            yield Fault(what="no blob has these bytes", name=name, is_loss=False)
    async for some in _in_steps(files.staged()):
        async with store.snapshot() as tx:
            running = await tx.blobs.unfinished_among([one.name for one in some])
        for name in {one.name for one in some} - running:
            yield Fault(what="no upload has this file", name=name, is_loss=False)


def _fault(files: FileStore, sha256: str, size: int, deep: bool) -> Fault | None:
    """What is wrong with a content that the database names."""
    try:
        found = files.size(sha256)
        if found != size:
            return Fault(what=f"{found} bytes instead of {size}", name=sha256, is_loss=True)
        if deep and _digest(files, sha256) != sha256:
            return Fault(what="the bytes are damaged", name=sha256, is_loss=True)
    except StorageUnavailable as error:
        return Fault(what=f"cannot be read: {error.cause}", name=sha256, is_loss=True)
    return None


def _digest(files: FileStore, sha256: str) -> str:
    digest, at, reader = hashlib.sha256(), 0, files.open(sha256)
    try:
        while piece := reader.read(at, PIECE_BYTES):
            digest.update(piece)
            at += len(piece)
    finally:
        reader.close()
    return digest.hexdigest()
