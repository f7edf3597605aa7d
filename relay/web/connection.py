"""HTTP connections: uvicorn's protocol, with limits to what a stranger may send, and a way to cut one off.

A request's line and headers have a limit in bytes, in number and in time, from the first byte on or from the connection
on; so have a chunked body's trailers. An answer that a peer does not take is not kept for ever: the connection is cut
when for `UNREAD_S` none of it has moved.

ASGI has no word for an answer that cannot be finished. Ending it as if it were whole would pass half a file off as one;
closing the socket politely waits for a peer that may have stopped reading for ever. `abort` cuts it: the client sees an
answer that is shorter than it was told, or a chunked one without an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from relay.web.peers import CERTIFICATE, shown_on
from relay.web.transport import unsent_bytes

EXTENSION = "starfish.connection"
URL_BYTES = 8 * 1024
HEADER_BYTES = 32 * 1024
"""Of all headers together, names and values; and of the trailers."""
HEADERS = 128
UNREAD_S = 60.0


class RelayHttp(HttpToolsProtocol):
    """uvicorn's protocol, found in the ASGI scope's extensions under `EXTENSION`.

    `head_timeout_s` is how long a request's head may take, from its first byte; and how long the first one may be
    awaited. To be set before it serves.
    """

    head_timeout_s = 20.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._status = HTTPStatus.BAD_REQUEST
        self._certificate: str | None = None
        self._in_head = True
        self._fields = 0
        self._field_bytes = 0
        self._unparsed = 0
        """Bytes since the parser has last made something of them: it holds what is not whole yet."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._certificate = shown_on(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unparsed += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unparsed > URL_BYTES + HEADER_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._in_head and self._head_timer is None and self._unparsed:
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._status)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer what cannot become a request, if no other answer is under way, and close."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self.transport.abort()
            return
        words = f"{status.value} {status.phrase}".encode()
        head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
            words
        )
        self.transport.write(STATUS_LINE[status.value] + head + words)
        self.transport.close()
        self._watch_unread()

    # --- a request's head

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = {EXTENSION: self, CERTIFICATE: self._certificate}
        self._in_head = True
        self._fields = self._field_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES:
            self._stop_parsing(HTTPStatus.REQUEST_URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._field_bytes += len(name) + len(value)
        if self._fields > HEADERS or self._field_bytes > HEADER_BYTES:
            self._stop_parsing(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._end_head()
        self._fields = self._field_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        super().on_message_complete()

    def _stop_parsing(self, status: HTTPStatus) -> None:
        self._status = status
        raise httptools.HttpParserError(status.phrase)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._unparsed:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _end_head(self) -> None:
        self._in_head = False
        self._unparsed = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # --- an answer

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_unread()

    def _watch_unread(self) -> None:
        """See that what has been answered is taken, however long the connection is to be kept."""
        pending = int(self.transport.get_write_buffer_size())
        if pending and self._unread_timer is None:
            self._unread_timer = self.loop.call_later(UNREAD_S, self._look_at_unread, self.pending())

    def _look_at_unread(self, before: int) -> None:
        self._unread_timer = None
        if not self.transport.get_write_buffer_size():
            return
        if self.pending() >= before:
            self.transport.abort()
        else:
            self._watch_unread()

    def pending(self) -> int:
        """Bytes of answers that the peer has not taken."""
        return int(self.transport.get_write_buffer_size()) + unsent_bytes(self.transport)


@contextmanager
def patience(scope: Scope, seconds: float) -> Iterator[None]:
    """Cut the connection off if its peer takes no byte for so long within the block. Slow is no fault."""
    protocol = _protocol_of(scope)
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def look(before: int) -> None:
        nonlocal timer
        now = protocol.pending()
        if now >= before:
            protocol.transport.abort()
        else:
            timer = loop.call_later(seconds, look, now)

    timer = loop.call_later(seconds, look, max(1, protocol.pending()))
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
