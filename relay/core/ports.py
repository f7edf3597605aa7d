"""The ports: what the core needs from the storage and from a socket, and nothing about how it is done.

`Store` is served by `db` on SQLite and on PostgreSQL. All state changes and the journal entries that tell of them go
through one `Tx`, which commits whole or not at all; its parts are in `journal_ports`, `account_ports`, `project_ports`,
`admission_ports` and `overview_ports`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from relay.core.account_ports import Groups, Keys, SigningKeys, SiteCertificates, Sites, Tokens, Users
from relay.core.admission_ports import Admission, Invitations
from relay.core.journal_ports import Audit, Cursors, Journal, ProgressTable, Retention
from relay.core.model import (
    Draft,
)
from relay.core.overview_ports import Overviews
from relay.core.project_ports import Blobs, Files, Participants, Policies, Projects, Runs
from relay.protocol.errors import ErrorCode, ReplyError
from relay.protocol.position import JournalBounds


class StorageUnavailable(ReplyError):
    """The database or the disk does not answer, or answers that it cannot now. Try again later."""

    def __init__(self, cause: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, "the storage did not answer; nothing was stored, try again")
        self.cause = cause
        """For the log, not for the client: it may name hosts."""


class StorageFull(StorageUnavailable):
    """There is no room left on the disk. Nothing was stored."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.message = "the storage is full; nothing was stored"


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageLoad:
    """Connections that are in use and that are not, and how many wait for one."""

    in_use: int
    idle: int
    waiting: int


class AlreadyThere(Exception):
    """A unique value (a name, a uid, an event's id) is taken. Nothing of the transaction was stored."""


class Tx(Protocol):
    """One transaction; its parts share it."""

    @property
    def journal(self) -> Journal: ...
    @property
    def cursors(self) -> Cursors: ...
    @property
    def retention(self) -> Retention: ...
    @property
    def users(self) -> Users: ...
    @property
    def tokens(self) -> Tokens: ...
    @property
    def signing_keys(self) -> SigningKeys: ...
    @property
    def site_certificates(self) -> SiteCertificates: ...
    @property
    def sites(self) -> Sites: ...
    @property
    def projects(self) -> Projects: ...
    @property
    def participants(self) -> Participants: ...
    @property
    def invitations(self) -> Invitations: ...
    @property
    def admission(self) -> Admission: ...
    @property
    def runs(self) -> Runs: ...
    @property
    def policies(self) -> Policies: ...
    @property
    def progress(self) -> ProgressTable: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def files(self) -> Files: ...
    @property
    def blobs(self) -> Blobs: ...
    @property
    def groups(self) -> Groups: ...
    @property
    def audit(self) -> Audit: ...
    @property
    def overviews(self) -> Overviews: ...


class Store(Protocol):
    """The storage.

    Both context managers raise `StorageUnavailable` when the storage does not answer within its time-outs, and never
    leave a transaction open, also when the task is cancelled.
    """

    def transaction(self) -> AbstractAsyncContextManager[Tx]:
        """A read-write transaction: committed when the block ends, rolled back when it raises."""

    def snapshot(self) -> AbstractAsyncContextManager[Tx]:
        """A read-only transaction in which all queries see one and the same state."""

    @property
    def load(self) -> StorageLoad:
        """How busy the connections are now."""

    async def check(self) -> None:
        """Ask the storage whether it would take a change now. Raises `StorageUnavailable` if not."""

    async def append_fast(self, drafts: Mapping[int, Sequence[Draft]], now_us: int) -> dict[int, JournalBounds]:
        """Append drafts to the journals of projects, in one commit, in the fewest round trips.

        Returns the bounds of each project after the append; the drafts have the last offsets, in order. Projects that
        do not exist are left out, and nothing is stored for them.

        Raises:
            AlreadyThere: an id is in a journal already; nothing was stored. Use a transaction, and look.
        """


class Link(Protocol):
    """One open socket, as the core sees it: frames go in, and never block."""

    @property
    def writable(self) -> bool:
        """False while the socket's buffer is above its high-water mark: write no more than you must."""

    def send(self, frames: bytes) -> None:
        """Hand over a whole WebSocket frame, or several. Does nothing once the socket is gone."""

    def pending_bytes(self) -> int:
        """Bytes handed over that the operating system has not taken yet."""

    async def drained(self) -> None:
        """Wait until `writable`, or until the socket is gone."""

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; the socket is cut if the peer does not answer."""
