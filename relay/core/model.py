"""The records of the relay: frozen, keyword-only, one shape whatever database they came from.

Times are integers: microseconds since 1970-01-01T00:00:00Z, named `*_us`. On the wire they are RFC 3339 strings
(`rfc3339`). Ids are positive integers that are never used again; a site's `uid` is its name to the outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from relay.core.run_states import Status

JsonObject = dict[str, Any]


class Role(StrEnum):
    COORDINATOR = "CO"
    PARTICIPANT = "PA"

    @property
    def display(self) -> str:
        return self.name.lower()


class Kind(StrEnum):
    """The kinds of events. A site publishes the first six; the others are the relay's own."""

    COMMAND = "command"
    UPDATE = "update"
    PROGRESS = "progress"
    LOG = "log"
    KEY = "key"
    MESSAGE = "message"
    RUN = "run"
    PARTICIPANT = "participant"
    PROJECT = "project"
    BATCH = "batch"
    FILE = "file"
    REQUEST = "request"


PUBLISHABLE = frozenset({Kind.COMMAND, Kind.UPDATE, Kind.PROGRESS, Kind.LOG, Kind.KEY, Kind.MESSAGE})


class JoinPolicy(StrEnum):
    """Who gets into a project; see `relay.core.admission`."""

    OPEN = "open"
    INVITATION = "invitation"
    APPROVAL = "approval"


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    id: int
    username: str
    email: str
    password_hash: str = field(repr=False)
    is_operator: bool
    is_active: bool
    created_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """`connected` and `seen_us` are what presence last wrote down; ask `Presence` for what is true now."""

    id: int
    uid: str
    name: str
    description: str
    owner_id: int
    connected: bool
    seen_us: int
    created_us: int
    updated_us: int


class Scope(StrEnum):
    """What a token may be used for; `relay.core.access` says what that is."""

    CONNECT = "connect"
    PUBLISH = "publish"
    READ_ONLY = "read-only"
    METRICS = "metrics"


