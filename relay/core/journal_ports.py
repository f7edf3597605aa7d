"""Ports of the storage: journals, what is kept beside them, the audit record. Parts of `relay.core.ports.Tx`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from relay.core.audit_chain import ChainHead, ChainLink, Note, Record
from relay.core.model import (
    Aged,
    Entry,
    Holding,
    Role,
)
from relay.protocol.position import JournalBounds


class Journal(Protocol):
    """A project's log of events. Offset order is commit order: an append holds the project's head until it commits."""

    async def create(self, project_id: int, epoch: str) -> None: ...
    async def lock(self, project_ids: Iterable[int]) -> dict[int, JournalBounds]:
        """Take the heads, in ascending order of project id, until the transaction ends; leave out absent projects."""

    async def bounds(self, project_id: int) -> JournalBounds | None: ...
    async def offsets_of(self, project_id: int, ids: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
        """The offsets of those (sender, event id) that are in the journal already."""

    async def append(self, entries: Sequence[Entry]) -> None:
        """Store entries whose offsets follow on the locked heads, and move the heads.

        Raises:
            AlreadyThere: an event of this sender and id is there.
        """

    async def read(
        self, project_id: int, after: int, *, limit: int, max_bytes: int, kind: str | None = None
    ) -> list[Entry]:
        """Entries after an offset, in order: at most `limit`, and past the first only while they fit `max_bytes`."""

    async def get(self, project_id: int, offset: int) -> Entry | None: ...
    async def unread(self, project_id: int, site_id: int, role: Role, *, after: int, through: int) -> int:
        """How many of the entries in (`after`, `through`] a member may see; its own not counted."""

    async def of_batch(self, project_id: int, batch: int, kinds: Sequence[str]) -> list[Entry]:
        """A batch's entries of these kinds, in order, without their payloads; data of an update is left out, too."""

    async def awaiting_receipt(self, project_id: int, *, limit: int) -> list[Entry]:
        """The newest `limit` entries whose sender asked for receipts, in order, without their payloads."""


class Cursors(Protocol):
    async def of_site(self, site_id: int) -> dict[int, int]:
        """Project id → the highest offset that the site has acknowledged."""

    async def of_project(self, project_id: int) -> dict[int, int]:
        """Site id → the highest offset that it has acknowledged."""

    async def advance(self, cursors: Mapping[tuple[int, int], int], now_us: int) -> None:
        """Move the cursors of (site id, project id) forward; never back."""


class Retention(Protocol):
    """What is kept of the journals."""

    async def holdings(self) -> list[Holding]:
        """All journals."""

    async def has_own_limits(self) -> bool:
        """Whether any journal has limits of its own."""

    async def set_limits(self, project_id: int, *, age_s: int | None, bytes_: int | None) -> bool:
        """None: as the relay's settings say. False if there is no such project."""

    async def size(self, project_id: int, after: int, through: int) -> int:
        """Bytes of the events in (`after`, `through`]."""

    async def oldest(self, project_id: int, begin: int, *, limit: int) -> list[Aged]:
        """The first events from the offset `begin` on, in order."""

    async def acknowledged_by_all(self, project_id: int) -> int | None:
        """The offset up to which every member has acknowledged, or was there too late for. None: it has no members."""

    async def begin_at(self, project_id: int, oldest: int) -> None:
        """From now on the journal begins at this offset, or at a later one if it does already."""

    async def remove(self, project_id: int) -> None:
        """Remove the events from before the journal's beginning."""


class ProgressTable(Protocol):
    async def put(self, entries: Sequence[Entry]) -> None: ...
    async def of_batch(self, project_id: int, batch: int) -> list[Entry]: ...


class Audit(Protocol):
    """The audit record. There is no way to change what is in it, and what is removed is its beginning."""

    async def head(self) -> ChainHead: ...
    async def append(self, notes: Sequence[Note]) -> None:
        """Add entries at the end. Whoever appends next waits until this transaction ends: do it last."""

    async def read(self, after: int, *, limit: int, since_us: int = 0) -> list[Record]:
        """Entries after a number, in order, of those that are not older than `since_us`."""

    async def links(self, after: int, *, limit: int) -> list[ChainLink]:
        """Entries after a number, in order, as they are stored."""

    async def checkpoint(self) -> ChainHead:
        """The entry up to which all are removed, or soon will be, as the newest entry of a pruning says."""

    async def remove(self, through: int, *, limit: int) -> int:
        """Remove the oldest entries up to this number. How many of them."""
        ...
