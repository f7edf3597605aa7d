"""Who gets into a project, by its join policy: at once, with an invitation, or when the coordinator approves.

    open         whoever knows the exact name gets in
    invitation   a code is needed, made by the coordinator for one site and good once
    approval     whoever knows the exact name asks; the coordinator approves, or rejects

A code lets in under every policy. So does the coordinator's approval, for whoever has asked. A site that was removed is
barred: it gets in by one of these two, or after it was unbarred.

**A join by name that does not lead in is answered in one way**, whether there is no such project, or it wants an
invitation, or it has been asked now or before, or has rejected the site, or has removed it. So nobody learns from it
that there is one; what a site may hope for is said in the same words to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from relay.core import access, membership, projects
from relay.core.access import Action, Principal
from relay.core.accounts import digest_of
from relay.core.admission_ports import Bar, Invitation, JoinRequest
from relay.core.audit_chain import Deed
from relay.core.change import Change, own_event
from relay.core.hub import Hub
from relay.core.model import JoinPolicy, JsonObject, Kind, Participant, Project, Role, Site
from relay.core.node import Node
from relay.core.ports import AlreadyThere, StorageUnavailable, Tx
from relay.core.projects import Participation
from relay.protocol.errors import ErrorCode, ReplyError, forbidden, unknown_project, unknown_site

REQUEST_S = 30 * 86400
"""How long a request waits, and how long a rejected site cannot ask again."""
WAITING = 1000
"""Requests of a project that wait at once. Who comes then is answered as always, and has to ask again."""
SHOWN = 1000


def not_open() -> ReplyError:
    """The one answer to a join by name that does not lead in. See the module."""
    return ReplyError(
        ErrorCode.UNKNOWN_PROJECT,
        "no project of this name is open to this site; if there is one that admits on request, its coordinator has "
        "been asked, and `subscribed` follows if it approves",
    )


# --- joining


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

    Where the policy is approval, a join that does not lead in asks for it.

    Raises:
        ReplyError: `unknown_project`: there is none, or it does not admit the site (`forbidden`, if the caller sees
            it); `unknown_site`; `exists`, if the site takes part already; `conflict`, if it would be the coordinator: a
            project has one from its beginning.
    """
    access.require_site(principal, site_id)
    async with node.store.snapshot() as tx:
        if project_id is not None:
            project = await projects.visible(tx, principal, project_id)
        elif (found := await tx.projects.by_name(name or "")) is not None:
            project = found
        else:
            raise not_open()
    part = await _enter_or_ask(node, principal, site_id, project.id, notes, role)
    if part is None:
        raise not_open() if project_id is None else forbidden(_NOT_ADMITTED)
    return part


_NOT_ADMITTED = (
    "the project does not admit this site by itself; if it admits on request, its coordinator has been asked"
)


async def create_or_join(
    node: Node, principal: Principal, site_id: int, *, name: str, description: str, tasks: list[JsonObject]
) -> None:
    """Make a project of this name, with the site as its coordinator; if there is one, the site joins it.

    A site that takes part in it already goes on doing so.

    Raises:
        ReplyError: `unknown_site`; `forbidden`, if the project does not admit the site.
    """
    while True:
        try:
            await projects.create(node, principal, site_id, name=name, description=description, tasks=tasks)
            return
        except ReplyError as error:
            if error.code is not ErrorCode.EXISTS:
                raise
        async with node.store.snapshot() as tx:
            project = await tx.projects.by_name(name)
        if project is not None and await _is_in(node, principal, site_id, project.id):
            return


async def _is_in(node: Node, principal: Principal, site_id: int, project_id: int) -> bool:
    """Have it join, unless it takes part already. False: the project was deleted meanwhile.

    Raises:
        ReplyError: `unknown_site`; `forbidden`, if the project does not admit the site.
    """
    try:
        if await _enter_or_ask(node, principal, site_id, project_id, "", Role.PARTICIPANT) is None:
            raise forbidden(_NOT_ADMITTED)
    except ReplyError as error:
        if error.code not in (ErrorCode.EXISTS, ErrorCode.UNKNOWN_PROJECT):
            raise
        return error.code is ErrorCode.EXISTS
    return True