DEFAULT_SCOPES = (Scope.CONNECT, Scope.PUBLISH)


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A site's credential. The secret itself is nowhere: `digest` is its SHA-256."""

    id: str
    site_id: int
    label: str
    created_us: int
    expires_us: int | None
    revoked_us: int | None
    scopes: tuple[Scope, ...] = DEFAULT_SCOPES


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A token with the site that it stands for, and whether the site's user is active."""

    token: Token
    site: Site
    is_active: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SigningKey:
    """A public key that a site signs in with: 32 bytes of Ed25519. `id` is made from the key itself.

    `used_us` is when the site last signed in with it; None: never.
    """

    id: str
    site_id: int
    label: str
    public_key: bytes
    created_us: int
    used_us: int | None
    revoked_us: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteCertificate:
    """A TLS client certificate that a site is bound to. `sha256`: of its DER, 64 hex digits."""

    site_id: int
    sha256: str
    label: str
    created_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """`site_id` is the coordinator's; `batch` the number of the last batch that was started (0: none)."""

    id: int
    name: str
    description: str
    site_id: int
    batch: int
    tasks: list[JsonObject]
    agent_config: JsonObject
    agent_log: list[Any]
    created_us: int
    updated_us: int
    join_policy: JoinPolicy = JoinPolicy.OPEN


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """A site's part in a project. `joined` is the journal's head when it joined (0 for the first coordinator)."""

    id: int
    project_id: int
    site_id: int
    site_uid: str
    role: Role
    notes: str
    joined: int
    created_us: int
    updated_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One site's part in one batch. `tasks` is its own copy: rounds are counted in it.

    `preparing_us` is when it last entered Preparing; None: never.
    """

    id: int
    project_id: int
    batch: int
    participant_id: int
    site_id: int
    site_uid: str
    role: Role
    cur_seq: int
    status: Status
    tasks: list[JsonObject]
    logs: list[Any]
    artifacts: list[Any]
    middle_artifacts: list[Any]
    agent_advice: JsonObject
    agent_diagnosis: JsonObject
    created_us: int
    updated_us: int
    preparing_us: int | None = None

    @property
    def round(self) -> int | None:
        """The current task's round, from 1; None where the task does not say."""
        task = current_task(self.tasks, self.cur_seq)
        number = task.get("config", {}).get("current_round") if task else None
        return number if isinstance(number, int) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Bytes in the file store: where they lie, and how many they are."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NewFile:
    """A file that a run is to have. `blob` names the upload that it came with; its copies share it.

    `task` and `round` are as the controller said them; `name` is what it is called in lists and zips, never a path.
    """

    project_id: int
    run_id: int
    type: str
    task: str
    round: str
    name: str
    blob: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class File(NewFile):
    id: int
    created_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """A large payload: one upload of one site. Its bytes are in the file store.

    Attributes:
        project_id: None for a part that is yet to be put together with others.
        site_id: the uploader; None if it is gone, or for what polling controllers uploaded before there were blobs.
        metadata, concat: the headers Upload-Metadata and Upload-Concat, as they came; empty if they did not.
        size: None while the uploader has not said.
        sha256: what the uploader says they will be; once `is_complete`, what they are.
        expires_us: when it is dropped if it is not finished by then; for a part also when it is.
        idle_us: since when nothing refers to it.
    """

    id: str
    project_id: int | None
    site_id: int | None
    run: int | None = None
    filename: str
    media_type: str = "application/octet-stream"
    metadata: str = ""
    concat: str = ""
    size: int | None = None
    sha256: str | None = None
    is_complete: bool = False
    created_us: int
    expires_us: int | None = None
    idle_us: int | None = None

    @property
    def is_part(self) -> bool:
        return self.concat == "partial"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lying:
    """A file in the file store, by its name there: a SHA-256, or an upload's id."""

    name: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobRef:
    """Events that refer to a blob: who they are for (None: every member), and the offset of the newest of them."""

    project_id: int
    audience: frozenset[int] | None
    position: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A group of users. It gives no rights; the polling API has always kept them."""

    id: int
    name: str


def current_task(tasks: list[JsonObject], cur_seq: int) -> JsonObject | None:
    """The task that `cur_seq` names, if the list has it."""
    return next((task for task in tasks if task.get("seq") == cur_seq), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An event before it has its place in the journal.

    Args:
        audience: ids of the sites that may see it, besides the coordinator and the sender; None means every member.
        subject_id: the site that one of the relay's own events is about.
        data: JSON, as bytes; or None, and `payload` holds the bytes of a binary event.
        origin: the session that published it, which is not shown its own event live. Not stored.
        blob: the blob that it refers to. Stored beside it: whom it is for may read that.
    """

    kind: Kind
    id: str
    sender_id: int | None = None
    sender_uid: str | None = None
    subject_id: int | None = None
    run: int | None = None
    batch: int | None = None
    audience: frozenset[int] | None = None
    data: bytes | None = None
    payload: bytes | None = field(default=None, repr=False)
    receipts: bool = False
    origin: str | None = None
    blob: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An event in its place. `offset` is None while it is, and stays, transient."""

    project_id: int
    offset: int | None
    at_us: int
    draft: Draft


@dataclass(frozen=True, kw_only=True, slots=True)
class Appended:
    """What became of a draft: its offset, and whether it had been there already (idempotency)."""

    offset: int
    duplicate: bool


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, without saying it: `Z` is shorter than `+00:00`


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """What a journal holds, and for how long: `age_s` and `bytes` are its own limits, None where it has none."""

    project_id: int
    oldest: int
    head: int
    age_s: int | None
    bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Aged:
    """An event, as much of it as its keeping depends on. `size` is in bytes."""

    offset: int
    at_us: int
    size: int


def rfc3339(at_us: int) -> str:
    """`1764064800123456` → `2025-11-25T10:00:00.123456Z`: always six digits, always Z."""
    return f"{(_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec='microseconds')}Z"
