"""`sites/`: register, change, delete, look up, heartbeat."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from relay.core import sites
from relay.core.model import JsonObject, Site
from relay.core.objects import site_object
from relay.protocol.errors import ErrorCode, ReplyError
from relay.web.legacy import fields
from relay.web.legacy.answers import Answer, Refused, bad, not_allowed
from relay.web.legacy.door import Asked, View, page

_FIELDS: Mapping[str, fields.Reader] = {"name": fields.name, "description": fields.text, "uid": fields.uid}


def shown(asked: Asked, site: Site) -> JsonObject:
    asked.reading.presence = True
    return site_object(site, online=asked.node.presence.is_online(site.id))


async def listing(asked: Asked) -> Answer:
    async def fetch(limit: int, skip: int) -> tuple[int, list[JsonObject]]:
        count, found = await sites.listing(asked.node, asked.principal, limit=limit, skip=skip)
        return count, [shown(asked, site) for site in found]

    return await page(asked, fetch)


async def create(asked: Asked) -> Answer:
    given = fields.read(await asked.data(), _FIELDS)
    try:
        site = await sites.register(asked.node, asked.principal, **given)
    except ReplyError as error:
        raise _taken(error) from None
    asked.door.forget()
    return Answer(status=201, body=shown(asked, site))


async def retrieve(asked: Asked) -> Answer:
    return Answer(body=shown(asked, await sites.visible(asked.node, asked.principal, asked.id())))


async def replace(asked: Asked) -> Answer:
    return await _change(asked, optional=frozenset())


async def patch(asked: Asked) -> Answer:
    return await _change(asked, optional=frozenset(_FIELDS))


async def _change(asked: Asked, optional: frozenset[str]) -> Answer:
    site = await _own(asked)
    given = {"name": site.name, "description": site.description} | fields.read(
        await asked.data(), _FIELDS, optional=optional
    )
    try:
        changed = await sites.update(asked.node, asked.principal, site.id, **given)
    except ReplyError as error:
        raise _taken(error) from None
    asked.door.forget()
    return Answer(body=shown(asked, changed))


async def delete(asked: Asked) -> Answer:
    site = await _own(asked)
    await sites.delete(asked.node, asked.principal, site.id)
    asked.door.forget()
    return Answer(status=204)


async def _own(asked: Asked) -> Site:
    """The site in the path, if the caller may change it; one that it only meets in a project is not its to change."""
    site = await sites.visible(asked.node, asked.principal, asked.id())
    if not asked.principal.acts_for(site.id):
        raise not_allowed()
    return site


def _taken(error: ReplyError) -> ReplyError | Refused:
    if error.code is not ErrorCode.EXISTS:
        return error
    return bad({name: [fields.UNIQUE] for name in _FIELDS if name in error.details})


async def look_up(asked: Asked) -> Answer:
    uid = _uid(asked.query("uid"))
    try:
        site = await sites.look_up(asked.node, asked.principal, uid)
    except ReplyError as error:
        if error.code is ErrorCode.UNKNOWN_SITE:
            raise Refused(404, "Site not found") from None
        raise
    return Answer(body=shown(asked, site))


async def heartbeat(asked: Asked) -> Answer:
    data = await asked.data()
    given = data if isinstance(data, dict) else {}
    uid = _uid(given.get("uid"))
    status = given.get("status")
    if not isinstance(status, int | float) or status not in (0, 1):
        raise bad("Status not supported")
    await sites.heartbeat(asked.node, asked.principal, uid, alive=bool(status), known=asked.door.known_sites)
    return Answer(status=202)


def _uid(given: Any) -> str:
    try:
        return str(uuid.UUID(hex=given))
    except (ValueError, AttributeError, TypeError):
        raise bad("Invalid uid") from None


VIEWS = [
    View(path="/sites/heartbeat/", name="Heartbeat", handlers={"POST": heartbeat}),
    View(path="/sites/lookup/", name="Lookup", handlers={"GET": look_up}, is_polled=True),
    View(path="/sites/", name="Site List", handlers={"GET": listing, "POST": create}),
    View(
        path="/sites/{id}/",
        name="Site Instance",
        handlers={"GET": retrieve, "PUT": replace, "PATCH": patch, "DELETE": delete},
        is_polled=True,
    ),
]
