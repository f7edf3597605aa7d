"""What is read by controllers that poll, and what they are shown of a run that has just entered Preparing.

Controllers that poll act on the statuses that they see, and must see their own Preparing: it is then that they
prepare. The site whose person hands over data last may be set to Running by the coordinator within the same second, and
its poll, every 5 s, would find Running, without a preparation: the batch fails. So polls go on showing Preparing for a
while.

Shown late is only what a batch goes on to (Running and after). A stop, a restart and an end are shown at once: there is
nothing to prepare any more. What is shown late is the same to everybody who polls. A request does not say which of a
user's controllers sends it, so none can be left out, and a coordinator's controller must see its own Preparing too.

A coordinator that is still shown that all prepare may tell the batch to run a second time. That would set back a site
that has done its part meanwhile; `repeats_start` knows such a repeat.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay.core import access
from relay.core.access import Principal
from relay.core.model import Participant, Role, Run
from relay.core.node import Node
from relay.core.run_states import Status

ON_THE_WAY_US = 2_000_000
"""How much later than it was read a coordinator may act on what a poll has shown."""

LATER = frozenset({Status.RUNNING, Status.PENDING_SUCCESS, Status.PENDING_AGGREGATING, Status.AGGREGATING})


def ends_us(run: Run, dwell_us: int) -> int | None:
    """Until when polls show the run as Preparing, though it stands elsewhere; None: they show where it stands."""
    if run.preparing_us is None or run.status not in LATER:
        return None
    return run.preparing_us + dwell_us


def shown(run: Run, now_us: int, dwell_us: int) -> Status:
    """The status that polls show of a run."""
    until_us = ends_us(run, dwell_us)
    return run.status if until_us is None or now_us >= until_us else Status.PREPARING


def repeats_start(batch: Sequence[Run], now_us: int, dwell_us: int) -> bool:
    """Whether Running has been said to this batch already, while polls still show, or just showed, that all of it
    prepares. Where nothing is shown late (`dwell_us` 0), nothing is said again by mistake.
    """
    read_us = now_us - ON_THE_WAY_US
    return dwell_us > 0 and all(
        run.status in LATER and shown(run, read_us, dwell_us) is Status.PREPARING for run in batch
    )


# --- reading


async def page(node: Node, user: Principal, *, limit: int, skip: int) -> tuple[int, list[Run]]:
    """The runs that a user may see: how many, and some of them, by id."""
    async with node.store.snapshot() as tx:
        return await tx.runs.visible_to(user.viewer, limit=limit, skip=skip)


async def active(node: Node, user: Principal) -> list[Run]:
    """The runs that have not ended, as far as a user may see them."""
    async with node.store.snapshot() as tx:
        return await tx.runs.active_for(user.viewer)


async def of_member(
    node: Node, principal: Principal, project_id: int, batch: int, site: int | str
) -> tuple[Participant, list[Run]] | None:
    """What a member, named by its site's id or uid, is to see of a batch: a coordinator all runs, others their own.

    None if there is no such thing, or it is none of the caller's business.
    """
    async with node.store.snapshot() as tx:
        members = await tx.participants.of_project(project_id)
        member = next((one for one in members if site in (one.site_id, one.site_uid)), None)
        if member is None or not access.may_see_run(principal, member.site_id, members):
            return None
        runs = await tx.runs.of_batch(project_id, batch)
    if member.role is not Role.COORDINATOR:
        runs = [run for run in runs if run.site_id == member.site_id]
    return (member, runs) if runs else None
