"""Uploads while they run: one writer each, whose bytes are on disk before they count, and readers that follow it.

- An upload's `offset` is what is on disk. It is told, and read, no further; after a crash the file's length says it.
- One request writes at a time. Another that comes with the same offset takes its place: the first one's connection is
  dead, as a rule, and the relay has not noticed yet.
- Whoever reads along (`Upload.follow`) is woken for each piece. It gets the last byte only once all of them have been
  checked, and is told when there will be no more.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from relay.core import blobs
from relay.core.access import Principal
from relay.core.audit import RELAY
from relay.core.blobs import BlobLimits
from relay.core.file_ports import FileStore, Staged
from relay.core.model import Blob, Content
from relay.core.node import Node
from relay.core.pump import Pump, settled
from relay.protocol.errors import ErrorCode, ReplyError, unknown_blob

log = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_UPLOADS = 64
"""Uploads that nobody is at, of which the file stays open and the hash so far is remembered."""
FINISHERS = 4
"""Uploads that are finished at once: flushed, or sent to a bucket."""
COPY_BYTES = 1024 * 1024
COPY_PATIENCE_S = 60.0
TOGETHER_PATIENCE_S = 600.0
"""How long a request that is sent again waits for the first one to have put the parts together."""


class WrongOffset(ReplyError):
    """The client is not where the upload is."""

    def __init__(self, offset: int) -> None:
        super().__init__(ErrorCode.CONFLICT, f"the upload is at {offset}; go on from there", {"offset": offset})


class ChecksumMismatch(ReplyError):
    """The bytes are not what the client said they are; they are forgotten."""

    def __init__(self, what: str) -> None:
        super().__init__(ErrorCode.INVALID, f"checksum mismatch: {what}", {"checksum": "mismatch"})


class Stopping(ReplyError):
    """The relay stops. What came is kept."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.DRAINING, "the relay restarts; ask for the offset, and go on", {"retry_after": 1})


