"""Users and groups, for operators. A user that is made here has no password yet: the command line gives it one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relay.core import access, accounts, sites
from relay.core.access import Principal
from relay.core.audit_chain import Deed
from relay.core.model import Group, User
from relay.core.node import Node
from relay.core.ports import AlreadyThere, Tx
from relay.protocol.errors import ErrorCode, ReplyError, invalid

NO_PASSWORD = "!"  # noqa: S105 - no hash is like it, so no password fits it


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A user and the ids of its groups."""

    user: User
    groups: list[int]


def _unknown() -> ReplyError:
    return ReplyError(ErrorCode.UNKNOWN_SITE, "there is no such user or group")


async def page(node: Node, principal: Principal, *, limit: int, skip: int) -> tuple[int, list[Member]]:
    """How many users there are, and some of them, by id."""
    access.require_operator(principal)
    async with node.store.snapshot() as tx:
        count, users = await tx.users.page(limit=limit, skip=skip)
        groups = await tx.groups.of_users([user.id for user in users])
        return count, [Member(user=user, groups=groups[user.id]) for user in users]


async def get(node: Node, principal: Principal, user_id: int) -> Member:
    """Raises `ReplyError` with `unknown_site` if there is no such user."""
    access.require_operator(principal)
    async with node.store.snapshot() as tx:
        return await _member(tx, await tx.users.get(user_id))


async def create(node: Node, principal: Principal, *, username: str, email: str, groups: Sequence[int]) -> Member:
    """Make a user that cannot log in until it is given a password.

    Raises:
        ReplyError: `exists`, if the name is taken; `invalid`.
    """
    access.require_operator(principal)
    accounts.check_username(username)
    try:
        async with node.change() as change:
            tx = change.tx
            user = await tx.users.create(
                username=username, email=email, password_hash=NO_PASSWORD, is_operator=False, now_us=change.now_us
            )
            change.note(Deed.USER_CREATE, principal, f"user:{username}", role="user")
            await _set_groups(tx, user.id, groups)
            return await _member(tx, user)
    except AlreadyThere:
        raise _taken() from None


async def update(
    node: Node, principal: Principal, user_id: int, *, username: str, email: str, groups: Sequence[int]
) -> Member:
    """Change a user's name, address and groups. Raises as `create` and `get` do."""
    access.require_operator(principal)
    accounts.check_username(username)
    try:
        async with node.change() as change:
            tx = change.tx
            before = await _member(tx, await tx.users.get(user_id))
            change.note(Deed.USER_UPDATE, principal, f"user:{before.user.username}", username=username)
            user = await tx.users.update(user_id, username=username, email=email)
            member = await _member(tx, user)
            await _set_groups(tx, user_id, groups)
            return await _member(tx, member.user)
    except AlreadyThere:
        raise _taken() from None


async def delete(node: Node, principal: Principal, user_id: int) -> None:
    """Delete a user with its sites, and with the projects that these coordinate. Nobody deletes itself.

    Raises:
        ReplyError: `unknown_site`; `conflict`.
    """
    access.require_operator(principal)
    if user_id == principal.user_id:
        raise ReplyError(ErrorCode.CONFLICT, "nobody can delete itself; another operator can")
    async with node.change() as change:
        tx = change.tx
        user = await tx.users.get(user_id)
        if user is None:
            raise _unknown()
        change.note(Deed.USER_DISABLE, principal, f"user:{user.username}")
        await tx.users.set_active(user_id, False)  # from here on it makes no more sites
        site_ids = await tx.sites.ids_of_owner(user_id)
    for site_id in site_ids:
        await sites.delete(node, principal, site_id)
    async with node.change() as change:
        change.note(Deed.USER_DELETE, principal, f"user:{user.username}")
        await change.tx.users.delete(user_id)


async def _member(tx: Tx, user: User | None) -> Member:
    if user is None:
        raise _unknown()
    return Member(user=user, groups=(await tx.groups.of_users([user.id]))[user.id])


async def _set_groups(tx: Tx, user_id: int, groups: Sequence[int]) -> None:
    for group_id in groups:
        if await tx.groups.get(group_id) is None:
            raise invalid(groups="Invalid hyperlink - Object does not exist.")
    await tx.groups.set_of_user(user_id, groups)


def _taken() -> ReplyError:
    return ReplyError(ErrorCode.EXISTS, "the name is taken")


# --- groups


async def groups_page(node: Node, principal: Principal, *, limit: int, skip: int) -> tuple[int, list[Group]]:
    """How many groups there are, and some of them, by id."""
    access.require_operator(principal)
    async with node.store.snapshot() as tx:
        return await tx.groups.page(limit=limit, skip=skip)


async def get_group(node: Node, principal: Principal, group_id: int) -> Group:
    """Raises `ReplyError` with `unknown_site` if there is no such group."""
    access.require_operator(principal)
    async with node.store.snapshot() as tx:
        group = await tx.groups.get(group_id)
    if group is None:
        raise _unknown()
    return group


async def create_group(node: Node, principal: Principal, name: str) -> Group:
    """Raises `ReplyError` with `exists` if the name is taken."""
    access.require_operator(principal)
    try:
        async with node.change() as change:
            change.note(Deed.GROUP_CREATE, principal, f"group:{name}")
            return await change.tx.groups.create(name)
    except AlreadyThere:
        raise _taken() from None


async def rename_group(node: Node, principal: Principal, group_id: int, name: str) -> Group:
    """Raises as `create_group` and `get_group` do."""
    access.require_operator(principal)
    try:
        async with node.change() as change:
            group = await change.tx.groups.rename(group_id, name)
            if group is not None:
                change.note(Deed.GROUP_UPDATE, principal, f"group:{name}", id=group_id)
    except AlreadyThere:
        raise _taken() from None
    if group is None:
        raise _unknown()
    return group


async def delete_group(node: Node, principal: Principal, group_id: int) -> None:
    """Raises as `get_group` does."""
    group = await get_group(node, principal, group_id)
    async with node.change() as change:
        change.note(Deed.GROUP_DELETE, principal, f"group:{group.name}")
        await change.tx.groups.delete(group_id)