async def redeem(node: Node, principal: Principal, site_id: int, *, code: str, notes: str) -> Participation:
    """Have a site take part in the project that a code is for. The code is then used up.

    Raises:
        ReplyError: `unknown_project`: nobody has made such a code, or it has expired, was revoked, or was used;
            `unknown_site`; `exists`, if the site takes part already: the code stays good.
    """
    access.require_site(principal, site_id)
    digest = digest_of(code)
    async with node.store.snapshot() as tx:
        known = await tx.invitations.by_digest(digest)
    if known is None:
        raise unknown_project()
    try:
        async with node.change(known.project_id) as change:
            change.head(known.project_id)
            invitation = await change.tx.invitations.by_digest(digest)
            part = await _enter(change, principal, site_id, known.project_id, notes, invitation=invitation or known)
    except AlreadyThere:
        raise _already_in() from None
    assert part is not None
    return part


async def redeem_again(node: Node, principal: Principal, site_id: int, *, code: str) -> None:
    """The same, for who may ask for it again: a site that takes part goes on doing so. Raises as `redeem` does."""
    try:
        await redeem(node, principal, site_id, code=code, notes="")
    except ReplyError as error:
        if error.code is not ErrorCode.EXISTS:
            raise


async def _enter_or_ask(
    node: Node, principal: Principal, site_id: int, project_id: int, notes: str, role: Role
) -> Participation | None:
    """None: it is not admitted; where the policy is approval, the coordinator has been asked."""
    try:
        async with node.change(project_id) as change:
            change.head(project_id)
            return await _enter(change, principal, site_id, project_id, notes, role=role)
    except AlreadyThere:
        raise _already_in() from None


