"""Who takes part in a project: how a part begins and ends, and how the coordination is handed on.

A part begins with the very entry that tells of it, and ends with one. Who is removed, by the coordinator or an
operator, is barred besides: it gets in again only when it is let in (`relay.core.admission`).
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.core import access, batches
from relay.core.access import Action, Principal
from relay.core.audit_chain import Deed
from relay.core.change import Change, own_event
from relay.core.model import JsonObject, Kind, Participant, Role, Site
from relay.core.node import Node
from relay.core.policy import Reason
from relay.protocol.errors import ErrorCode, ReplyError, invalid, unknown_project


async def add(change: Change, project_id: int, site: Site, role: Role, notes: str) -> Participant:
    """Add a member and tell of it. A participant's part begins with the very entry that tells of it."""
    joined = 0 if role is Role.COORDINATOR else change.head(project_id) + 1
    participant = await change.tx.participants.create(
        project_id=project_id, site_id=site.id, role=role, notes=notes, joined=joined, now_us=change.now_us
    )
    _tell(change, participant, {"change": "joined"})
    return participant


def _tell(change: Change, participant: Participant, what: JsonObject) -> None:
    """A participant's coming and going is its own and the coordinator's business; the coordinator's is everybody's."""
    everybody = participant.role is Role.COORDINATOR
    data = {"site": participant.site_uid, "participant": participant.id, "role": participant.role.display}
    change.tell(
        participant.project_id,
        own_event(
            Kind.PARTICIPANT,
            data | what,
            audience=None if everybody else frozenset({participant.site_id}),
            subject_id=participant.site_id,
        ),
    )


# --- leaving


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
    await end(node, principal, own.id)


async def end(node: Node, principal: Principal, participant_id: int) -> None:
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
        by_itself = principal.acts_for(leaving.site_id) and not principal.is_operator
        _note(change, principal, known.project_id, leaving.site_uid, "left" if by_itself else "removed")
        if not by_itself:
            access.require(principal, Action.MANAGE_MEMBERS, members)
        await (_leave if by_itself else _remove)(change, leaving)


async def remove(node: Node, principal: Principal, project_id: int, site_uid: str) -> None:
    """Remove a participant, by the coordinator or an operator. It does not come back by itself.

    Raises:
        ReplyError: `unknown_project`; `forbidden`; `invalid`, if the site does not take part; `conflict`, if it is the
            coordinator.
    """
    async with node.change(project_id) as change:
        _note(change, principal, project_id, site_uid, "removed")
        members = await change.tx.participants.of_project(project_id)
        access.require(principal, Action.MANAGE_MEMBERS, members)
        leaving = member_of(members, site_uid)
        if leaving is None:
            raise not_a_member()
        await _remove(change, leaving)


def _note(change: Change, principal: Principal, project_id: int, site_uid: str, reason: str) -> None:
    change.note(Deed.MEMBER_LEAVE, principal, f"project:{project_id}", site=site_uid, reason=reason)


async def _leave(change: Change, leaving: Participant) -> None:
    _require_participant(leaving)
    await _drop(change, leaving, "left")


async def _remove(change: Change, leaving: Participant) -> None:
    _require_participant(leaving)
    await _drop(change, leaving, "removed")
    await change.tx.admission.bar(leaving.project_id, leaving.site_id, change.now_us)


def _require_participant(leaving: Participant) -> None:
    if leaving.role is Role.COORDINATOR:
        raise ReplyError(
            ErrorCode.CONFLICT,
            "the coordinator cannot leave its project; it can hand it on to another site, or delete it",
            {"role": "coordinator"},
        )


async def drop(change: Change, principal: Principal, leaving: Participant) -> None:
    """End a participation in a change that holds its journal, since its site is deleted."""
    _note(change, principal, leaving.project_id, leaving.site_uid, "removed")
    await _drop(change, leaving, "removed")


async def _drop(change: Change, leaving: Participant, reason: str) -> None:
    """The batch may be settled without its run."""
    batch = await change.tx.runs.open_batch(leaving.project_id)
    await change.tx.participants.delete(leaving.id)
    _tell(change, leaving, {"change": "left"} | ({} if reason == "left" else {"reason": reason}))
    if batch is not None:
        await batches.tell_if_settled(change, leaving.project_id, reason=Reason.ALL_RUNS, batch=batch)


# --- handing on


async def transfer(node: Node, principal: Principal, project_id: int, site_uid: str) -> None:
    """Make another member the coordinator; who was becomes a participant. It takes effect with this change.

    Raises:
        ReplyError: `unknown_project`; `forbidden`; `invalid`, if the site does not take part; `conflict`, if it
            coordinates already, or while a batch is open.
    """
    async with node.change(project_id) as change:
        change.note(Deed.PROJECT_TRANSFER, principal, f"project:{project_id}", to=site_uid)
        members = await change.tx.participants.of_project(project_id)
        access.require(principal, Action.MANAGE_MEMBERS, members)
        heir = member_of(members, site_uid)
        if heir is None:
            raise not_a_member()
        if heir.role is Role.COORDINATOR:
            raise ReplyError(ErrorCode.CONFLICT, "the site coordinates already", {"role": "coordinator"})
        await batches.require_none_open(change, project_id)
        await _hand_over(change, heir, next(one for one in members if one.role is Role.COORDINATOR))


async def _hand_over(change: Change, heir: Participant, former: Participant) -> None:
    """The heir sees the whole journal from now on, and is shown what comes after what it has had."""
    tx = change.tx
    await tx.participants.set_role(former.id, Role.PARTICIPANT, joined=former.joined, now_us=change.now_us)
    await tx.participants.set_role(heir.id, Role.COORDINATOR, joined=0, now_us=change.now_us)
    await tx.cursors.advance({(heir.site_id, heir.project_id): heir.joined}, change.now_us)
    await tx.projects.set_coordinator(heir.project_id, heir.site_id, change.now_us)
    data = {"site": heir.site_uid, "participant": heir.id, "role": Role.COORDINATOR.display}
    said = data | {"change": "transferred", "former": former.site_uid}
    change.tell(heir.project_id, own_event(Kind.PARTICIPANT, said, subject_id=heir.site_id))


def member_of(members: Iterable[Participant], site_uid: str) -> Participant | None:
    return next((member for member in members if member.site_uid == site_uid.lower()), None)


def not_a_member() -> ReplyError:
    return invalid(site="not a member of the project")
