"""Projects and who takes part in them: create, join, leave, change, delete.

Each function is one use case, whichever door it is called through. It asks `relay.core.access` first, changes rows and
journal in one transaction, and returns records; the doors turn them into what their clients expect.

Names are invitations: whoever knows a project's exact name may join it. By id, what is foreign does not exist.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any

from relay.core import access, batches
from relay.core.access import Action, Principal
from relay.core.audit_chain import Deed
from relay.core.change import Change, own_event
from relay.core.model import JsonObject, Kind, Participant, Project, Role, Site
from relay.core.node import Node
from relay.core.policy import Reason
from relay.core.ports import AlreadyThere, Tx
from relay.protocol.errors import ErrorCode, ReplyError, unknown_project, unknown_site


@dataclass(frozen=True, kw_only=True, slots=True)
class Participation:
    """A participant with its site and its project, as clients are shown it."""

    participant: Participant
    site: Site
    project: Project


async def create(
    node: Node, principal: Principal, site_id: int, *, name: str, description: str, tasks: list[JsonObject]
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
                name=name, description=description, site_id=site_id, tasks=tasks, now_us=change.now_us
            )
            change.note(Deed.PROJECT_CREATE, principal, f"project:{project.id}", coordinator=site.uid)
            await change.begin_journal(project.id)
            await _add(change, project.id, site, Role.COORDINATOR, "")
    except AlreadyThere:
        raise ReplyError(ErrorCode.EXISTS, "a project of this name exists; join it, or choose another name") from None
    return project


async def join(
    node: Node,
    principal: Principal,
    site_id: int,
    *,
    project_id: int | None,
    name: str | None,
    notes: str,
    role: Role = Role.PARTICIPANT,
) -> Participation:
    """Have a site take part in a project, named by its exact name or, where the caller sees it already, by its id.

    Raises:
        ReplyError: `unknown_project`; `unknown_site`; `exists`, if the site takes part already; `conflict`, if it would
            be the coordinator: a project has one from its beginning.
    """
    access.require_site(principal, site_id)
    project = await _to_join(node, principal, project_id, name)
    try:
        async with node.change(project.id) as change:
            change.head(project.id)
            site = await change.tx.sites.get(site_id)
            if site is None:
                raise unknown_site()
            change.note(Deed.MEMBER_JOIN, principal, f"project:{project.id}", site=site.uid)
            await _require_new(change, project.id, site_id, role)
            participant = await _add(change, project.id, site, Role.PARTICIPANT, notes)
    except AlreadyThere:
        raise ReplyError(ErrorCode.EXISTS, "the site takes part in this project already") from None
    return Participation(participant=participant, site=site, project=project)


async def _require_new(change: Change, project_id: int, site_id: int, role: Role) -> None:
    members = await change.tx.participants.of_project(project_id)
    if any(member.site_id == site_id for member in members):
        raise AlreadyThere("the site takes part")
    if role is Role.COORDINATOR:
        raise ReplyError(ErrorCode.CONFLICT, "the project has a coordinator", {"role": Role.COORDINATOR.display})


async def create_or_join(
    node: Node, principal: Principal, site_id: int, *, name: str, description: str, tasks: list[JsonObject]
) -> None:
    """Make a project of this name, with the site as its coordinator; if there is one, the site joins it.

    A site that takes part in it already goes on doing so.

    Raises:
        ReplyError: `unknown_site`.
    """
    while True:
        made = create(node, principal, site_id, name=name, description=description, tasks=tasks)
        if await _done(made, unless=ErrorCode.EXISTS):
            return
        joined = _done(join(node, principal, site_id, project_id=None, name=name, notes=""), unless=ErrorCode.EXISTS)
        if await _done(joined, unless=ErrorCode.UNKNOWN_PROJECT):  # else it was deleted meanwhile
            return


async def _done(attempt: Awaitable[object], *, unless: ErrorCode) -> bool:
    """Whether something was done; False if it was refused with this code."""
    try:
        await attempt
    except ReplyError as error:
        if error.code is not unless:
            raise
        return False
    return True


async def _to_join(node: Node, principal: Principal, project_id: int | None, name: str | None) -> Project:
    async with node.store.snapshot() as tx:
        if project_id is not None:
            return await visible(tx, principal, project_id)
        project = await tx.projects.by_name(name or "")
    if project is None:
        raise unknown_project()
    return project


async def _add(change: Change, project_id: int, site: Site, role: Role, notes: str) -> Participant:
    """Add a member and tell of it. A participant's part begins with the very entry that tells of it."""
    joined = 0 if role is Role.COORDINATOR else change.head(project_id) + 1
    participant = await change.tx.participants.create(
        project_id=project_id, site_id=site.id, role=role, notes=notes, joined=joined, now_us=change.now_us
    )
    _tell_membership(change, participant, "joined")
    return participant


