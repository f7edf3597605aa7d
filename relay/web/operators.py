"""What operators look at in a browser: it is asked for their login, and pages of others get nothing by it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from relay.config import Settings
from relay.core import access
from relay.protocol.errors import forbidden
from relay.web.auth import Authenticator
from relay.web.replies import Handler, answering

CHALLENGE = 'Basic realm="starfish", charset="UTF-8"'
"""Alone: browsers heed the first scheme of a header line, and a token cannot be typed into their dialogue."""


async def admit(auth: Authenticator, request: Request) -> None:
    """Raises `ReplyError`: `unauthenticated`, `forbidden`."""
    access.require_operator(await auth.user(request.headers.get("authorization")))


def require_own_page(settings: Settings, request: Request) -> None:
    """A browser sends its login along with whatever a page asks for: others' pages may not.

    Raises:
        ReplyError: `forbidden`.
    """
    origin = request.headers.get("origin")
    if origin is not None and not settings.allows_origin(origin, request.headers.get("host", "")):
        raise forbidden("pages of this origin may not look")


def asking_for_login(handler: Handler) -> Handler:
    """The handler, with what it raises as an answer; a 401 has the browser ask for name and password."""
    answer = answering(handler)

    async def ask(request: Request) -> Response:
        response = await answer(request)
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = CHALLENGE
        return response

    return ask