class Interrupted(ReplyError):
    """Another request has taken over, or nothing has come for too long. What came is kept."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.CONFLICT, "the upload was interrupted; ask for its offset, and go on")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checksum:
    """What a piece must have: an algorithm of `hashlib`, and its digest."""

    algorithm: str
    digest: bytes


class Upload:
    """One upload that somebody writes or reads. See the module."""

    def __init__(self, blob: Blob, staged: Staged | None) -> None:
        self.blob = blob
        self.users = 0
        self.ended: Blob | ReplyError | None = blob if blob.is_complete else None
        """What has become of it: the complete blob, or why there is none."""
        self._staged = staged
        self.stopping = False
        self._turn = asyncio.Lock()
        self._scope: asyncio.Timeout | None = None
        self._news = asyncio.Event()

    @property
    def staged(self) -> Staged:
        """Its bytes, while it is not complete."""
        assert self._staged is not None
        return self._staged

    @property
    def offset(self) -> int:
        return self.ended.size or 0 if isinstance(self.ended, Blob) else self.staged.size

    def close(self) -> None:
        if self._staged is not None:
            self._staged.close()

    @property
    def is_whole(self) -> bool:
        return self.blob.size is not None and self.offset == self.blob.size

    def left_s(self) -> float:
        """Seconds until it expires, if it does not go on."""
        return max(0.0, (self.blob.expires_us or 0) / 1e6 - time.time())

    # --- writing

    @asynccontextmanager
    async def turn(self, offset: int | None) -> AsyncIterator[None]:
        """The right to write, or to end it; whoever has it is interrupted, if the caller is where the upload is.

        Raises:
            WrongOffset: it is elsewhere.
            ReplyError: `unknown_blob`, it is gone meanwhile.
        """
        if offset is not None and offset != self.offset:
            raise WrongOffset(self.offset)
        self.interrupt()
        async with self._turn:
            if isinstance(self.ended, ReplyError):
                raise self.ended
            if offset is not None and offset != self.offset:
                raise WrongOffset(self.offset)
            yield

    def interrupt(self) -> None:
        """Have who writes now stop after the piece that it is at."""
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(0)

    async def receive(
        self, chunks: AsyncIterator[bytes], *, limit: int, patience_s: float, checksum: Checksum | None = None
    ) -> None:
        """Append bytes as they come. What came before an error is kept, unless it was to be checked as a whole.

        Args:
            limit: how long the upload may become.
            patience_s: how long the next of them may take.

        Raises:
            Interrupted, ChecksumMismatch; ReplyError: `too_large`.
            StorageFull, StorageUnavailable: the disk does not take it.
        """
        if checksum is not None:
            await asyncio.to_thread(self.staged.hold)
        try:
            check = None if checksum is None else hashlib.new(checksum.algorithm)
            await self._append(chunks, limit, patience_s, check)
            if checksum is not None and check is not None and check.digest() != checksum.digest:
                raise ChecksumMismatch(f"the {checksum.algorithm} of the piece is another")
        except BaseException:
            if checksum is not None:
                await settled(asyncio.create_task(asyncio.to_thread(self.staged.revert)))
            raise
        if checksum is not None:
            await asyncio.to_thread(self.staged.release)
            self._moved()

    async def _append(
        self, chunks: AsyncIterator[bytes], limit: int, patience_s: float, check: hashlib._Hash | None
    ) -> None:
        loop = asyncio.get_running_loop()
        room = limit - self.offset
        pump = Pump(lambda piece: self._write(piece, check), self._moved)
        try:
            async with asyncio.timeout(patience_s) as self._scope:
                async for chunk in chunks:
                    room -= len(chunk)
                    if room < 0:
                        raise blobs.too_large(limit, "the upload has at most")
                    self._scope.reschedule(loop.time() + patience_s)
                    await pump.put(chunk)
        except TimeoutError:
            raise (Stopping() if self.stopping else Interrupted()) from None
        finally:
            self._scope = None
            await pump.close()

    def _write(self, piece: bytes, check: hashlib._Hash | None) -> None:
        self.staged.write(piece)
        if check is not None:
            check.update(piece)

    def _moved(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def stop(self) -> None:
        """The relay stops: who writes is to come again, and who reads along, too."""
        self.stopping = True
        self.interrupt()
        self._moved()

    def end(self, outcome: Blob | ReplyError) -> None:
        """It is complete, or there will be no more of it."""
        if self.ended is None:
            self.ended = outcome
            self._moved()

    # --- reading along

    async def follow(self, at: int, patience_s: float) -> int:
        """Wait until there is something to read at this position; returns where that ends.

        Raises:
            ReplyError: there will be no more. TimeoutError: nothing has come for so long.
        """
        while True:
            if isinstance(self.ended, ReplyError):
                raise self.ended
            end = self._readable()
            if end > at or self.ended is not None:
                return end
            if self.stopping:
                raise Stopping
            async with asyncio.timeout(patience_s):
                await self._news.wait()

    def _readable(self) -> int:
        if isinstance(self.ended, Blob):
            return self.ended.size or 0
        return self.offset - 1 if self.is_whole else self.offset


class Uploads:
    """The uploads that this process is at. One per process."""

    def __init__(self, node: Node, files: FileStore, limits: BlobLimits) -> None:
        self.node = node
        self.files = files
        self.limits = limits
        self._open: OrderedDict[str, Upload] = OrderedDict()
        self._opening = asyncio.Lock()
        self._finishers = ThreadPoolExecutor(FINISHERS, "blob-finish")

    @asynccontextmanager
    async def use(self, blob: Blob) -> AsyncIterator[Upload]:
        """The upload of an unfinished blob, for as long as the block."""
        upload = await self._get(blob)
        upload.users += 1
        try:
            yield upload
        finally:
            upload.users -= 1
            self._let_go(upload)

    async def _get(self, blob: Blob) -> Upload:
        async with self._opening:
            upload = self._open.get(blob.id)
            if upload is None:
                async with self.node.store.snapshot() as tx:
                    now = await tx.blobs.get(blob.id)
                if now is None:
                    raise unknown_blob()
                if now.is_complete:  # since the caller has looked
                    return Upload(now, None)
                upload = Upload(now, await asyncio.to_thread(self.files.stage, now.id))
                self._open[now.id] = upload
            elif upload.blob.size is None:
                upload.blob = blob
            self._open.move_to_end(blob.id)
            return upload

    def _let_go(self, upload: Upload) -> None:
        """Close the files of uploads that have ended, and of those that nobody is at the ones left longest ago."""
        if upload.ended is not None and not upload.users:
            if self._open.get(upload.blob.id) is upload:
                del self._open[upload.blob.id]
            upload.close()
        idle = [one for one in self._open.values() if not one.users]
        for one in idle[: max(0, len(idle) - IDLE_UPLOADS)]:
            del self._open[one.blob.id]
            one.close()

    def stop(self) -> None:
        """The relay stops."""
        for upload in self._open.values():
            upload.stop()

    async def if_whole(self, upload: Upload) -> None:
        """Finish an upload of which all is there, though nobody has said so: the relay was killed in between.

        Raises:
            As `finish` does.
        """
        if upload.is_whole and upload.ended is None:
            async with upload.turn(None):
                await self.finish(upload)

    def forget(self, blob_id: str) -> None:
        """Its time was over, and it has been removed. Who reads along, or writes, is told."""
        upload = self._open.get(blob_id)
        if upload is not None:
            upload.end(blobs.Expired())
            upload.interrupt()
            self._let_go(upload)

    # --- the end of an upload

    async def finish(self, upload: Upload) -> Blob:
        """All is there: check it, give it its place, and say so. To be called in the upload's `turn`; may be repeated.

        Raises:
            ChecksumMismatch: it is not what was announced; then it is gone.
            StorageFull, StorageUnavailable: try again.
        """
        if isinstance(upload.ended, Blob):
            return upload.ended
        finishing = asyncio.create_task(self._finish(upload), name="upload-finish")
        await settled(finishing)  # not cut off with the request that began it: the bytes are all there
        return finishing.result()

    async def _finish(self, upload: Upload) -> Blob:
        blob = upload.blob
        digest = await self._long(upload.staged.digest)
        if blob.sha256 is not None and digest != blob.sha256:
            error = ChecksumMismatch("the SHA-256 of the whole is not the announced one; the upload was dropped")
            await self.drop(upload, error)
            raise error
        complete = await self._record(blob, await self._long(upload.staged.keep))
        upload.end(complete or unknown_blob())
        await asyncio.to_thread(upload.staged.discard)
        if complete is None:
            raise unknown_blob()
        return complete

    async def _long(self, work: Callable[[], T]) -> T:
        """Work that takes as long as the blob is large: not in the threads that pieces are read and written in."""
        return await asyncio.get_running_loop().run_in_executor(self._finishers, work)

    async def _record(self, blob: Blob, content: Content) -> Blob | None:
        """None, if the blob has gone meanwhile, with its project."""
        now_us = self.node.now_us()
        expires_us = blob.expires_us if blob.is_part else None
        async with self.node.store.transaction() as tx:
            await tx.blobs.complete(
                blob.id, size=content.size, sha256=content.sha256, expires_us=expires_us, now_us=now_us
            )
            return await tx.blobs.get(blob.id)

    async def drop(self, upload: Upload, why: ReplyError, by: Principal | str = RELAY) -> None:
        """End an upload that is not complete. Who reads along is told."""
        await blobs.withdraw(self.node, by, upload.blob)
        upload.end(why)
        await asyncio.to_thread(upload.staged.discard)

    # --- parts

    async def outcome(self, blob: Blob) -> Blob | None:
        """What has become of a blob that is complete, or is being put together now; None if it will not be."""
        if blob.is_complete:
            return blob
        upload = self._open.get(blob.id)
        if upload is None or not upload.users:
            return None  # whoever was at it was killed
        async with self.use(blob) as upload:
            try:
                await upload.follow(blob.size or 0, TOGETHER_PATIENCE_S)
            except (ReplyError, TimeoutError):
                return None
            return upload.ended if isinstance(upload.ended, Blob) else None

    async def put_together(self, blob: Blob, parts: Sequence[Blob]) -> Blob:
        """One blob of several complete parts, in their order. The parts are not needed any more.

        Raises:
            As `finish` does.
        """
        async with self.use(blob) as upload, upload.turn(0):
            try:
                for part in parts:
                    await upload.receive(self._bytes_of(part), limit=blob.size or 0, patience_s=COPY_PATIENCE_S)
                complete = await self.finish(upload)
            except BaseException as error:
                if upload.ended is None:
                    why = error if isinstance(error, ReplyError) else unknown_blob()
                    await settled(asyncio.create_task(self.drop(upload, why)))
                raise
        async with self.node.store.transaction() as tx:
            for part in parts:
                await tx.blobs.extend(part.id, self.node.now_us())
        return complete

    async def _bytes_of(self, part: Blob) -> AsyncIterator[bytes]:
        reader, at = await asyncio.to_thread(self.files.open, part.sha256 or ""), 0
        try:
            while piece := await asyncio.to_thread(reader.read, at, COPY_BYTES):
                yield piece
                at += len(piece)
        finally:
            reader.close()
