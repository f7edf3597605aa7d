"""From a request to a handler and back: content negotiation, login, method, body, errors, headers.

The order is the one that controllers know: an `Accept` that cannot be met (406) comes before the login (403), and that
before a method that the endpoint has not (405). Every answer says `Allow` and `Vary`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from relay import metrics
from relay.config import Settings
from relay.core import access
from relay.core.access import Principal
from relay.core.file_ports import FileStore
from relay.core.model import JsonObject
from relay.core.node import Node
from relay.core.sites import KnownSites
from relay.protocol.errors import ReplyError
from relay.protocol.position import MAX_OFFSET
from relay.web.auth import Authenticator
from relay.web.legacy import bodies, pages
from relay.web.legacy.answers import (
    NO_BODY,
    Answer,
    Refused,
    bad,
    detail,
    method_not_allowed,
    not_found,
    refusal,
)
from relay.web.legacy.polls import Polls
from relay.web.peers import shown_in

log = logging.getLogger(__name__)

API = "/starfish/api/v1"
PAGE = 20
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_RENDERERS = {"json": "application/json", "api": "text/html"}
_VARY = "Accept, Cookie"

_encoder = msgspec.json.Encoder()


class Asked:
    """A request, and who it is from."""

    def __init__(self, request: Request, principal: Principal, door: Door) -> None:
        self.request = request
        self.principal = principal
        self.door = door
        self.node = door.node
        self.reading = door.polls.read()

    def id(self) -> int:
        """The id in the path.

        Raises:
            Refused: 404; what is no number is no object's.
        """
        return _id(self.request.path_params["id"])

    def query(self, name: str) -> str | None:
        """A parameter of the query; the last one, if there are several."""
        value: str | None = self.request.query_params.get(name)
        return None if value is None or "\0" in value else value

    def query_id(self, name: str) -> int | None:
        """A parameter that is an id or a number from 0; None if it is missing or empty.

        Raises:
            Refused: 400.
        """
        value = self.query(name)
        if not value:
            return None
        try:
            number = int(value) if len(value) <= 19 else MAX_OFFSET
        except ValueError:
            raise bad({name: ["A valid integer is required."]}) from None
        return min(max(number, -1), MAX_OFFSET)

    async def data(self) -> Any:
        """The body; `{}` if there is none."""
        return await bodies.read(self.request, stall_s=self.door.settings.upload_stall_s)

    def url(self, path: str) -> str:
        """The absolute URL of a path below the API's; it keeps the format that this request asks for."""
        given = self.query("format")
        return f"{self.request.base_url}{API[1:]}/{path}{'' if given is None else '?' + urlencode({'format': given})}"


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19) or int(text) > MAX_OFFSET:
        raise not_found()
    return int(text)


Handler = Callable[[Asked], Awaitable[Answer | Response]]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """An endpoint: a path and its methods.

    Attributes:
        path: below the API's, with `{id}` for an object's id.
        name: what its page is titled.
        is_open: answers without a login, and to everybody alike.
        for_operators: refuses everybody else.
        is_polled: what it answers to a GET is kept until it changes; it must not name the host.
        is_sent_once: controllers do not send it again: it is never refused for coming too fast.
    """

    path: str
    name: str
    handlers: Mapping[str, Handler] = field(repr=False)
    is_open: bool = False
    for_operators: bool = False
    is_polled: bool = False
    is_sent_once: bool = False

    @property
    def allow(self) -> str:
        heads = ["HEAD"] if "GET" in self.handlers else []
        return ", ".join([*(method for method in _METHODS if method in self.handlers), *heads, "OPTIONS"])


class Door:
    """What all endpoints share."""

    def __init__(self, node: Node, auth: Authenticator, settings: Settings, files: FileStore) -> None:
        self.node = node
        self.auth = auth
        self.settings = settings
        self.files = files
        self.dwell_us = int(settings.legacy_dwell_s * 1e6)
        self.polls = Polls(node)
        self.known_sites = KnownSites()
        node.on_elsewhere.append(self.known_sites.forget)

    def forget(self) -> None:
        """Sites or users have changed by this door: what is remembered of them may be wrong."""
        self.auth.forget()
        self.polls.forget()
        self.known_sites.forget()

    def route(self, view: View) -> Route:
        return Route(API + view.path, _Endpoint(self, view), name=f"legacy: {view.name}")


SENT_ONCE_WAITS_S = 5.0
NOBODY = Principal(user_id=0, sites=frozenset())


