"""`users/` and `groups/`, hyperlinked. For operators only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from relay.core import users
from relay.core.model import Group, JsonObject
from relay.core.users import Member
from relay.protocol.errors import ErrorCode, ReplyError
from relay.web.legacy import fields
from relay.web.legacy.answers import Answer, Refused, bad
from relay.web.legacy.door import API, Asked, View, page
from relay.web.legacy.fields import Wrong

_USERNAME = re.compile(r"[\w.@+-]+")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_GROUP_PATH = re.compile(rf"{API}/groups/(\d{{1,18}})/")


def _username(value: Any) -> str:
    name = fields.text(value, longest=150)
    if not _USERNAME.fullmatch(name):
        raise Wrong("Enter a valid username. This value may contain only letters, numbers, and @/./+/-/_ characters.")
    return name


def _email(value: Any) -> str:
    if value == "":
        return ""
    address = fields.text(value, longest=254)
    if not _EMAIL.fullmatch(address):
        raise Wrong("Enter a valid email address.")
    return address


def _groups(value: Any) -> list[int]:
    if isinstance(value, str):  # a form has one, or none
        value = [value] if value else []
    if not isinstance(value, list):
        raise Wrong(f'Expected a list of items but got type "{type(value).__name__}".')
    return [_group(one) for one in value]


def _group(url: Any) -> int:
    if not isinstance(url, str):
        raise Wrong(f"Incorrect type. Expected URL string, received {type(url).__name__}.")
    try:
        match = _GROUP_PATH.fullmatch(urlsplit(url).path)
    except ValueError:
        match = None
    if match is None:
        raise Wrong("Invalid hyperlink - No URL match.")
    return int(match[1])


_USER: Mapping[str, fields.Reader] = {"username": _username, "email": _email, "groups": _groups}
_NAMED: Mapping[str, fields.Reader] = {"name": lambda value: fields.text(value, longest=150)}


def _user_shown(asked: Asked, member: Member) -> JsonObject:
    return {
        "url": asked.url(f"users/{member.user.id}/"),
        "username": member.user.username,
        "email": member.user.email,
        "groups": [asked.url(f"groups/{group_id}/") for group_id in member.groups],
    }


def _group_shown(asked: Asked, group: Group) -> JsonObject:
    return {"url": asked.url(f"groups/{group.id}/"), "name": group.name}


def _refused(error: ReplyError, taken: JsonObject) -> ReplyError | Refused:
    return bad(taken) if error.code is ErrorCode.EXISTS else error


_TAKEN_USER: JsonObject = {"username": ["A user with that username already exists."]}
_TAKEN_GROUP: JsonObject = {"name": ["group with this name already exists."]}


# --- users/


async def listing(asked: Asked) -> Answer:
    async def fetch(limit: int, skip: int) -> tuple[int, list[JsonObject]]:
        count, found = await users.page(asked.node, asked.principal, limit=limit, skip=skip)
        return count, [_user_shown(asked, member) for member in found]

    return await page(asked, fetch)


async def create(asked: Asked) -> Answer:
    given = {"email": "", "groups": []} | fields.read(
        await asked.data(), _USER, optional=frozenset({"email", "groups"})
    )
    try:
        made = await users.create(asked.node, asked.principal, **given)
    except ReplyError as error:
        raise _refused(error, _TAKEN_USER) from None
    asked.door.forget()
    return Answer(status=201, body=_user_shown(asked, made))


async def retrieve(asked: Asked) -> Answer:
    return Answer(body=_user_shown(asked, await users.get(asked.node, asked.principal, asked.id())))


async def replace(asked: Asked) -> Answer:
    return await _change(asked, optional=frozenset({"email", "groups"}))


async def patch(asked: Asked) -> Answer:
    return await _change(asked, optional=frozenset(_USER))


async def _change(asked: Asked, optional: frozenset[str]) -> Answer:
    member = await users.get(asked.node, asked.principal, asked.id())
    given: JsonObject = {"username": member.user.username, "email": member.user.email, "groups": member.groups}
    given |= fields.read(await asked.data(), _USER, optional=optional)
    try:
        changed = await users.update(asked.node, asked.principal, member.user.id, **given)
    except ReplyError as error:
        raise _refused(error, _TAKEN_USER) from None
    asked.door.forget()
    return Answer(body=_user_shown(asked, changed))


async def delete(asked: Asked) -> Answer:
    await users.delete(asked.node, asked.principal, asked.id())
    asked.door.forget()
    return Answer(status=204)


# --- groups/


async def groups(asked: Asked) -> Answer:
    async def fetch(limit: int, skip: int) -> tuple[int, list[JsonObject]]:
        count, found = await users.groups_page(asked.node, asked.principal, limit=limit, skip=skip)
        return count, [_group_shown(asked, group) for group in found]

    return await page(asked, fetch)


async def create_group(asked: Asked) -> Answer:
    given = fields.read(await asked.data(), _NAMED)
    try:
        made = await users.create_group(asked.node, asked.principal, given["name"])
    except ReplyError as error:
        raise _refused(error, _TAKEN_GROUP) from None
    return Answer(status=201, body=_group_shown(asked, made))


async def group(asked: Asked) -> Answer:
    return Answer(body=_group_shown(asked, await users.get_group(asked.node, asked.principal, asked.id())))


async def replace_group(asked: Asked) -> Answer:
    return await _rename(asked, optional=frozenset())


async def patch_group(asked: Asked) -> Answer:
    return await _rename(asked, optional=frozenset(_NAMED))


async def _rename(asked: Asked, optional: frozenset[str]) -> Answer:
    known = await users.get_group(asked.node, asked.principal, asked.id())
    given = {"name": known.name} | fields.read(await asked.data(), _NAMED, optional=optional)
    try:
        renamed = await users.rename_group(asked.node, asked.principal, known.id, given["name"])
    except ReplyError as error:
        raise _refused(error, _TAKEN_GROUP) from None
    return Answer(body=_group_shown(asked, renamed))


async def delete_group(asked: Asked) -> Answer:
    await users.delete_group(asked.node, asked.principal, asked.id())
    return Answer(status=204)


VIEWS = [
    View(path="/users/", name="User List", handlers={"GET": listing, "POST": create}, for_operators=True),
    View(
        path="/users/{id}/",
        name="User Instance",
        handlers={"GET": retrieve, "PUT": replace, "PATCH": patch, "DELETE": delete},
        for_operators=True,
    ),
    View(path="/groups/", name="Group List", handlers={"GET": groups, "POST": create_group}, for_operators=True),
    View(
        path="/groups/{id}/",
        name="Group Instance",
        handlers={"GET": group, "PUT": replace_group, "PATCH": patch_group, "DELETE": delete_group},
        for_operators=True,
    ),
]
