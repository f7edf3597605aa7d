"""What the journals hold and for how long, for the operator; and limits of a project's own."""

from __future__ import annotations

from dataclasses import dataclass

from relay.core import audit
from relay.core.audit_chain import Deed
from relay.core.model import Holding, Project
from relay.core.ports import Store, Tx
from relay.protocol.errors import unknown_project


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """One journal. `bytes` are those of its events; `slowest` is the uid of the member that is furthest behind.

    `behind` counts the events between that member's cursor and the head; both are of interest because what it has not
    acknowledged is kept.
    """

    holding: Holding
    project: Project
    bytes: int
    slowest: str | None
    behind: int

    @property
    def events(self) -> int:
        return self.holding.head - self.holding.oldest + 1


async def overview(store: Store) -> list[Journal]:
    """All journals, by project."""
    async with store.snapshot() as tx:
        holdings = await tx.retention.holdings()
        projects = await tx.projects.many([holding.project_id for holding in holdings])
        return [await _journal(tx, holding, projects[holding.project_id]) for holding in holdings]


async def _journal(tx: Tx, holding: Holding, project: Project) -> Journal:
    cursors = await tx.cursors.of_project(project.id)
    reached = {
        part.site_uid: max(cursors.get(part.site_id, 0), part.joined)
        for part in await tx.participants.of_project(project.id)
    }
    slowest = min(reached, key=lambda uid: reached[uid], default=None)
    return Journal(
        holding=holding,
        project=project,
        bytes=await tx.retention.size(project.id, holding.oldest - 1, holding.head),
        slowest=slowest,
        behind=0 if slowest is None else max(0, holding.head - reached[slowest]),
    )


async def keep(store: Store, project_id: int, *, age_s: int | None, bytes_: int | None, now_us: int) -> None:
    """Give a journal limits of its own: 0 for none, None for those of the relay's settings.

    Raises:
        ReplyError: `unknown_project`.
    """
    async with store.transaction() as tx:
        if not await tx.retention.set_limits(project_id, age_s=age_s, bytes_=bytes_):
            raise unknown_project()
        await audit.record(tx, now_us, Deed.JOURNAL_KEEP, None, f"project:{project_id}", age_s=age_s, bytes=bytes_)