def _tell_membership(change: Change, participant: Participant, what: str, reason: str | None = None) -> None:
    """A participant's coming and going is its own and the coordinator's business; the coordinator's is everybody's."""
    everybody = participant.role is Role.COORDINATOR
    data = {
        "site": participant.site_uid,
        "participant": participant.id,
        "role": participant.role.display,
        "change": what,
    }
    change.tell(
        participant.project_id,
        own_event(
            Kind.PARTICIPANT,
            data,
            audience=None if everybody else frozenset({participant.site_id}),
            subject_id=participant.site_id,
            reason=reason,
        ),
    )


async def leave(node: Node, principal: Principal, site_id: int, project_id: int) -> None:
    """End a site's part in a project, by the site itself.

    Raises:
        ReplyError: `unknown_project`; `conflict`, if the site is the coordinator.
    """
    async with node.store.snapshot() as tx:
        members = await tx.participants.of_project(project_id)
    own = next((member for member in members if member.site_id == site_id and principal.acts_for(site_id)), None)
    if own is None:
        raise unknown_project()
    await remove(node, principal, own.id)


async def remove(node: Node, principal: Principal, participant_id: int) -> None:
    """End a participation: by its own site, by the coordinator, or by an operator. Its runs go with it.

    Raises:
        ReplyError: `unknown_project`, if there is no such participation that the caller may end; `conflict`, if it is
            the coordinator's.
    """
    async with node.store.snapshot() as tx:
        known = await tx.participants.get(participant_id)
    if known is None:
        raise unknown_project()
    async with node.change(known.project_id) as change:
        members = await change.tx.participants.of_project(known.project_id)
        leaving = next((member for member in members if member.id == participant_id), None)
        if leaving is None:
            raise unknown_project()
        if not principal.acts_for(leaving.site_id):
            access.require(principal, Action.CHANGE_PROJECT, members)
        if leaving.role is Role.COORDINATOR:
            raise ReplyError(
                ErrorCode.CONFLICT,
                "the coordinator cannot leave its project; it can delete it",
                {"role": "coordinator"},
            )
        reason = "left" if principal.acts_for(leaving.site_id) and not principal.is_operator else "removed"
        await drop(change, principal, leaving, reason)


async def drop(change: Change, principal: Principal, leaving: Participant, reason: str) -> None:
    """End a participation in a change that holds its journal. The batch may be settled without its run."""
    change.note(Deed.MEMBER_LEAVE, principal, f"project:{leaving.project_id}", site=leaving.site_uid, reason=reason)
    batch = await change.tx.runs.open_batch(leaving.project_id)
    await change.tx.participants.delete(leaving.id)
    _tell_membership(change, leaving, "left", reason)
    if batch is not None:
        await batches.tell_if_settled(change, leaving.project_id, reason=Reason.ALL_RUNS, batch=batch)


async def annotate(node: Node, principal: Principal, participant_id: int, notes: str) -> Participation:
    """Change the notes of a participation: by its own site, by the coordinator, or by an operator.

    Raises:
        ReplyError: `unknown_project`, if the caller sees no such participation; `forbidden`.
    """
    known = (await participation(node, principal, participant_id)).participant
    async with node.change(known.project_id) as change:
        members = await change.tx.participants.of_project(known.project_id)
        if not principal.acts_for(known.site_id):
            access.require(principal, Action.CHANGE_PROJECT, members)
        await change.tx.participants.set_notes(participant_id, notes, change.now_us)
        changed = await change.tx.participants.get(participant_id)
        if changed is None:
            raise unknown_project()
        change.tell(known.project_id, own_event(Kind.PROJECT, {"change": "changed"}))
        return (await with_site_and_project(change.tx, [changed]))[0]


async def update(node: Node, principal: Principal, project_id: int, **fields: Any) -> Project:
    """Change a project's name, description, tasks, agent_config or agent_log. Batches under way keep their own tasks.

    Raises:
        ReplyError: `unknown_project`, `forbidden`, or `exists` if the name is taken.
    """
    try:
        async with node.change(project_id) as change:
            change.note(Deed.PROJECT_UPDATE, principal, f"project:{project_id}", fields=", ".join(sorted(fields)))
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
