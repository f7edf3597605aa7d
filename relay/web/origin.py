"""Where a request comes from, for the audit record, and its id, for the log: known to all that is done for it."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.core.audit import SOURCE, Source
from relay.telemetry import begin_request

REQUEST_ID = b"x-request-id"

LONGEST = 64
"""Characters of an address; a proxy may report anything."""


class FromWhere:
    """An ASGI application that notes the client's address, a proxy's word for it where that is believed.

    A request that comes with an `X-Request-Id` keeps it; any other is given one. The answer tells it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = note_where(scope).encode("ascii")

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
            await send(message)

        await self.app(scope, receive, send_with_id)


def note_where(scope: Scope) -> str:
    """Note it for the rest of this task. Returns the request's id."""
    client = scope.get("client")
    SOURCE.set(Source(origin=str(client[0])[:LONGEST] if client else ""))
    given = next((value for name, value in scope.get("headers", ()) if name == REQUEST_ID), None)
    return begin_request(None if given is None else given.decode("latin-1"))