async def _enter(
    change: Change,
    principal: Principal,
    site_id: int,
    project_id: int,
    notes: str,
    *,
    role: Role = Role.PARTICIPANT,
    invitation: Invitation | None = None,
) -> Participation | None:
    """Let a site in, in a change that holds the journal; None if it is not admitted."""
    place = await _place(change.tx, site_id, project_id)
    if place.is_taken:
        change.note(Deed.MEMBER_JOIN, principal, f"project:{project_id}", site=place.site.uid)
        raise _already_in()
    if role is Role.COORDINATOR:
        raise ReplyError(ErrorCode.CONFLICT, "the project has a coordinator", {"role": Role.COORDINATOR.display})
    if invitation is None and not await _admits(change.tx, principal, place):
        await _ask(change, principal, place, notes)
        return None
    details = {} if invitation is None else {"invitation": invitation.id}
    change.note(Deed.MEMBER_JOIN, principal, f"project:{project_id}", site=place.site.uid, **details)
    if invitation is not None:
        if invitation.state(change.now_us) != "open":
            raise unknown_project()
        await change.tx.invitations.use(invitation.id, place.site.uid, change.now_us)
    return await _let_in(change, place, notes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A site at a project's door."""

    site: Site
    project: Project
    members: Sequence[Participant]

    @property
    def is_taken(self) -> bool:
        return any(member.site_id == self.site.id for member in self.members)


async def _place(tx: Tx, site_id: int, project_id: int) -> _Place:
    project = await tx.projects.get(project_id)
    site = await tx.sites.get(site_id)
    if project is None:
        raise unknown_project()
    if site is None:
        raise unknown_site()
    return _Place(site=site, project=project, members=await tx.participants.of_project(project_id))


async def _admits(tx: Tx, principal: Principal, place: _Place) -> bool:
    """Whoever coordinates, and an operator, lets in whom it acts for."""
    if access.may(principal, Action.MANAGE_MEMBERS, place.members):
        return True
    is_open = place.project.join_policy is JoinPolicy.OPEN
    return is_open and not await tx.admission.is_barred(place.project.id, place.site.id)


async def _let_in(change: Change, place: _Place, notes: str) -> Participation:
    await change.tx.admission.settle(place.project.id, place.site.id)
    participant = await membership.add(change, place.project.id, place.site, Role.PARTICIPANT, notes)
    return Participation(participant=participant, site=place.site, project=place.project)


def _already_in() -> ReplyError:
    return ReplyError(ErrorCode.EXISTS, "the site takes part in this project already")


# --- asking


async def _ask(change: Change, principal: Principal, place: _Place, notes: str) -> None:
    """Have the coordinator see that the site asks, if the policy is approval. It is told once, not each time."""
    project, site, admission = place.project, place.site, change.tx.admission
    if project.join_policy is not JoinPolicy.APPROVAL:
        return
    known = await admission.request(project.id, site.id, change.now_us)
    if known is not None and known.rejected_us is not None:
        return
    await admission.purge(project.id, change.now_us)
    if known is None and len(await admission.waiting(project.id, change.now_us, limit=WAITING)) >= WAITING:
        return
    await admission.ask(
        JoinRequest(
            project_id=project.id,
            site_id=site.id,
            notes=notes,
            asked_us=change.now_us if known is None else known.asked_us,
            expires_us=change.now_us + REQUEST_S * 1_000_000,
        )
    )
    if known is None:
        change.note(Deed.REQUEST_ASK, principal, f"project:{project.id}", site=site.uid)
        _tell_request(change, project.id, site, "asked", notes=notes)


def _tell_request(change: Change, project_id: int, site: Site, what: str, **more: str) -> None:
    """Only the coordinator is told: the site itself is not in the project."""
    data = {"site": site.uid, "name": site.name, "change": what} | more
    change.tell(project_id, own_event(Kind.REQUEST, data, audience=frozenset(), subject_id=site.id))


async def requests(node: Node, principal: Principal, project_id: int) -> list[tuple[JoinRequest, Site]]:
    """The requests that wait, with their sites; for the coordinator and operators.

    Raises:
        ReplyError: `unknown_project`, `forbidden`.
    """
    async with node.store.snapshot() as tx:
        access.require(principal, Action.MANAGE_MEMBERS, await tx.participants.of_project(project_id))
        waiting = await tx.admission.waiting(project_id, node.now_us(), limit=SHOWN)
        sites = await tx.sites.many([request.site_id for request in waiting])
    return [(request, sites[request.site_id]) for request in waiting]


async def approve(node: Node, principal: Principal, project_id: int, site_uid: str) -> Participation:
    """Let in a site that has asked.

    Raises:
        ReplyError: `unknown_project`; `forbidden`; `unknown_site`, if no request of such a site waits.
    """
    async with node.change(project_id) as change:
        change.note(Deed.REQUEST_APPROVE, principal, f"project:{project_id}", site=site_uid)
        request, place = await _asking(change, principal, project_id, site_uid)
        return await _let_in(change, place, request.notes)


async def reject(node: Node, principal: Principal, project_id: int, site_uid: str) -> None:
    """Let a site that has asked wait no longer. It is not told, and cannot ask again for a while.

    Raises: as `approve`.
    """
    async with node.change(project_id) as change:
        change.note(Deed.REQUEST_REJECT, principal, f"project:{project_id}", site=site_uid)
        _, place = await _asking(change, principal, project_id, site_uid)
        await change.tx.admission.reject(project_id, place.site.id, change.now_us)
        _tell_request(change, project_id, place.site, "rejected")


async def _asking(change: Change, principal: Principal, project_id: int, site_uid: str) -> tuple[JoinRequest, _Place]:
    members = await change.tx.participants.of_project(project_id)
    access.require(principal, Action.MANAGE_MEMBERS, members)
    site = await change.tx.sites.by_uid(site_uid.lower())
    request = None if site is None else await change.tx.admission.request(project_id, site.id, change.now_us)
    if site is None or request is None or request.rejected_us is not None:
        raise unknown_site()
    place = await _place(change.tx, site.id, project_id)
    return request, place


# --- barred


async def barred(node: Node, principal: Principal, project_id: int) -> list[tuple[Bar, Site]]:
    """The sites that were removed and may not come back by themselves. Raises as `requests` does."""
    async with node.store.snapshot() as tx:
        access.require(principal, Action.MANAGE_MEMBERS, await tx.participants.of_project(project_id))
        bars = await tx.admission.barred(project_id, limit=SHOWN)
        sites = await tx.sites.many([bar.site_id for bar in bars])
    return [(bar, sites[bar.site_id]) for bar in bars]


async def unbar(node: Node, principal: Principal, project_id: int, site_uid: str) -> None:
    """Let a site that was removed come back as the policy says.

    Raises:
        ReplyError: `unknown_project`; `forbidden`; `unknown_site`, if no such site is barred.
    """
    async with node.change(project_id) as change:
        change.note(Deed.MEMBER_UNBAR, principal, f"project:{project_id}", site=site_uid)
        access.require(principal, Action.MANAGE_MEMBERS, await change.tx.participants.of_project(project_id))
        site = await change.tx.sites.by_uid(site_uid.lower())
        if site is None or not await change.tx.admission.unbar(project_id, site.id):
            raise unknown_site()


async def why_out(node: Node, hub: Hub, site_id: int) -> Literal["left", "removed", "deleted"]:
    """Why a site that took part does not any more."""
    if hub.deleted:
        return "deleted"
    try:
        async with node.store.snapshot() as tx:
            return "removed" if await tx.admission.is_barred(hub.project_id, site_id) else "left"
    except StorageUnavailable:
        return "left"
