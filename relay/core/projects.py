"""Projects: create, change, delete, and look at them and at who takes part.

Each function is one use case, whichever door it is called through. It asks `relay.core.access` first, changes rows and
journal in one transaction, and returns records; the doors turn them into what their clients expect.

By id, what is foreign does not exist. Who gets in is `relay.core.admission`'s, who is in `relay.core.membership`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from relay.core import access, membership
from relay.core.access import Action, Principal
from relay.core.audit_chain import Deed
from relay.core.change import Change, own_event
from relay.core.model import JoinPolicy, JsonObject, Kind, Participant, Project, Role, Site
from relay.core.node import Node
from relay.core.ports import AlreadyThere, Tx
from relay.protocol.errors import ErrorCode, ReplyError, unknown_project, unknown_site


@dataclass(frozen=True, kw_only=True, slots=True)
class Participation:
    """A participant with its site and its project, as clients are shown it."""

    participant: Participant
    site: Site
    project: Project


async def create(
    node: Node,
    principal: Principal,
    site_id: int,
    *,
    name: str,
    description: str,
    tasks: list[JsonObject],
    join_policy: JoinPolicy = JoinPolicy.OPEN,
) -> Project:
    """Make a project with the site as its coordinator.

    Raises:
        ReplyError: `exists`, if the name is taken; `unknown_site`.
    """
    access.require_site(principal, site_id)
    try:
        async with node.change() as change:
            site = await change.tx.sites.get(site_id)
            if site is None:
                raise unknown_site()
            if await change.tx.projects.by_name(name) is not None:
                raise AlreadyThere("the name is taken")  # an insert would find it too, and use up an id
            project = await change.tx.projects.create(
                name=name,
                description=description,
                site_id=site_id,
                tasks=tasks,
                join_policy=join_policy,
                now_us=change.now_us,
            )
            change.note(Deed.PROJECT_CREATE, principal, f"project:{project.id}", coordinator=site.uid)
            await change.begin_journal(project.id)
            await membership.add(change, project.id, site, Role.COORDINATOR, "")
    except AlreadyThere:
        raise ReplyError(ErrorCode.EXISTS, "a project of this name exists; join it, or choose another name") from None
    return project


async def annotate(node: Node, principal: Principal, participant_id: int, notes: str) -> Participation:
    """Change the notes of a participation: by its own site, by the coordinator, or by an operator.

    Raises:
        ReplyError: `unknown_project`, if the caller sees no such participation; `forbidden`.
    """
    known = (await participation(node, principal, participant_id)).participant
    async with node.change(known.project_id) as change:
        members = await change.tx.participants.of_project(known.project_id)
        if not principal.acts_for(known.site_id):
            access.require(principal, Action.MANAGE_MEMBERS, members)
        await change.tx.participants.set_notes(participant_id, notes, change.now_us)
        change.note(Deed.MEMBER_NOTES, principal, f"project:{known.project_id}", site=known.site_uid)
        changed = await change.tx.participants.get(participant_id)
        if changed is None:
            raise unknown_project()
        change.tell(known.project_id, own_event(Kind.PROJECT, {"change": "changed"}))
        return (await with_site_and_project(change.tx, [changed]))[0]


async def update(node: Node, principal: Principal, project_id: int, **fields: Any) -> Project:
    """Change a project's name, description, tasks, join_policy, agent_config or agent_log.

    Batches under way keep their own tasks; who takes part goes on, whatever the policy.

    Raises:
        ReplyError: `unknown_project`, `forbidden`, or `exists` if the name is taken.
    """
    try:
        async with node.change(project_id) as change:
            policy = {"join_policy": str(fields["join_policy"])} if "join_policy" in fields else {}
            names = ", ".join(sorted(fields))
            change.note(Deed.PROJECT_UPDATE, principal, f"project:{project_id}", fields=names, **policy)
            await _require_member(change.tx, principal, Action.CHANGE_PROJECT, project_id)
            project = await change.tx.projects.get(project_id)
            if project is None:
                raise unknown_project()
            project = replace(project, **fields, updated_us=change.now_us)
            await change.tx.projects.update(project)
            change.tell(project_id, own_event(Kind.PROJECT, {"change": "changed"}))
    except AlreadyThere:
        raise ReplyError(ErrorCode.EXISTS, "a project of this name exists") from None
    return project


async def delete(node: Node, principal: Principal, project_id: int) -> None:
    """Delete a project with its runs and its journal. Its members are told, as long as they are connected.

    Raises:
        ReplyError: `unknown_project`, `forbidden`.
    """
    async with node.change(project_id) as change:
        change.note(Deed.PROJECT_DELETE, principal, f"project:{project_id}")
        await _require_member(change.tx, principal, Action.CHANGE_PROJECT, project_id)
        await wipe(change, project_id)


async def wipe(change: Change, project_id: int) -> None:
    """Delete a project in a change that holds its journal: what tells of it is shown, and not stored."""
    change.tell(project_id, own_event(Kind.PROJECT, {"change": "deleted"}))
    change.forget(project_id)
    await change.tx.projects.delete(project_id)


# --- reading


async def listing(node: Node, user: Principal, *, limit: int, skip: int) -> tuple[int, list[Project]]:
    """The projects that a user's sites take part in: how many, and some of them, by id."""
    async with node.store.snapshot() as tx:
        return await tx.projects.visible_to(user.viewer, limit=limit, skip=skip)


