"""The API's beginning, the pages beside it, and what is said where there is nothing."""

from __future__ import annotations

from starlette.datastructures import URLPath
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Route
from starlette.types import Receive, Scope, Send

from relay.web.legacy import pages
from relay.web.legacy.answers import Answer
from relay.web.legacy.door import API, Asked, View, negotiate

RESOURCES = ("users", "groups", "sites", "projects", "project-participants", "runs", "runs-action")


async def resources(asked: Asked) -> Answer | Response:
    """Each resource's name and its URL; for a browser the page that a person can read."""
    urls = {name: asked.url(f"{name}/") for name in RESOURCES}
    if negotiate(asked.request.headers.get("accept"), asked.query("format")) == "text/html":
        return HTMLResponse(pages.root_page(urls))
    return Answer(body=urls)


VIEWS = [View(path="/", name="Api Root", handlers={"GET": resources}, is_open=True)]


async def _to_the_api(_request: Request) -> Response:
    return _redirect(302, API[1:] + "/")


async def _login(_request: Request) -> Response:
    return HTMLResponse(pages.login_page(), headers={"Vary": "Cookie"})


ROUTES = [
    Route("/", _to_the_api, methods=["GET"]),
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
            response = HTMLResponse(pages.not_found_page(path), 404)
        await response(scope, receive, send)


def _is_served(request: Request, path: str) -> bool:
    scope = dict(request.scope, path=path)
    routes: list[BaseRoute] = request.app.routes
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def _redirect(status: int, location: str) -> Response:
    return Response(status_code=status, headers={"Location": location}, media_type="text/html")
