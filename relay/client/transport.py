"""The way to the relay: frames out, frames in. The session above it does not know what carries them.

`WebSocket` is the one that there is. Another (long poll, SSE) would be a second class with these four methods.
"""

from __future__ import annotations

import base64
import logging
import ssl as ssl_module
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import LoggerLike, Subprotocol

from relay.client.limits import Limits
from relay.protocol.envelope import SUBPROTOCOL

PATH = "/starfish/ws/v1"


class Disconnected(Exception):
    """The connection is gone. `code` is the close code: 1006 if there was no closing handshake."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.reason = reason


class Refused(Exception):
    """The handshake was answered with an HTTP response. `retry_after_s` is what it asked for, if it did."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.retry_after_s = retry_after_s


class Transport(Protocol):
    async def send(self, frame: bytes, *, binary: bool = False) -> None:
        """Send one frame; waits while the way is full. A cancelled `send` has sent the whole frame or nothing.

        Raises:
            Disconnected: the connection is gone; whether the frame went out is not known.
        """
        ...

    async def receive(self) -> str | bytes:
        """The next frame: text as `str`, binary as `bytes`.

        Raises:
            Disconnected: there will be none.
        """
        ...

    async def close(self, code: int) -> None:
        """Close it, if it is not closed yet. Nothing of it is left afterwards."""
        ...

    def drop(self) -> None:
        """Let go of it without a word, as a network does that fails."""
        ...


Opener = Callable[[], Awaitable[Transport]]
"""Makes a connection. Raises `Refused`, or `OSError` (a `TimeoutError` is one) for what may pass."""


class Credentials:
    """Who this site is. The secret shows in no `repr` and no log."""

    def __init__(self, token: str | None, user: str | None, password: str | None, uid: str | None) -> None:
        by_token = token is not None and (user, password, uid) == (None, None, None)
        by_password = token is None and user is not None and password is not None and uid is not None
        if not by_token and not by_password:
            raise ValueError("give either token, or user, password and uid")
        self._token = token
        self._user, self._password, self._uid = user, password, uid

    def __repr__(self) -> str:
        return "Credentials(token=…)" if self._token is not None else f"Credentials(uid={self._uid!r}, …)"

    def renew(self, token: str) -> None:
        """From now on, this token."""
        self._token = token

    def headers(self) -> dict[str, str]:
        if self._token is not None:
            return {"Authorization": f"Bearer {self._token}"}
        pair = base64.b64encode(f"{self._user}:{self._password}".encode()).decode("ascii")
        return {"Authorization": f"Basic {pair}", "X-Starfish-Site": self._uid or ""}


class _NoDebug(logging.LoggerAdapter[logging.Logger]):
    """At DEBUG, websockets would log the handshake's headers, and with them the credentials."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is logging's
        return level > logging.DEBUG and self.logger.isEnabledFor(level)


_logger: LoggerLike = _NoDebug(logging.getLogger(__name__), {})


class WebSocket:
    """A `Transport` over one WebSocket. Liveness is its own business: a peer that answers no ping is gone."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @classmethod
    async def open(
        cls,
        url: str,
        credentials: Credentials,
        limits: Limits,
        *,
        ssl: ssl_module.SSLContext | None,
        proxy: str | bool,
    ) -> WebSocket:
        """Connect and upgrade. The credentials go into the handshake's headers, never into the URL.

        Raises:
            Refused: the relay, or something between, said no.
            OSError: the network did not carry it, or not in time.
        """
        tls: dict[str, Any] = {} if ssl is None else {"ssl": ssl}
        try:
            connection = await connect(
                url,
                additional_headers=credentials.headers(),
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                proxy=proxy or None,
                open_timeout=limits.open_s,
                close_timeout=limits.close_s,
                ping_interval=limits.ping_s,
                ping_timeout=limits.ping_s,
                max_size=limits.frame_bytes,
                logger=_logger,
                **tls,
            )
        except InvalidStatus as refusal:
            raise _refused(refusal) from None
        except InvalidMessage as error:
            raise ConnectionError(f"the answer to the handshake is not HTTP: {error}") from error
        except InvalidHandshake as error:
            raise ConnectionError(f"the handshake failed: {error}") from error
        return cls(connection)

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


def _refused(refusal: InvalidStatus) -> Refused:
    response = refusal.response
    try:
        error = msgspec.json.decode(response.body or b"", type=dict[str, dict[str, object]])["error"]
        message = f"{error['code']}: {error['message']}"
    except (msgspec.DecodeError, KeyError):
        message = response.reason_phrase or "no reason given"
    retry_after = response.headers.get("Retry-After", "")
    return Refused(response.status_code, message, float(retry_after) if retry_after.isdigit() else None)


def _disconnected(closed: ConnectionClosed) -> Disconnected:
    """The peer's close code comes first; 1006 is what RFC 6455 has for "none came"."""
    if closed.rcvd is not None:
        return Disconnected(closed.rcvd.code, closed.rcvd.reason)
    if closed.sent is not None:
        return Disconnected(1006, f"closed from this side: {closed.sent.code} {closed.sent.reason}".strip())
    return Disconnected(1006, str(closed.__cause__ or "the connection was lost"))


def socket_url(url: str) -> str:
    """`https://relay.example/` → `wss://relay.example/starfish/ws/v1`.

    Raises:
        ValueError: the URL is of another kind, or holds credentials, a query or a fragment.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ValueError("a relay's URL is http(s)://host:port or ws(s)://host:port")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("a relay's URL holds no credentials, no query and no fragment")
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + PATH, "", ""))
