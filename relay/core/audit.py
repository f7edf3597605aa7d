"""The audit record, as the rest of the core uses it: who did what, to what, when, from where, and what came of it.

A change of state and its entry are one transaction (`Change.note`, or `record` in a transaction of one's own): nothing
happens unrecorded. What changes nothing, a refused login or a download, is handed to the `Recorder`, which writes it a
moment later, with what else there is; past its bound entries are left out, and one entry says how many.

Publishes are not audited: the journal is their record. Neither payloads nor secrets are ever in an entry.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, replace

from relay.core.access import Principal
from relay.core.audit_chain import OK, Deed, Note, plain
from relay.core.ports import StorageUnavailable, Store, Tx

log = logging.getLogger(__name__)

GATHER_S = 0.2
"""Entries that come within this time are written together."""
WAITING = 10_000
"""Entries that wait to be written. What is more is left out, and counted."""
BATCH = 500
"""Entries of one commit."""
REMEMBERED = 20_000
"""Of what is recorded once in a while, how much is remembered."""
RETRY_S = 1.0
FLUSH_TIMEOUT_S = 5.0
UNKNOWN = "unknown"
RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Source:
    """Whose request is served. `actor` acts where no principal is known: on the command line."""

    origin: str = ""
    actor: str = RELAY


NOWHERE = Source()
SOURCE: ContextVar[Source] = ContextVar("audit_source", default=NOWHERE)
"""Set by the doors for each request, and by the command line."""


def make(
    at_us: int,
    deed: Deed,
    by: Principal | str | None,
    target: str = "",
    **details: str | int | None,
) -> Note:
    """A note of what is done now. `by` is who does it; None is whoever serves at the command line, or the relay."""
    source = SOURCE.get()
    actor = by.actor if isinstance(by, Principal) else by or source.actor
    return Note(
        at_us=at_us,
        actor=plain(actor),
        action=deed,
        target=plain(target),
        origin="" if actor == RELAY else plain(source.origin),
        details={name: plain(value) if isinstance(value, str) else value for name, value in details.items()},
    )


async def record(
    tx: Tx, at_us: int, deed: Deed, by: Principal | str | None, target: str = "", **details: str | int | None
) -> None:
    """Record what this transaction does. To be the last thing in it: the chain's head is held from here on."""
    await tx.audit.append([make(at_us, deed, by, target, **details)])


class Recorder:
    """See the module. One per node; idle, it has no task and makes no query."""

    def __init__(self, store: Store, now_us: Callable[[], int], spawn: Callable[[object, str], object]) -> None:
        self._store = store
        self._now_us = now_us
        self._spawn = spawn
        self._waiting: deque[Note] = deque()
        self._left_out = 0
        self._running = False
        self._turn = asyncio.Lock()
        self._seen: OrderedDict[Hashable, int] = OrderedDict()

    def later(
        self,
        deed: Deed,
        by: Principal | str | None,
        target: str = "",
        *,
        result: str = OK,
        **details: str | int | None,
    ) -> None:
        """Record what changes nothing. Never waits, and never fails."""
        self.take([replace(make(self._now_us(), deed, by, target, **details), result=result)])

    def once_in(
        self, period_s: float, deed: Deed, by: Principal, target: str = "", **details: str | int | None
    ) -> None:
        """The same, unless it was recorded within the period: what is done again and again is one entry."""
        note = make(self._now_us(), deed, by, target, **details)
        key = (note.action, note.actor, note.target, note.origin, tuple(note.details.items()))
        at_us = self._seen.get(key)
        if at_us is not None and note.at_us - at_us < period_s * 1e6:
            return
        self._seen[key] = note.at_us
        self._seen.move_to_end(key)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        self.take([note])

    def refused(self, notes: Iterable[Note], code: str) -> None:
        """What was to be done was not."""
        self.take([replace(note, result=code) for note in notes])

    def take(self, notes: Iterable[Note]) -> None:
        """Write these when there is time; leave out what is past the bound."""
        for note in notes:
            if len(self._waiting) < WAITING:
                self._waiting.append(note)
            else:
                self._left_out += 1
        if self._waiting and not self._running:
            self._running = True
            self._spawn(self._write(), "audit")

    async def _write(self) -> None:
        try:
            await asyncio.sleep(GATHER_S)
            while self._waiting or self._left_out:
                try:
                    await self._write_some()
                except StorageUnavailable as error:
                    log.warning("%d entries of the audit record wait: %s", len(self._waiting), error.cause)
                    await asyncio.sleep(RETRY_S)
        finally:
            self._running = False

    async def _write_some(self) -> None:
        async with self._turn:
            notes = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
            left_out = self._left_out
            more = [make(self._now_us(), Deed.LEFT_OUT, RELAY, count=left_out)] if left_out else []
            if not notes and not more:
                return
            async with self._store.transaction() as tx:
                await tx.audit.append([*notes, *more])
            self._left_out -= left_out
            for _ in notes:
                self._waiting.popleft()

    async def flush(self) -> None:
        """Write all that waits: the relay stops. What the storage does not take in time is lost, as the log says."""
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                while self._waiting or self._left_out:
                    await self._write_some()
        except (StorageUnavailable, TimeoutError):
            log.error("%d entries of the audit record are lost", len(self._waiting) + self._left_out)
