"""The journal's writer: everything that is published while a commit is under way goes into the next one together.

One writer a node. Publishes are taken in the order in which they were offered, so those of one session keep theirs. An
answer is given after the commit, never before; whatever goes wrong, each publish is answered exactly once.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from relay.core.model import Appended, Draft, Entry
from relay.core.ports import AlreadyThere, StorageUnavailable, Store, Tx
from relay.protocol.errors import ErrorCode, ReplyError, unknown_blob, unknown_project

log = logging.getLogger(__name__)

Answer = Callable[[Appended | ReplyError], None]
OnCommitted = Callable[[int, Sequence[Entry]], None]
OnDoubt = Callable[[Iterable[int]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterLimits:
    """`queue_*`: what may wait, and past which a publish is refused as `unavailable`. `batch_*`: one commit."""

    queue_entries: int = 20_000
    queue_bytes: int = 256 * 1024 * 1024
    batch_entries: int = 1024
    batch_bytes: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Offered:
    project_id: int
    draft: Draft
    answer: Answer
    size: int


class JournalWriter:
    """See the module. `on_committed(project_id, entries)` is called right after each commit, before the answers.

    `on_doubt(project_ids)` is called when the storage gave no answer: what was offered may be in the journal after all.
    """

    def __init__(
        self,
        store: Store,
        limits: WriterLimits,
        now_us: Callable[[], int],
        on_committed: OnCommitted,
        on_doubt: OnDoubt,
    ) -> None:
        self._store = store
        self._limits = limits
        self._now_us = now_us
        self._on_committed = on_committed
        self._on_doubt = on_doubt
        self._queue: deque[_Offered] = deque()
        self._queue_bytes = 0
        self._task: asyncio.Task[None] | None = None

    def offer(self, project_id: int, draft: Draft, answer: Answer) -> None:
        """Have a draft appended; `answer` is called with its offset once it is durable, or with why it is not.

        Raises:
            ReplyError: `unavailable`, when too much waits already; nothing was taken.
        """
        size = len(draft.payload or draft.data or b"")
        limits = self._limits
        if len(self._queue) >= limits.queue_entries or self._queue_bytes + size > limits.queue_bytes:
            raise ReplyError(ErrorCode.UNAVAILABLE, "the storage does not keep up; nothing was stored, try again")
        self._queue.append(_Offered(project_id, draft, answer, size))
        self._queue_bytes += size
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="journal-writer")

    @property
    def waiting(self) -> int:
        """Publishes that wait for the next commit."""
        return len(self._queue)

    @property
    def waiting_bytes(self) -> int:
        return self._queue_bytes

    async def append(self, project_id: int, draft: Draft) -> Appended:
        """Like `offer`, for a caller that awaits the outcome.

        Raises:
            ReplyError: why it was not appended.
        """
        outcome: asyncio.Future[Appended | ReplyError] = asyncio.get_running_loop().create_future()
        self.offer(project_id, draft, lambda result: None if outcome.done() else outcome.set_result(result))
        result = await outcome
        if isinstance(result, ReplyError):
            raise result
        return result

    async def drain(self) -> None:
        """Wait until everything that was offered is answered."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._commit(self._take_batch())
        finally:
            self._task = None

    def _take_batch(self) -> list[_Offered]:
        batch = [self._queue.popleft()]
        size = batch[0].size
        while self._queue and len(batch) < self._limits.batch_entries:
            size += self._queue[0].size
            if size > self._limits.batch_bytes:
                break
            batch.append(self._queue.popleft())
        self._queue_bytes -= sum(offered.size for offered in batch)
        return batch

    async def _commit(self, batch: Sequence[_Offered]) -> None:
        try:
            try:
                if any(offered.draft.blob is not None for offered in batch):
                    await self._append_or_find(batch)
                else:
                    await self._append_new(batch)
            except AlreadyThere:
                await self._append_or_find(batch)
        except StorageUnavailable as error:
            log.warning("publishes not stored: %s", error.cause, extra={"publishes": len(batch)})
            self._on_doubt({offered.project_id for offered in batch})
            for offered in batch:
                offered.answer(error)
        except Exception:
            if len(batch) > 1:  # one of them is at fault: the others must not suffer for it
                for offered in batch:
                    await self._commit([offered])
                return
            incident = uuid.uuid4().hex
            log.exception("publish failed", extra={"incident": incident})
            batch[0].answer(ReplyError(ErrorCode.INTERNAL, "the relay failed; its log has the id", {"id": incident}))

    async def _append_new(self, batch: Sequence[_Offered]) -> None:
        """The usual case: none of the ids is known, and one statement does it all."""
        by_project: dict[int, list[_Offered]] = {}
        for offered in batch:
            by_project.setdefault(offered.project_id, []).append(offered)
        now_us = self._now_us()
        drafts = {project_id: [o.draft for o in of_project] for project_id, of_project in by_project.items()}
        bounds = await self._store.append_fast(drafts, now_us)
        for project_id, of_project in by_project.items():
            if project_id not in bounds:
                for offered in of_project:
                    offered.answer(unknown_project())
                continue
            first = bounds[project_id].head - len(of_project) + 1
            entries = [
                Entry(project_id=project_id, offset=offset, at_us=now_us, draft=offered.draft)
                for offset, offered in enumerate(of_project, start=first)
            ]
            self._on_committed(project_id, entries)
            for offset, offered in enumerate(of_project, start=first):
                offered.answer(Appended(offset=offset, duplicate=False))

    async def _append_or_find(self, batch: Sequence[_Offered]) -> None:
        """Some ids are in the journal already, or twice in the batch, or some refer to blobs: look, under locks."""
        outcomes: list[Appended | ReplyError] = []
        entries: dict[int, list[Entry]] = {}
        now_us = self._now_us()
        async with self._store.transaction() as tx:
            held = await tx.journal.lock({offered.project_id for offered in batch})
            heads = {project_id: bounds.head for project_id, bounds in held.items()}
            blobs = await _hold_blobs(tx, batch)
            for offered in batch:
                project_id, draft = offered.project_id, offered.draft
                if project_id not in heads:
                    outcomes.append(unknown_project())
                    continue
                of_project = entries.setdefault(project_id, [])
                known = _offset_in(of_project, draft)
                if known is None and draft.sender_id is not None:
                    found = await tx.journal.offsets_of(project_id, [(draft.sender_id, draft.id)])
                    known = found.get((draft.sender_id, draft.id))
                if known is not None:
                    outcomes.append(Appended(offset=known, duplicate=True))
                    continue
                if draft.blob is not None and draft.blob not in blobs:
                    outcomes.append(unknown_blob())
                    continue
                heads[project_id] += 1
                of_project.append(Entry(project_id=project_id, offset=heads[project_id], at_us=now_us, draft=draft))
                outcomes.append(Appended(offset=heads[project_id], duplicate=False))
            for of_project in entries.values():
                if of_project:
                    await tx.journal.append(of_project)
        self._announce(entries)
        for offered, outcome in zip(batch, outcomes, strict=True):
            offered.answer(outcome)

    def _announce(self, entries: Mapping[int, Sequence[Entry]]) -> None:
        for project_id, of_project in entries.items():
            if of_project:
                self._on_committed(project_id, of_project)


async def _hold_blobs(tx: Tx, batch: Sequence[_Offered]) -> set[str]:
    """The blobs that are referred to, as far as they are still there; they stay for the transaction."""
    wanted = {offered.draft.blob for offered in batch if offered.draft.blob is not None}
    return await tx.blobs.hold(wanted) if wanted else set()


def _offset_in(entries: Sequence[Entry], draft: Draft) -> int | None:
    same = (e for e in entries if (e.draft.sender_id, e.draft.id) == (draft.sender_id, draft.id))
    return next((entry.offset for entry in same), None)
