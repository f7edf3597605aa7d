"""Sites and their public keys: register, change, delete, heartbeat, look up."""

from __future__ import annotations

import re
from collections.abc import Mapping

from relay.core import access, membership, projects
from relay.core.access import Action, Principal
from relay.core.audit_chain import Deed
from relay.core.model import Role, Site
from relay.core.node import Node
from relay.core.ports import AlreadyThere, Tx
from relay.protocol.errors import ErrorCode, ReplyError, unknown_site

UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


async def register(
    node: Node, principal: Principal, *, uid: str, name: str, description: str, connected: bool = True
) -> Site:
    """Make a site that belongs to the caller. As a heartbeat does, registering shows that it is there.

    Raises:
        ReplyError: `exists`, with the field that is taken in its details.
    """
    try:
        async with node.change() as change:
            tx = change.tx
            taken = {}
            if await tx.sites.by_uid(uid) is not None:
                taken["uid"] = "a site with this uid exists"
            if await tx.sites.by_name(name) is not None:
                taken["name"] = "a site of this name exists"
            if taken:
                raise ReplyError(ErrorCode.EXISTS, "; ".join(taken.values()), taken)
            site = await tx.sites.create(
                uid=uid,
                name=name,
                description=description,
                owner_id=principal.user_id,
                connected=connected,
                now_us=change.now_us,
            )
            change.note(Deed.SITE_CREATE, principal, f"site:{uid}")
    except AlreadyThere:  # another one was faster
        raise ReplyError(ErrorCode.EXISTS, "a site of this uid or name exists", {"name": "taken"}) from None
    if connected:
        node.presence.heartbeat(site.id, alive=True)
    return site


async def update(
    node: Node, principal: Principal, site_id: int, *, name: str, description: str, uid: str | None = None
) -> Site:
    """Change a site's name or description; its uid never changes, whatever is given for it.

    Raises:
        ReplyError: `unknown_site`; `exists`, if the name is taken, or the uid is another site's.
    """
    access.require_site(principal, site_id)
    try:
        async with node.change() as change:
            tx = change.tx
            other = None if uid is None else await tx.sites.by_uid(uid)
            if other is not None and other.id != site_id:
                raise ReplyError(
                    ErrorCode.EXISTS, "a site with this uid exists", {"uid": "a site with this uid exists"}
                )
            await tx.sites.update(site_id, name=name, description=description, now_us=change.now_us)
            site = await tx.sites.get(site_id)
            if site is not None:
                change.note(Deed.SITE_UPDATE, principal, f"site:{site.uid}", name=name)
    except AlreadyThere:
        raise ReplyError(
            ErrorCode.EXISTS, "a site of this name exists", {"name": "a site of this name exists"}
        ) from None
    if site is None:
        raise unknown_site()
    return site


async def delete(node: Node, principal: Principal, site_id: int) -> None:
    """Delete a site: the projects it coordinates go with it, and from others it is removed. Its sessions are closed.

    Raises:
        ReplyError: `unknown_site`.
    """
    access.require_site(principal, site_id)
    async with node.store.snapshot() as tx:
        parts = await tx.participants.of_site(site_id)
    async with node.change(*(part.project_id for part in parts)) as change:
        site = await change.tx.sites.get(site_id)
        if site is not None:
            change.note(Deed.SITE_DELETE, principal, f"site:{site.uid}")
        for part in await change.tx.participants.of_site(site_id):
            if part.role is Role.COORDINATOR:
                change.note(Deed.PROJECT_DELETE, principal, f"project:{part.project_id}")
                await projects.wipe(change, part.project_id)
            else:
                await membership.drop(change, principal, part)
        if site is None:
            raise unknown_site()
        await change.tx.sites.delete(site_id)
    for session in tuple(node.sessions.get(site_id, ())):
        session.close_gone()
    node.presence.forget(site_id)


class KnownSites:
    """The ids of sites by their uids, for heartbeats: they cost no query once a site is known.

    To be told to forget when a site may have been deleted; a uid never comes to be another site's meanwhile.
    """

    LIMIT = 100_000

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def forget(self) -> None:
        self._ids.clear()

    async def id_of(self, node: Node, uid: str) -> int | None:
        """The site's id; None if there is no such site."""
        site_id = self._ids.get(uid)
        if site_id is None:
            async with node.store.snapshot() as tx:
                site = await tx.sites.by_uid(uid)
            if site is None:
                return None
            site_id = site.id
            if len(self._ids) >= self.LIMIT:
                self.forget()
            self._ids[uid] = site_id
        return site_id


async def heartbeat(node: Node, principal: Principal, uid: str, *, alive: bool, known: KnownSites) -> None:
    """A site that polls says that it is there, or that it leaves. Good for the heartbeat's lease.

    Raises:
        ReplyError: `unknown_site`, for absent and foreign alike.
    """
    site_id = await known.id_of(node, uid)
    if site_id is None or not principal.acts_for(site_id):
        raise unknown_site()
    node.presence.heartbeat(site_id, alive=alive)


async def listing(node: Node, user: Principal, *, limit: int, skip: int) -> tuple[int, list[Site]]:
    """The sites that a user owns or meets in projects: how many, and some of them, by id."""
    async with node.store.snapshot() as tx:
        return await tx.sites.visible_to(user.viewer, limit=limit, skip=skip)


async def visible(node: Node, user: Principal, site_id: int) -> Site:
    """A site that a user owns, or meets in a project.

    Raises:
        ReplyError: `unknown_site`.
    """
    async with node.store.snapshot() as tx:
        site = await tx.sites.get(site_id)
        return await _require_seen(tx, user, site)


async def look_up(node: Node, user: Principal, uid: str) -> Site:
    """The same, by the site's uid. Raises as `visible` does."""
    async with node.store.snapshot() as tx:
        site = await tx.sites.by_uid(uid)
        return await _require_seen(tx, user, site)


async def _require_seen(tx: Tx, user: Principal, site: Site | None) -> Site:
    if site is None or not (user.acts_for(site.id) or await tx.sites.visible(user.user_id, site.id)):
        raise unknown_site()
    return site


async def put_keys(node: Node, principal: Principal, site_id: int, keys: Mapping[str, str]) -> None:
    """Publish a site's public keys, for all its projects. A name that is there already gets the new key.

    Raises:
        ReplyError: `unknown_site`.
    """
    access.require_site(principal, site_id)
    async with node.change() as change:
        await change.tx.keys.put(site_id, keys)
        change.note(Deed.SITE_KEYS, principal, names=", ".join(sorted(keys)))


async def get_keys(node: Node, principal: Principal, project_id: int) -> dict[str, dict[str, str]]:
    """The public keys of the members that the caller may see, by site uid.

    Raises:
        ReplyError: `unknown_project`.
    """
    async with node.store.snapshot() as tx:
        members = await tx.participants.of_project(project_id)
        access.require(principal, Action.SEE_PROJECT, members)
        seen = [member for member in members if access.may_see_member(principal, member, members)]
        keys = await tx.keys.of_sites([member.site_id for member in seen])
    return {member.site_uid: keys[member.site_id] for member in seen}
