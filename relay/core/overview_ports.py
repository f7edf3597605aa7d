"""What an overview of all projects needs from the storage: a bounded number of rows, read in one snapshot.

Nothing in them grows with how much a site has said: what is longer than a few kilobytes is left where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from relay.core.model import Role
from relay.core.run_states import Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Most:
    """How many rows there may be of each. Who is online, and what runs, goes first; then what is newest."""

    sites: int = 200
    projects: int = 200
    runs: int = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteRow:
    """`seen_us` is when it last came or went; `lag` the most events past its cursor in a project, None without one."""

    id: int
    uid: str
    name: str
    connected: bool
    seen_us: int
    created_us: int
    lag: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectRow:
    """`batch` is the open one, or else the last (0: none yet); `queued` one that waits for its sites.

    `lag` is the most that a member is behind that is not connected, as in `SiteRow`.
    """

    id: int
    name: str
    coordinator_uid: str
    coordinator_name: str
    batch: int
    queued: int | None
    epoch: str
    head: int
    members: int
    online: int
    lag: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """A run of a project's batch; `progress` is the newest that its site has told: when, and what, if it is short."""

    id: int
    project_id: int
    batch: int
    site_uid: str
    site_name: str
    role: Role
    status: Status
    cur_seq: int
    round: int | None
    rounds: int | None
    progress: tuple[int, bytes | None] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Everything, and how many sites and projects there are. `standings`: project → how many runs stand in a status."""

    sites_total: int
    projects_total: int
    sites: tuple[SiteRow, ...] = ()
    projects: tuple[ProjectRow, ...] = ()
    runs: tuple[RunRow, ...] = ()
    standings: Mapping[int, Mapping[Status, int]]


class Overviews(Protocol):
    async def totals(self) -> tuple[int, int]:
        """How many sites and projects there are."""

    async def rows(self, most: Most) -> Rows: ...
