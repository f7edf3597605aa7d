"""The API's beginning, the pages beside it, and what is said where there is nothing."""

from __future__ import annotations

import asyncio
import hashlib

from starlette.datastructures import URLPath
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Route
from starlette.types import Receive, Scope, Send

from relay.web.legacy import pages, reference
from relay.web.legacy.answers import Answer
from relay.web.legacy.door import API, Asked, View, negotiate

RESOURCES = ("users", "groups", "sites", "projects", "project-participants", "runs", "runs-action")


async def resources(asked: Asked) -> Answer | Response:
    """Each resource's name and its URL; for a browser the page that a person can read."""
    if negotiate(asked.request.headers.get("accept"), asked.query("format")) == "text/html":
        page = await asyncio.to_thread(reference.page)
        return _unless_known(asked.request, pages.response(page))
    return Answer(body={name: asked.url(f"{name}/") for name in RESOURCES})


def _unless_known(request: Request, response: Response) -> Response:
    """The response with its ETag; or, if the client has it already, no more than that (RFC 9110, 13.1.2)."""
    etag = f'"{hashlib.blake2b(response.body, digest_size=12).hexdigest()}"'
    if etag in request.headers.get("if-none-match", ""):
        response = Response(status_code=304)
    response.headers["ETag"] = etag
    return response


VIEWS = [View(path="/", name="Api Root", handlers={"GET": resources}, is_open=True)]


async def _to_the_api(_request: Request) -> Response:
    return _redirect(302, API[1:] + "/")


async def _openapi(request: Request) -> Response:
    """The document that describes the API, for machines."""
    document = await asyncio.to_thread(reference.source)
    return _unless_known(request, Response(document, headers=pages.HEADERS, media_type="application/yaml"))


async def _login(_request: Request) -> Response:
    return pages.response(pages.login_page(), headers={"Vary": "Cookie"})


ROUTES = [
    Route("/", _to_the_api, methods=["GET"]),
    Route(API + "/openapi.yaml", _openapi, methods=["GET"]),
    Route("/starfish/api-auth/login/", _login, methods=["GET"]),
]


class Elsewhere(BaseRoute):
    """What is asked for where no route is: with a slash at its end it may be one; else a page says that it is none.

    It matches only in part, so that a route that has the path, but not the method, goes before it.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.PARTIAL if scope["type"] == "http" else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: object) -> URLPath:
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = request.url.path
        if request.method in ("GET", "HEAD") and not path.endswith("/") and _is_served(request, path + "/"):
            query = f"?{request.url.query}" if request.url.query else ""
            response = _redirect(301, path + "/" + query)
        else:
            response = pages.response(pages.not_found_page(path), 404)
        await response(scope, receive, send)


def _is_served(request: Request, path: str) -> bool:
    scope = dict(request.scope, path=path)
    routes: list[BaseRoute] = request.app.routes
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def _redirect(status: int, location: str) -> Response:
    return Response(status_code=status, headers={"Location": location}, media_type="text/html")
