"""The ports: what the core needs from the storage and from a socket, and nothing about how it is done.

`Store` is served by `db` on SQLite and on PostgreSQL. All state changes and the journal entries that tell of them go
through one `Tx`, which commits whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from relay.core.admission_ports import Admission, Invitations
from relay.core.audit_chain import ChainHead, ChainLink, Note, Record
from relay.core.model import (
    Aged,
    Blob,
    BlobRef,
    Draft,
    Entry,
    File,
    Group,
    Holder,
    Holding,
    JoinPolicy,
    JsonObject,
    NewFile,
    Participant,
    Project,
    Role,
    Run,
    SigningKey,
    Site,
    Token,
    User,
)
from relay.core.overview_ports import Overviews
from relay.core.policy import Policy, Standing
from relay.core.run_states import Status
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


class Users(Protocol):
    async def get(self, user_id: int) -> User | None: ...
    async def by_name(self, username: str) -> User | None: ...
    async def old_iterations(self) -> int:
        """Of the slowest password hash that is left of the old router's; 0 if none is."""

    async def page(self, *, limit: int, skip: int) -> tuple[int, list[User]]: ...
    async def create(
        self, *, username: str, email: str, password_hash: str, is_operator: bool, now_us: int
    ) -> User: ...
    async def set_password(self, user_id: int, password_hash: str) -> None: ...
    async def set_active(self, user_id: int, active: bool) -> None: ...
    async def update(self, user_id: int, *, username: str, email: str) -> User | None:
        """Raises `AlreadyThere` if the name is taken. None if there is no such user."""

    async def delete(self, user_id: int) -> None:
        """The user's sites go with it: delete them first, so that it is told."""


class Groups(Protocol):
    async def get(self, group_id: int) -> Group | None: ...
    async def page(self, *, limit: int, skip: int) -> tuple[int, list[Group]]: ...
    async def create(self, name: str) -> Group:
        """Raises `AlreadyThere` if the name is taken; so does `rename`."""

    async def rename(self, group_id: int, name: str) -> Group | None: ...
    async def delete(self, group_id: int) -> None: ...
    async def of_users(self, user_ids: Sequence[int]) -> dict[int, list[int]]:
        """User id → the ids of its groups."""

    async def set_of_user(self, user_id: int, group_ids: Sequence[int]) -> None: ...


class Tokens(Protocol):
    async def by_digest(self, digest: bytes) -> Token | None: ...
    async def holders(self, digests: Sequence[bytes]) -> dict[bytes, Holder]:
        """Of those that there are: revoked and expired ones, too."""

    async def create(self, token: Token, digest: bytes) -> None: ...
    async def revoke(self, token_id: str, now_us: int) -> bool: ...
    async def of_site(self, site_id: int | None) -> list[Token]: ...
    async def invalid_among(self, token_ids: Sequence[str], now_us: int) -> set[str]:
        """Those that are revoked, expired or gone."""


class SigningKeys(Protocol):
    """The public keys that sites sign in with."""

    async def get(self, key_id: str) -> SigningKey | None: ...
    async def create(self, key: SigningKey) -> None:
        """Raises `AlreadyThere` if the key is registered, for whichever site."""

    async def revoke(self, key_id: str, now_us: int) -> bool: ...
    async def of_site(self, site_id: int | None) -> list[SigningKey]: ...
    async def invalid_among(self, key_ids: Sequence[str]) -> set[str]:
        """Those that are revoked or gone."""

    async def use(self, key_id: str, jti: str, *, expires_us: int, now_us: int) -> bool:
        """Take note that what the key has signed under this `jti` is used. False if the key is no longer good.

        Raises:
            AlreadyThere: it has been used before.
        """

    async def purge(self, now_us: int) -> None:
        """Forget what has been used and is expired."""


