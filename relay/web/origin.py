"""Where a request comes from, for the audit record: set once, and known to all that is done for the request."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from relay.core.audit import SOURCE, Source


class FromWhere:
    """An ASGI application that notes the client's address, a proxy's word for it where that is believed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        note_where(scope)
        await self.app(scope, receive, send)


def note_where(scope: Scope) -> None:
    """Note it for the rest of this task."""
    client = scope.get("client")
    SOURCE.set(Source(origin=str(client[0]) if client else ""))
