"""Ports of the storage: projects, who takes part, runs and large payloads. Parts of `relay.core.ports.Tx`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from relay.core.model import (
    Blob,
    BlobRef,
    Entry,
    File,
    JoinPolicy,
    JsonObject,
    NewFile,
    Participant,
    Project,
    Role,
    Run,
)
from relay.core.policy import Policy, Standing
from relay.core.run_states import Status


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