async def get(node: Node, principal: Principal, project_id: int) -> Project:
    """A project that the caller takes part in.

    Raises:
        ReplyError: `unknown_project`.
    """
    async with node.store.snapshot() as tx:
        return await visible(tx, principal, project_id)


async def look_up(node: Node, principal: Principal, name: str) -> Project:
    """The same, by its name. Raises as `get` does: a name invites to join, not to look."""
    async with node.store.snapshot() as tx:
        project = await tx.projects.by_name(name)
        if project is None:
            raise unknown_project()
        return await visible(tx, principal, project.id)


async def all_participations(node: Node, user: Principal, *, limit: int, skip: int) -> tuple[int, list[Participation]]:
    """The participations that a user may see: how many, and some of them, by id."""
    async with node.store.snapshot() as tx:
        count, participants = await tx.participants.visible_to(user.viewer, limit=limit, skip=skip)
        return count, await with_site_and_project(tx, participants)


async def participation(node: Node, principal: Principal, participant_id: int) -> Participation:
    """One participation that the caller may see.

    Raises:
        ReplyError: `unknown_project`.
    """
    async with node.store.snapshot() as tx:
        participant = await tx.participants.get(participant_id)
        if participant is None or not await _sees(tx, principal, participant):
            raise unknown_project()
        return (await with_site_and_project(tx, [participant]))[0]


async def participations_seen(node: Node, principal: Principal, site_id: int) -> list[Participation]:
    """What a site takes part in, as far as the caller may see it; nothing for a site that is none of its business."""
    async with node.store.snapshot() as tx:
        parts = await tx.participants.of_site(site_id)
        return await with_site_and_project(tx, [part for part in parts if await _sees(tx, principal, part)])


async def _sees(tx: Tx, principal: Principal, participant: Participant) -> bool:
    if principal.acts_for(participant.site_id):
        return True
    return access.may_see_member(principal, participant, await tx.participants.of_project(participant.project_id))


async def participations(node: Node, principal: Principal, site_id: int) -> list[Participation]:
    """What a site takes part in."""
    access.require_site(principal, site_id)
    async with node.store.snapshot() as tx:
        return await with_site_and_project(tx, await tx.participants.of_site(site_id))


async def members(node: Node, principal: Principal, project_id: int) -> list[Participation]:
    """The members of a project that the caller may see: a coordinator all, a participant itself and the coordinator.

    Raises:
        ReplyError: `unknown_project`.
    """
    async with node.store.snapshot() as tx:
        participants = await tx.participants.of_project(project_id)
        access.require(principal, Action.SEE_PROJECT, participants)
        seen = [member for member in participants if access.may_see_member(principal, member, participants)]
        return await with_site_and_project(tx, seen)


async def visible(tx: Tx, principal: Principal, project_id: int) -> Project:
    """The project, if the caller takes part in it.

    Raises:
        ReplyError: `unknown_project`, for absent and foreign alike.
    """
    await _require_member(tx, principal, Action.SEE_PROJECT, project_id)
    project = await tx.projects.get(project_id)
    if project is None:
        raise unknown_project()
    return project


async def with_site_and_project(tx: Tx, participants: list[Participant]) -> list[Participation]:
    """The participations with what they join, in two queries however many they are."""
    sites = await tx.sites.many(list({participant.site_id for participant in participants}))
    projects = await tx.projects.many(list({participant.project_id for participant in participants}))
    return [
        Participation(
            participant=participant, site=sites[participant.site_id], project=projects[participant.project_id]
        )
        for participant in participants
    ]


async def _require_member(tx: Tx, principal: Principal, action: Action, project_id: int) -> None:
    access.require(principal, action, await tx.participants.of_project(project_id))