class _Endpoint:
    """A view as an ASGI application."""

    def __init__(self, door: Door, view: View) -> None:
        self.door = door
        self.view = view
        self.allow = view.allow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
            response.headers["Allow"] = self.allow
            response.headers.setdefault("Vary", _VARY)
            await response(scope, receive, send)
        except ClientDisconnect:
            return

    async def _respond(self, request: Request) -> Response:
        try:
            media = negotiate(request.headers.get("accept"), request.query_params.get("format"))
        except Refused as refused:
            response = _json(refused.answer)
            response.headers["Vary"] = "Accept"
            return response
        try:
            answer = await self._perform(request, media)
        except Refused as refused:
            answer = refused.answer
        except ReplyError as error:
            answer = refusal(error).answer
        except Exception as error:
            if isinstance(error, ClientDisconnect):
                raise
            incident = uuid.uuid4().hex
            log.exception("request failed: %s %s", request.method, self.view.path, extra={"incident": incident})
            answer = detail(500, f"The relay failed; its log has the id {incident}.").answer
        if isinstance(answer, Response):
            return answer
        return self._page(request, answer) if media == "text/html" and answer.body is not NO_BODY else _json(answer)

    async def _perform(self, request: Request, media: str) -> Answer | Response:
        metrics.POLLS.labels(request.method if request.method in _METHODS else "other", self.view.path).inc()
        principal = NOBODY
        if not self.view.is_open:
            principal = await self.door.auth.owner(request.headers.get("authorization"), shown_in(request.scope))
            await self._admit(principal)
        if self.view.for_operators:
            access.require_operator(principal)
        method = "GET" if request.method == "HEAD" else request.method
        if method == "OPTIONS":
            return Answer(body=self._description())
        handler = self.view.handlers.get(method)
        if handler is None:
            raise method_not_allowed(request.method)
        asked = Asked(request, principal, self.door)
        if method == "GET" and self.view.is_polled and media == bodies.JSON:
            return await self._poll(asked, handler)
        return await handler(asked)

    async def _admit(self, principal: Principal) -> None:
        """Count the request towards the user's rate. What is never sent again waits a while in the place of a refusal.

        Raises:
            ReplyError: `rate_limited`.
        """
        try:
            now = asyncio.get_running_loop().time()
            self.door.node.shares.admit_poll(principal.user_id, len(principal.sites), now)
        except ReplyError as refused:
            if not self.view.is_sent_once:
                raise
            await asyncio.sleep(min(refused.details["retry_after"], SENT_ONCE_WAITS_S))

    async def _poll(self, asked: Asked, handler: Handler) -> Response:
        """Answer from what is kept, or make it and keep it. Who has it already is told so (RFC 9110, 13.1.2)."""
        scope, polls = asked.request.scope, self.door.polls
        key = (scope["path"], scope["query_string"].decode("latin-1"))
        rendered = polls.get(asked.principal, key)
        if rendered is None:
            answer = await handler(asked)
            assert isinstance(answer, Answer)
            rendered = await polls.keep(asked.principal, key, asked.reading, _encoder.encode(answer.body))
        headers = {"ETag": rendered.etag}
        if rendered.etag in asked.request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(rendered.body, headers=headers, media_type=bodies.JSON)

    def _description(self) -> JsonObject:
        return {
            "name": self.view.name,
            "description": "",
            "renders": list(_RENDERERS.values()),
            "parses": [bodies.JSON, bodies.FORM, bodies.MULTIPART],
        }

    def _page(self, request: Request, answer: Answer) -> Response:
        html = pages.answer_page(self.view.name, request.method, request.url.path, self.allow, answer)
        return pages.response(html, answer.status, answer.headers)


def _json(answer: Answer) -> Response:
    if answer.body is NO_BODY:
        return Response(status_code=answer.status, headers=dict(answer.headers))
    body = answer.body if isinstance(answer.body, bytes) else _encoder.encode(answer.body)
    return Response(body, answer.status, dict(answer.headers), media_type="application/json")


# --- what the client wants to have


@lru_cache(maxsize=1024)
def negotiate(accept: str | None, form: str | None) -> str:
    """`application/json` or `text/html`, by `Accept` and `?format=`. The more exact a range, the more it counts; a
    quality does not, and between equals JSON wins.

    Raises:
        Refused: 404 for a format that there is not, 406 if nothing fits.
    """
    offered = list(_RENDERERS.values())
    if form:
        if form not in _RENDERERS:
            raise not_found()
        offered = [_RENDERERS[form]]
    ranges = [part.partition(";")[0].strip().lower() for part in (accept or "*/*").split(",")]
    for exactness in (_is_exact, _is_family, _is_any):
        for media in offered:
            if any(exactness(wanted) and _matches(wanted, media) for wanted in ranges):
                return media
    raise detail(406, "Could not satisfy the request Accept header.")


def _is_any(wanted: str) -> bool:
    return wanted in ("*/*", "*", "")


def _is_family(wanted: str) -> bool:
    return wanted.endswith("/*") and not _is_any(wanted)


def _is_exact(wanted: str) -> bool:
    return not _is_any(wanted) and not _is_family(wanted)


def _matches(wanted: str, media: str) -> bool:
    return _is_any(wanted) or wanted == media or (_is_family(wanted) and media.startswith(wanted[:-1]))


# --- pages of lists

Fetch = Callable[[int, int], Awaitable[tuple[int, Sequence[JsonObject]]]]


async def page(asked: Asked, fetch: Fetch) -> Answer:
    """One page of a list. `fetch(limit, skip)` returns how many there are in all, and those.

    Raises:
        Refused: 404, if there is no such page.
    """
    number = await _page_number(asked, fetch)
    count, results = await fetch(PAGE, (number - 1) * PAGE)
    last = max(1, math.ceil(count / PAGE))
    if number > last:
        raise detail(404, "Invalid page.")
    body = {
        "count": count,
        "next": _with_page(asked.request, number + 1) if number < last else None,
        "previous": _with_page(asked.request, number - 1) if number > 1 else None,
        "results": results,
    }
    return Answer(body=body)


async def _page_number(asked: Asked, fetch: Fetch) -> int:
    given = asked.request.query_params.get("page", "1")
    if given == "last":
        count, _ = await fetch(0, 0)
        return max(1, math.ceil(count / PAGE))
    if not (given.isascii() and given.isdigit() and len(given) <= 12) or int(given) < 1:
        raise detail(404, "Invalid page.")
    return int(given)


def _with_page(request: Request, number: int) -> str:
    """This request's URL with another page. The first page's has none."""
    query = dict(parse_qsl(request.url.query, keep_blank_values=True))
    query.pop("page", None)
    if number > 1:
        query["page"] = str(number)
    return str(request.url.replace(query=urlencode(sorted(query.items()))))
