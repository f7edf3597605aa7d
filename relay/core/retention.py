"""How long a journal is kept, and taking away what is older, beside the work and in small steps.

    soft   age and bytes: what is past them goes, once every member has acknowledged it
    hard   age and bytes: what is past them goes, whoever has not

A site that has not acknowledged what went is told `recovered: false` when it comes back; a session that was on its way
there is closed 4410, and told so by its next welcome. All of this may be cut off at any time: the next pass goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from relay.core.model import Aged, Holding
from relay.core.node import Node
from relay.core.ports import StorageUnavailable

log = logging.getLogger(__name__)

STEP_ENTRIES = 256
STEP_BYTES = 8 * 1024 * 1024
STEP_PAUSE_S = 0.02
"""Between two steps, for those who wait for the database."""
COUNT_ENTRIES = 10_000
"""Events whose sizes are added up by one query."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionLimits:
    """Seconds, and bytes of the events of one project; 0 is no limit."""

    age_s: float = 0
    bytes: int = 0
    hard_age_s: float = 0
    hard_bytes: int = 0
    interval_s: float = 60.0

    def of(self, holding: Holding) -> RetentionLimits:
        """The limits of one project: its own go before the relay's; the hard ones are the relay's alone."""
        return replace(
            self,
            age_s=self.age_s if holding.age_s is None else holding.age_s,
            bytes=self.bytes if holding.bytes is None else holding.bytes,
        )

    @property
    def any(self) -> bool:
        return bool(self.age_s or self.bytes or self.hard_age_s or self.hard_bytes)

    def is_past(self, entry: Aged, bytes_from_here: int, now_us: int, *, hard: bool) -> bool:
        """Whether an event has to go, where `bytes_from_here` are in the journal with it and after it."""
        age_s, bytes_ = (self.hard_age_s, self.hard_bytes) if hard else (self.age_s, self.bytes)
        too_old = bool(age_s) and entry.at_us < now_us - age_s * 1e6
        return too_old or (bool(bytes_) and bytes_from_here > bytes_)


def cut(
    oldest: Sequence[Aged], *, total: int, acknowledged: int, limits: RetentionLimits, now_us: int
) -> tuple[int, int] | None:
    """How far the oldest events go in one step: through which offset, and how many bytes. None: none of them goes.

    Args:
        oldest: the journal's first events, in order.
        total: bytes of all its events.
        acknowledged: the offset up to which every member has acknowledged.
    """
    through, freed = None, 0
    for entry in oldest:
        left = total - freed
        soft = entry.offset <= acknowledged and limits.is_past(entry, left, now_us, hard=False)
        if not soft and not limits.is_past(entry, left, now_us, hard=True):
            break
        through, freed = entry.offset, freed + entry.size
        if freed >= STEP_BYTES:
            break
    return None if through is None else (through, freed)


@dataclass(slots=True)
class _Counted:
    """Bytes of the events from `oldest` through `through`."""

    oldest: int
    through: int
    bytes: int = 0


class Trimmer:
    """See the module. One a node; several at one database do no harm."""

    def __init__(self, node: Node, limits: RetentionLimits) -> None:
        self._node = node
        self._limits = limits
        self._counted: dict[int, _Counted] = {}
        self._swept: set[int] = set()
        self._changed = asyncio.Event()

    def start(self) -> None:
        self._node.on_elsewhere.append(self._changed.set)
        self._node.spawn(self._run(), "retention")

    async def _run(self) -> None:
        """A pass every interval. While nothing has a limit, nothing is asked until another process has been at work."""
        while True:
            await asyncio.sleep(self._limits.interval_s)
            self._changed.clear()
            try:
                limited = await self.trim()
            except StorageUnavailable as error:
                log.warning("journals not trimmed: %s", error.cause)
                continue
            if not limited:
                await self._changed.wait()

    async def trim(self) -> bool:
        """Take away everything that has to go. False if no journal has a limit."""
        async with self._node.store.snapshot() as tx:
            if not self._limits.any and not await tx.retention.has_own_limits():
                return False
            holdings = await tx.retention.holdings()
        for project_id in self._counted.keys() - {holding.project_id for holding in holdings}:
            del self._counted[project_id]
        for holding in holdings:
            limits = self._limits.of(holding)
            if limits.any and holding.oldest <= holding.head:
                await self._trim(holding, limits)
        return True

    async def _trim(self, holding: Holding, limits: RetentionLimits) -> None:
        project_id, begin = holding.project_id, holding.oldest
        await self._sweep(project_id)
        counted = await self._count(holding) if limits.bytes or limits.hard_bytes else None
        while (step := await self._next_step(project_id, begin, counted, limits)) is not None:
            through, freed = step
            begin = through + 1
            async with self._node.store.transaction() as tx:
                await tx.retention.begin_at(project_id, begin)
            async with self._node.store.transaction() as tx:
                await tx.retention.remove(project_id)
            if counted is not None:
                counted.oldest, counted.bytes = begin, counted.bytes - freed
            hub = self._node.hubs.get(project_id)
            if hub is not None:
                hub.oldest = max(hub.oldest, begin)
            await asyncio.sleep(STEP_PAUSE_S)
        if begin > holding.oldest:
            log.info("journal trimmed: it begins at %d", begin, extra={"project": project_id})

    async def _next_step(
        self, project_id: int, begin: int, counted: _Counted | None, limits: RetentionLimits
    ) -> tuple[int, int] | None:
        async with self._node.store.snapshot() as tx:
            oldest = await tx.retention.oldest(project_id, begin, limit=STEP_ENTRIES)
            acknowledged = await tx.retention.acknowledged_by_all(project_id)
        return cut(
            oldest,
            total=0 if counted is None else counted.bytes,
            acknowledged=begin + STEP_ENTRIES if acknowledged is None else acknowledged,
            limits=limits,
            now_us=self._node.now_us(),
        )

    async def _sweep(self, project_id: int) -> None:
        """Once after a start: take along what a crash has left behind."""
        if project_id not in self._swept:
            async with self._node.store.transaction() as tx:
                await tx.retention.remove(project_id)
            self._swept.add(project_id)

    async def _count(self, holding: Holding) -> _Counted:
        """The journal's bytes: all of it once, and then what has been added since."""
        counted = self._counted.get(holding.project_id)
        if counted is None or counted.oldest != holding.oldest or counted.through > holding.head:
            counted = _Counted(holding.oldest, holding.oldest - 1)
        while counted.through < holding.head:
            through = min(holding.head, counted.through + COUNT_ENTRIES)
            async with self._node.store.snapshot() as tx:
                counted.bytes += await tx.retention.size(holding.project_id, counted.through, through)
            counted.through = through
        self._counted[holding.project_id] = counted
        return counted
