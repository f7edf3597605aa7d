"""Who gets into a project: the records, and the ports to where they are kept. See `relay.core.admission`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Invitation:
    """A code that lets one site in, once. The code itself is nowhere: only its SHA-256 is stored.

    `used_by` is the uid of the site that it let in.
    """

    id: int
    project_id: int
    label: str
    created_us: int
    expires_us: int
    revoked_us: int | None = None
    used_us: int | None = None
    used_by: str | None = None

    def state(self, now_us: int) -> Literal["open", "used", "revoked", "expired"]:
        if self.used_us is not None:
            return "used"
        if self.revoked_us is not None:
            return "revoked"
        return "open" if now_us < self.expires_us else "expired"


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinRequest:
    """A site that asks to take part. It lapses at `expires_us`; once rejected, it stays so until then."""

    project_id: int
    site_id: int
    notes: str
    asked_us: int
    expires_us: int
    rejected_us: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A site that was removed: it does not come back by itself."""

    project_id: int
    site_id: int
    since_us: int


class Invitations(Protocol):
    async def create(
        self, *, project_id: int, digest: bytes, label: str, now_us: int, expires_us: int
    ) -> Invitation: ...
    async def by_digest(self, digest: bytes) -> Invitation | None: ...
    async def of_project(self, project_id: int, *, limit: int) -> list[Invitation]:
        """The newest, by age."""

    async def count_open(self, project_id: int, now_us: int) -> int: ...
    async def use(self, invitation_id: int, site_uid: str, now_us: int) -> None: ...
    async def revoke(self, project_id: int, invitation_id: int, now_us: int) -> bool:
        """False if the project has no such invitation, or it was used. Once revoked, it stays so."""

    async def purge(self, project_id: int, before_us: int) -> None:
        """Forget those that have expired before then."""


class Admission(Protocol):
    """Requests that wait, and sites that are barred."""

    async def request(self, project_id: int, site_id: int, now_us: int) -> JoinRequest | None:
        """A request that has not lapsed, rejected or not."""

    async def ask(self, request: JoinRequest) -> None:
        """Put it in the place of one that there may be."""

    async def waiting(self, project_id: int, now_us: int, *, limit: int) -> list[JoinRequest]:
        """Those that are neither rejected nor lapsed, the oldest first."""

    async def reject(self, project_id: int, site_id: int, now_us: int) -> None: ...
    async def settle(self, project_id: int, site_id: int) -> None:
        """The site gets in: its request and its bar are gone."""

    async def bar(self, project_id: int, site_id: int, now_us: int) -> None: ...
    async def is_barred(self, project_id: int, site_id: int) -> bool: ...
    async def barred(self, project_id: int, *, limit: int) -> list[Bar]: ...
    async def unbar(self, project_id: int, site_id: int) -> bool:
        """False if it was not barred."""

    async def purge(self, project_id: int, now_us: int) -> None:
        """Forget requests that have lapsed."""
