"""What a method of `call` is made of: its parameters, checked, and who calls it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from relay.core.access import Principal
from relay.core.model import JsonObject, Site
from relay.core.node import Node
from relay.core.objects import participation_object, project_object, site_object
from relay.core.projects import Participation
from relay.protocol.errors import invalid
from relay.protocol.position import MAX_OFFSET

Id = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00]*\S[^\x00]*$")]
Text = Annotated[str, Meta(max_length=10_000, pattern=r"^[^\x00]*$")]
Seconds = Annotated[float, Meta(gt=0, le=366 * 86400)]
Uid = Annotated[str, Meta(max_length=36)]


class Task(msgspec.Struct, omit_defaults=True):
    seq: Annotated[int, Meta(ge=0, le=1_000_000)]
    model: Name
    config: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class OfProject(msgspec.Struct):
    project: Id


class Nothing(msgspec.Struct):
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """For whom a method runs: a site, and whoever acts for it."""

    node: Node
    principal: Principal
    site: Site


P = TypeVar("P")
Handler = Callable[[Caller, Any], Awaitable[Any]]


class Methods(dict[str, tuple[type[Any], Handler]]):
    """Methods by name: the parameters' type, and what runs. Filled by the decorator `add`."""

    def add(self, name: str, params: type[P]) -> Callable[[Callable[[Caller, P], Awaitable[Any]]], Handler]:
        def register(handler: Callable[[Caller, P], Awaitable[Any]]) -> Handler:
            self[name] = (params, handler)
            return handler

        return register


def read_params(given: Mapping[str, Any], params: type[P]) -> P:
    """Raises `ReplyError` with `invalid`, and the parameter at fault in its details."""
    try:
        return msgspec.convert(given, params)
    except msgspec.ValidationError as error:
        raise invalid(**_reason(str(error))) from None


def _reason(message: str) -> dict[str, str]:
    """`Expected `int`, got `str` - at `$.project`` → `{"project": "expected `int`, got `str`"}`."""
    missing = re.search(r"missing required field `(\w+)`", message)
    place = re.search(r" - at `(?:key in )?\$\.?(\w*)([^`]*)`$", message)
    if place is None or not place[1]:
        return {missing[1]: "required"} if missing else {"params": message}
    text = message[: place.start()]
    where = f" at {place[1]}{place[2]}" if place[2] else ""
    return {place[1]: text[0].lower() + text[1:] + where}


def shown_participation(node: Node, part: Participation) -> JsonObject:
    site = site_object(part.site, online=node.presence.is_online(part.site.id))
    return participation_object(part.participant, site, project_object(part.project))