class Sites(Protocol):
    async def get(self, site_id: int) -> Site | None: ...
    async def by_uid(self, uid: str) -> Site | None: ...
    async def by_name(self, name: str) -> Site | None: ...
    async def many(self, site_ids: Sequence[int]) -> dict[int, Site]: ...
    async def ids_of_owner(self, user_id: int) -> list[int]: ...
    async def visible_to(self, user_id: int | None, *, limit: int, skip: int) -> tuple[int, list[Site]]:
        """The sites of a user and those that it meets in projects (None: all): how many, and one page."""

    async def visible(self, user_id: int, site_id: int) -> bool: ...
    async def create(
        self, *, uid: str, name: str, description: str, owner_id: int, connected: bool, now_us: int
    ) -> Site:
        """Raises `AlreadyThere` if the uid or the name is taken."""

    async def update(self, site_id: int, *, name: str, description: str, now_us: int) -> None: ...
    async def delete(self, site_id: int) -> None: ...
    async def record_presence(self, states: Mapping[int, tuple[bool, int]]) -> None:
        """Site id → (connected, seen_us), as presence knows it."""

    async def present(self) -> list[Site]:
        """The sites that were connected when presence last wrote it down."""

    async def unusable_among(self, site_ids: Sequence[int]) -> set[int]:
        """Those that are deleted, or whose user is disabled."""


class Projects(Protocol):
    async def get(self, project_id: int) -> Project | None: ...
    async def by_name(self, name: str) -> Project | None: ...
    async def visible_to(self, user_id: int | None, *, limit: int, skip: int) -> tuple[int, list[Project]]: ...
    async def ids_visible_to(self, user_id: int) -> list[int]: ...
    async def many(self, project_ids: Sequence[int]) -> dict[int, Project]: ...
    async def create(
        self,
        *,
        name: str,
        description: str,
        site_id: int,
        tasks: list[JsonObject],
        now_us: int,
        join_policy: JoinPolicy = JoinPolicy.OPEN,
    ) -> Project: ...
    async def update(self, project: Project) -> None:
        """Store everything of it but id and times of creation."""

    async def set_batch(self, project_id: int, batch: int, now_us: int) -> None: ...
    async def set_coordinator(self, project_id: int, site_id: int, now_us: int) -> None: ...
    async def delete(self, project_id: int) -> None: ...


class Participants(Protocol):
    async def get(self, participant_id: int) -> Participant | None: ...
    async def of_project(self, project_id: int) -> list[Participant]: ...
    async def of_site(self, site_id: int) -> list[Participant]: ...
    async def standings(self, site_ids: Sequence[int]) -> dict[int, dict[int, int | None]]:
        """Site id → the projects that it takes part in, each with the highest offset it has acknowledged there.

        A site that takes part in none is left out.
        """

    async def visible_to(self, user_id: int | None, *, limit: int, skip: int) -> tuple[int, list[Participant]]: ...
    async def create(
        self, *, project_id: int, site_id: int, role: Role, notes: str, joined: int, now_us: int
    ) -> Participant: ...
    async def set_notes(self, participant_id: int, notes: str, now_us: int) -> None: ...
    async def set_role(self, participant_id: int, role: Role, *, joined: int, now_us: int) -> None:
        """Its runs have the new role, too."""

    async def delete(self, participant_id: int) -> None: ...


class Runs(Protocol):
    async def get(self, run_id: int) -> Run | None: ...
    async def of_batch(self, project_id: int, batch: int) -> list[Run]: ...
    async def of_project(
        self, project_id: int, *, batch: int | None = None, site_id: int | None = None, active: bool | None = None
    ) -> list[Run]: ...
    async def open_batch(self, project_id: int) -> int | None:
        """The batch that has a run which is neither Failed nor Success, if any."""

    async def active_for(self, user_id: int | None) -> list[Run]:
        """Runs that have not ended, as far as the user's sites may see them (None: all)."""

    async def visible_to(self, user_id: int | None, *, limit: int, skip: int) -> tuple[int, list[Run]]: ...
    async def create(
        self, participants: Sequence[Participant], *, batch: int, tasks: list[JsonObject], now_us: int
    ) -> list[Run]: ...
    async def set_state(
        self, run_id: int, *, status: Status, cur_seq: int, tasks: list[JsonObject], now_us: int
    ) -> None: ...
    async def set_fields(self, run_id: int, fields: Mapping[str, Any], now_us: int) -> None:
        """Store JSON columns by name: logs, artifacts, middle_artifacts, agent_advice, agent_diagnosis."""


