"""What a site's own code may have to catch.

    ReplyError                    (relay.protocol.errors)
    └── RelayError                the relay refused one request; the session goes on
    ClientError
    ├── Interrupted               the connection was lost under a request: whether it was done is not known
    ├── NotConnected              the first connection did not come about in time
    ├── Corrupted                 what was downloaded or uploaded arrived damaged, each time
    ├── SourceChanged             a file was written to while it was being sent
    ├── TooLong                   a payload is longer than the caller takes
    ├── InUse                     another task or process sends, or saves, the very same
    └── SessionEnded              there is no session any more, and it will not come back by itself
        ├── Closed                the `async with` block was left
        ├── Unauthenticated       401 or 4401: get a new token
        ├── Forbidden             403 or 4403: not this user's site, or the site is gone
        ├── UnknownSite           404: the relay knows no such site
        ├── ProxyRefused          407: the proxy on the way wants other credentials
        └── ProtocolViolation     400, 4400, 1009, or a frame that makes no sense: one side has a fault

What passes (a lost network, a relay that restarts or is overloaded) raises nothing: the session reconnects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from relay.protocol.errors import CloseCode, ErrorCode, ReplyError


class RelayError(ReplyError):
    """The relay refused a request; nothing of it was done. Branch on `code`, never on `message`.

    `code` is an `ErrorCode`, or the bare string if the relay is newer than this client and knows more of them.
    """

    @classmethod
    def of(cls, code: str, message: str, details: Mapping[str, Any] | None) -> RelayError:
        known = ErrorCode(code) if code in ErrorCode.__members__.values() else cast("ErrorCode", code)
        return cls(known, message, details)


class ClientError(Exception):
    """All that this client raises by itself."""


class Interrupted(ClientError):
    """The connection was lost while a call that changes something was under way.

    It may have been done or not, and to send it again could do it twice: look first. `method` is the call's name.
    """

    def __init__(self, method: str) -> None:
        look = "projects.list" if method.startswith("projects.") else "runs.list"
        super().__init__(f"the connection was lost during {method}: it may have been done or not; {look} tells")
        self.method = method


class NotConnected(ClientError):
    """The relay was not reached within `Limits.connect_s`; the last attempt's error is the cause."""


class Corrupted(ClientError):
    """The bytes that arrived have another SHA-256 than they should, however often they were sent."""


class SourceChanged(ClientError):
    """What was to be sent was written to meanwhile. Nothing was published; send it again."""


class TooLong(ClientError):
    """A payload has more bytes than `max_bytes`."""


class InUse(ClientError):
    """Another task or process is sending the same content to the same place, or saving the same file."""


class SessionEnded(ClientError):
    """The session is over and does not come back by itself."""

    def again(self) -> SessionEnded:
        """The same to raise once more: one exception object is not raised in two places."""
        return type(self)(*self.args)


class Closed(SessionEnded):
    """The site's `async with` block has been left."""


class Unauthenticated(SessionEnded):
    """The credentials are wrong, or the token has expired or was revoked."""


class Forbidden(SessionEnded):
    """The site is not this user's, or it was deleted, or its user is disabled."""


class UnknownSite(SessionEnded):
    """The relay knows no such site; or there is no relay at this URL."""


class ProxyRefused(SessionEnded):
    """The proxy on the way wants credentials, or others: `http://user:password@host:port`."""


class ProtocolViolation(SessionEnded):
    """One side does not keep to the protocol: to connect again would not help."""


BY_STATUS: Mapping[int, type[SessionEnded]] = {
    400: ProtocolViolation,
    401: Unauthenticated,
    403: Forbidden,
    404: UnknownSite,
    407: ProxyRefused,
}
"""HTTP statuses of a refused handshake after which it is not tried again. All others pass."""

BY_CLOSE_CODE: Mapping[int, type[SessionEnded]] = {
    CloseCode.TOO_BIG: ProtocolViolation,
    CloseCode.BAD_FRAMES: ProtocolViolation,
    CloseCode.UNAUTHENTICATED: Unauthenticated,
    CloseCode.GONE: Forbidden,
}
"""What the close codes mean after which `relay.protocol.errors.RECONNECT` says not to come back."""
