"""The status page: `relay.web.status`, for people. Three files of this directory, served as they are.

    GET /status                 the page, for operators: the browser asks for the login
    GET /status/status.css      what it looks like
    GET /status/status.js       what fills it, and keeps it so

It has nothing from any other host, nothing inline, and the browser is told to allow neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from relay.web.auth import Authenticator
from relay.web.headers import NOTHING
from relay.web.operators import admit, asking_for_login

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        f"{NOTHING}; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        "require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class PageDoor:
    """See the module."""

    def __init__(self, auth: Authenticator) -> None:
        self._auth = auth

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/status", asking_for_login(self.page), methods=["GET"]),
            Route("/status/status.css", _Part("status.css").answer, methods=["GET"]),
            Route("/status/status.js", _Part("status.js").answer, methods=["GET"]),
        ]

    async def page(self, request: Request) -> Response:
        """Raises `ReplyError`: `unauthenticated`, `forbidden`."""
        await admit(self._auth, request)
        return await _PAGE.answer(request)


class _Part:
    """One file, read once."""

    def __init__(self, name: str) -> None:
        path = Path(__file__).with_name(name)
        self._content = path.read_bytes()
        self._media = _MEDIA[path.suffix]
        self._etag = f'"{hashlib.blake2b(self._content, digest_size=12).hexdigest()}"'

    async def answer(self, request: Request) -> Response:
        """The file; or, if the client has it already, no more than that (RFC 9110, 13.1.2)."""
        headers = {**HEADERS, "ETag": self._etag}
        if self._etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self._content, headers=headers, media_type=self._media)


_PAGE = _Part("status.html")