class Policies(Protocol):
    """What batches were started with, and how they stand with it. A batch without a policy has no entry."""

    async def get(self, project_id: int, batch: int) -> tuple[Policy, Standing] | None: ...
    async def put(self, project_id: int, batch: int, policy: Policy, standing: Standing) -> None: ...
    async def drop(self, project_id: int, batch: int) -> None: ...
    async def queued(self, project_id: int) -> int | None:
        """The batch that waits for its sites, if there is one."""

    async def in_force(self) -> list[tuple[int, int]]:
        """(project id, batch) of those that wait or run."""


class ProgressTable(Protocol):
    async def put(self, entries: Sequence[Entry]) -> None: ...
    async def of_batch(self, project_id: int, batch: int) -> list[Entry]: ...


class Keys(Protocol):
    async def put(self, site_id: int, keys: Mapping[str, str]) -> None: ...
    async def of_sites(self, site_ids: Sequence[int]) -> dict[int, dict[str, str]]: ...


class Files(Protocol):
    async def create(self, files: Sequence[NewFile], now_us: int) -> None: ...
    async def of_runs(self, run_ids: Sequence[int], type_: str, of: tuple[str, str] | None = None) -> list[File]:
        """The runs' files of a type, by run and age; `of` (task, round) leaves only those."""

    async def names(self, run_ids: Sequence[int]) -> set[str]:
        """What the runs' files are called."""


class Blobs(Protocol):
    """What is known of large payloads, and which events refer to them."""

    async def get(self, blob_id: str) -> Blob | None: ...
    async def create(self, blob: Blob) -> None: ...
    async def set_size(self, blob_id: str, size: int) -> None:
        """Say how long an unfinished one will be; once."""

    async def extend(self, blob_id: str, expires_us: int) -> None:
        """Have an unfinished one expire then."""

    async def complete(self, blob_id: str, *, size: int, sha256: str, expires_us: int | None, now_us: int) -> bool:
        """Its bytes are all there, under their SHA-256. False if it is gone, or was complete already."""

    async def delete(self, blob_id: str) -> None: ...
    async def refs(self, blob_id: str) -> list[BlobRef]: ...
    async def hold(self, blob_ids: Iterable[str]) -> set[str]:
        """Those that are there; they stay until the transaction ends."""

    async def refer(self, entries: Sequence[Entry], *, position: int | None = None) -> None:
        """Note what entries refer to, each at its offset, or at `position`. `Journal.append` does so for its own."""

    async def size_of_project(self, project_id: int) -> int:
        """Bytes that the blobs of a project take, or have announced. Nothing is counted as shared: that would tell."""

    async def size_of_site(self, site_id: int, now_us: int) -> int:
        """Without what has expired."""
        ...

    async def like(self, blob: Blob) -> Blob | None:
        """The newest that the same site has declared with the same `concat` and `metadata`."""
        ...

    async def open_of_site(self, site_id: int) -> int:
        """How many unfinished uploads a site has."""

    async def drop_old_refs(self) -> None:
        """Forget the references of events that their journals no longer have."""

    async def note_idle(self, now_us: int) -> None:
        """Note since when nothing refers to a complete blob: no event, and no run's file."""

    async def drop(self, *, expired_us: int, idle_us: int, limit: int) -> list[Blob]:
        """Remove some blobs that expire by then, or that nothing has referred to since."""

    async def contents_among(self, sha256s: Sequence[str]) -> set[str]:
        """Those that a blob or a run's file has."""

    async def contents_after(self, sha256: str, *, limit: int) -> list[tuple[str, int]]:
        """The next contents that blobs and files have, in order, with their sizes."""

    async def unfinished_among(self, blob_ids: Sequence[str]) -> set[str]: ...

    async def total_bytes(self) -> tuple[int, int]:
        """Bytes of all complete blobs, and what all unfinished ones have announced. Nothing is counted as shared."""


class Audit(Protocol):
    """The audit record. There is no way to change or remove what is in it."""

    async def head(self) -> ChainHead: ...
    async def append(self, notes: Sequence[Note]) -> None:
        """Add entries at the end. Whoever appends next waits until this transaction ends: do it last."""

    async def read(self, after: int, *, limit: int, since_us: int = 0) -> list[Record]:
        """Entries after a number, in order, of those that are not older than `since_us`."""

    async def links(self, after: int, *, limit: int) -> list[ChainLink]:
        """Entries after a number, in order, as they are stored."""


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
