"""The way to the relay: frames out, frames in. The session above it does not know what carries them.

Transport     one connection
Rung          a way to make them: `WebSocketRung`, and two over plain HTTP, `StreamRung` and `PollRung`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import msgspec

SOCKET = "/starfish/ws/v1"
API = "/starfish/api/v1/"


class Disconnected(Exception):
    """The connection is gone. `code` is the close code: 1006 if there was no closing handshake."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.reason = reason


class HeldBack(Disconnected):
    """Nothing came for longer than anything is silent: something between keeps it to itself."""


class Refused(Exception):
    """The answer was an HTTP response, and not the one that was hoped for.

    `code` is the error code if the relay itself said so; None if it was something between, or no relay at all.
    `retry_after_s` is what it asked for, if it did.
    """

    def __init__(
        self,
        status: int,
        message: str,
        retry_after_s: float | None = None,
        *,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"HTTP {status}: {message}" if code is None else f"HTTP {status}: {code}: {message}")
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.code = code
        self.details = dict(details or {})


class _Error(msgspec.Struct):
    code: str
    message: str = ""
    details: dict[str, Any] | None = None


class _Refusal(msgspec.Struct):
    error: _Error


def refusal(status: int, reason: str, headers: Mapping[str, str], body: bytes) -> Refused:
    """What an HTTP response says that is not the one that was hoped for."""
    retry_after = headers.get("Retry-After", "")
    retry_after_s = float(retry_after) if retry_after.isdecimal() and len(retry_after) < 6 else None
    try:
        error = msgspec.json.decode(body, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Refused(status, reason or "no reason given", retry_after_s)
    return Refused(status, error.message, retry_after_s, code=error.code, details=error.details)


class Unreachable(ConnectionError):
    """There was no connection at all: another way to use one would not help."""


class Transport(Protocol):
    async def send(self, frame: bytes, *, binary: bool = False) -> None:
        """Send one frame; waits while the way is full. A cancelled `send` has sent the whole frame or nothing.

        Raises:
            Disconnected: the connection is gone; whether the frame went out is not known.
            Refused: this way cannot be used, or not by this site.
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


class Rung(Protocol):
    @property
    def name(self) -> str: ...

    async def open(self) -> Transport:
        """Make a connection. The credentials go into headers, never into the URL.

        Raises:
            Refused: the relay, or something between, said no.
            OSError: the network did not carry it, or not in time (a `TimeoutError` is one).
        """
        ...


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
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + SOCKET, "", ""))


def api_url(socket: str) -> str:
    """`wss://relay.example/starfish/ws/v1` → `https://relay.example/starfish/api/v1/`."""
    return "http" + socket.removeprefix("ws").removesuffix(SOCKET) + API
