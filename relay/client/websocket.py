"""The top rung: one WebSocket."""

from __future__ import annotations

import logging
import ssl as ssl_module
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
)
from websockets.typing import LoggerLike, Subprotocol

from relay.client.credentials import Credentials
from relay.client.limits import Limits
from relay.client.proxies import Proxy
from relay.client.transport import Disconnected, Refused, refusal
from relay.protocol.envelope import SUBPROTOCOL


class _NoDebug(logging.LoggerAdapter[logging.Logger]):
    """At DEBUG, websockets would log the handshake's headers, and with them the credentials."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is logging's
        return level > logging.DEBUG and self.logger.isEnabledFor(level)


_logger: LoggerLike = _NoDebug(logging.getLogger(__name__), {})


class WebSocket:
    """A `Transport` over one WebSocket. Liveness is its own business: a peer that answers no ping is gone."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, frame: bytes, *, binary: bool = False) -> None:
        try:
            await self._connection.send(frame, text=not binary)
        except ConnectionClosed as closed:
            raise _disconnected(closed) from None

    async def receive(self) -> str | bytes:
        try:
            return await self._connection.recv()
        except ConnectionClosed as closed:
            raise _disconnected(closed) from None

    async def close(self, code: int) -> None:
        try:
            await self._connection.close(code)
        finally:
            self.drop()

    def drop(self) -> None:
        self._connection.transport.abort()


class WebSocketRung:
    """A `Rung`."""

    name = "websocket"

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        limits: Limits,
        *,
        ssl: ssl_module.SSLContext | None,
        proxy: Proxy | None,
    ) -> None:
        self._url = url
        self._credentials = credentials
        self._limits = limits
        self._ssl = ssl
        self._proxy = proxy

    async def open(self) -> WebSocket:
        headers = await self._credentials.headers()
        limits = self._limits
        tls: dict[str, Any] = {} if self._ssl is None else {"ssl": self._ssl}
        try:
            connection = await connect(
                self._url,
                additional_headers=headers,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                proxy=None if self._proxy is None else self._proxy.url,
                open_timeout=limits.open_s,
                close_timeout=limits.close_s,
                ping_interval=limits.ping_s,
                ping_timeout=limits.ping_s,
                max_size=limits.frame_bytes,
                logger=_logger,
                **tls,
            )
        except InvalidStatus as refused:
            response = refused.response
            raise refusal(
                response.status_code, response.reason_phrase, response.headers, bytes(response.body or b"")
            ) from None
        except InvalidProxyStatus as refused:
            raise Refused(refused.response.status_code, "by the proxy") from None
        except InvalidMessage as error:
            raise ConnectionError(f"the answer to the handshake is not HTTP: {error}") from error
        except InvalidHandshake as error:
            raise ConnectionError(f"the handshake failed: {error}") from error
        return WebSocket(connection)


def _disconnected(closed: ConnectionClosed) -> Disconnected:
    """The peer's close code comes first; 1006 is what RFC 6455 has for "none came"."""
    if closed.rcvd is not None:
        return Disconnected(closed.rcvd.code, closed.rcvd.reason)
    if closed.sent is not None:
        return Disconnected(1006, f"closed from this side: {closed.sent.code} {closed.sent.reason}".strip())
    return Disconnected(1006, str(closed.__cause__ or "the connection was lost"))
