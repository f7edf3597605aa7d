"""HTTP connections: uvicorn's protocol, with a way to cut one off.

ASGI has no word for an answer that cannot be finished. Ending it as if it were whole would pass half a file off as one;
closing the socket politely waits for a peer that may have stopped reading for ever. `abort` cuts it: the client sees an
answer that is shorter than it was told, or a chunked one without an end.
"""

from __future__ import annotations

from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION = "starfish.connection"


class RelayHttp(HttpToolsProtocol):
    """uvicorn's protocol, found in the ASGI scope's extensions under `EXTENSION`."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = {EXTENSION: self}


def abort(scope: Scope) -> None:
    """Cut the connection of a request. What it was still to be sent is dropped.

    Raises:
        RuntimeError: it is served by something else than this server.
    """
    protocol = scope.get("extensions", {}).get(EXTENSION)
    if not isinstance(protocol, RelayHttp):
        raise RuntimeError(f"expected a RelayHttp in the scope, got {protocol!r}; start it by `starfish-relay serve`")
    protocol.transport.abort()
