"""HTTP connections: uvicorn's protocol, with a way to cut one off.

ASGI has no word for an answer that cannot be finished. Ending it as if it were whole would pass half a file off as one;
closing the socket politely waits for a peer that may have stopped reading for ever. `abort` cuts it: the client sees an
answer that is shorter than it was told, or a chunked one without an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from relay.web.transport import unsent_bytes

EXTENSION = "starfish.connection"


class RelayHttp(HttpToolsProtocol):
    """uvicorn's protocol, found in the ASGI scope's extensions under `EXTENSION`."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = {EXTENSION: self}


@contextmanager
def patience(scope: Scope, seconds: float) -> Iterator[None]:
    """Cut the connection off if its peer takes no byte for so long within the block. Slow is no fault."""
    protocol = _protocol_of(scope)
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def pending() -> int:
        return int(protocol.transport.get_write_buffer_size()) + unsent_bytes(protocol.transport)

    def look(before: int) -> None:
        nonlocal timer
        now = pending()
        if now >= before:
            protocol.transport.abort()
        else:
            timer = loop.call_later(seconds, look, now)

    timer = loop.call_later(seconds, look, max(1, pending()))
    try:
        yield
    finally:
        timer.cancel()


def abort(scope: Scope) -> None:
    """Cut the connection of a request. What it was still to be sent is dropped.

    Raises:
        RuntimeError: it is served by something else than this server.
    """
    _protocol_of(scope).transport.abort()


def _protocol_of(scope: Scope) -> RelayHttp:
    protocol = scope.get("extensions", {}).get(EXTENSION)
    if not isinstance(protocol, RelayHttp):
        raise RuntimeError(f"expected a RelayHttp in the scope, got {protocol!r}; start it by `starfish-relay serve`")
    return protocol
