"""Everything that the relay says when it says no.

There are two families, and they never mix:

    ReplyError        answers one frame or request; the session lives on (protocol, section 7)
    SessionClosed     ends the session; its code says whether the client should come back

A client branches on `code`, never on `message`: messages are for people and may be reworded in any release.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any


class ErrorCode(StrEnum):
    """The codes of an `error` frame and of a REST error body."""

    BAD_FRAME = "bad_frame"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_METHOD = "unknown_method"
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    UNKNOWN_PROJECT = "unknown_project"
    UNKNOWN_RUN = "unknown_run"
    UNKNOWN_SITE = "unknown_site"
    UNKNOWN_BLOB = "unknown_blob"
    CONFLICT = "conflict"
    NOT_ALL_CONNECTED = "not_all_connected"
    EXISTS = "exists"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_SESSIONS = "too_many_sessions"
    DRAINING = "draining"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class ReplyError(Exception):
    """A request was refused; nothing of it was done, and the session goes on.

    `details` is a JSON object that a program can act on: for `invalid`, the field and the reason;
    for `conflict`, `from` and `to`; for `rate_limited`, `retry_after` in seconds.
    """

    def __init__(self, code: ErrorCode, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details: dict[str, Any] = dict(details or {})


def invalid(**reasons: str) -> ReplyError:
    """The error for parameters that are missing, of a wrong type, or out of range: one reason a field."""
    fields = ", ".join(f"{field}: {reason}" for field, reason in reasons.items())
    return ReplyError(ErrorCode.INVALID, f"not a valid request ({fields})", reasons)


def unknown_project() -> ReplyError:
    """The same words for a project that does not exist and for one that is none of the caller's business."""
    return ReplyError(ErrorCode.UNKNOWN_PROJECT, "there is no such project among those of this site")


def unknown_run() -> ReplyError:
    """The same words for a run that does not exist and for one that the caller may not see."""
    return ReplyError(ErrorCode.UNKNOWN_RUN, "there is no such run among those of this site")


def unknown_site() -> ReplyError:
    """The same words for a site that does not exist and for one that the caller may not see."""
    return ReplyError(ErrorCode.UNKNOWN_SITE, "there is no such site")


def unknown_blob() -> ReplyError:
    """The same words for a blob that does not exist and for one that the caller may not read."""
    return ReplyError(ErrorCode.UNKNOWN_BLOB, "there is no such blob among those of this site")


def forbidden(message: str) -> ReplyError:
    """The caller is known and takes part, but this is not for its role."""
    return ReplyError(ErrorCode.FORBIDDEN, message)


def unavailable(message: str = "the storage did not answer; nothing was stored, try again") -> ReplyError:
    """A passing fault of the storage. Safe to send again: with the same id it is stored once."""
    return ReplyError(ErrorCode.UNAVAILABLE, message)


class CloseCode(IntEnum):
    """WebSocket close codes (RFC 6455, section 7.4; the 4xxx are the protocol's own)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    TOO_BIG = 1009
    RESTARTING = 1012
    OVERLOADED = 1013
    BAD_FRAMES = 4400
    UNAUTHENTICATED = 4401
    GONE = 4403
    HELLO_TIMEOUT = 4408
    TOO_SLOW = 4410
    RATE_LIMITED = 4429


RECONNECT: Mapping[CloseCode, bool] = {
    CloseCode.NORMAL: False,
    CloseCode.GOING_AWAY: False,
    CloseCode.TOO_BIG: False,
    CloseCode.RESTARTING: True,
    CloseCode.OVERLOADED: True,
    CloseCode.BAD_FRAMES: False,
    CloseCode.UNAUTHENTICATED: False,
    CloseCode.GONE: False,
    CloseCode.HELLO_TIMEOUT: True,
    CloseCode.TOO_SLOW: True,
    CloseCode.RATE_LIMITED: True,
}
"""Whether a client that is closed with a code should connect again with the credentials that it has."""


class SessionClosed(Exception):
    """The session ends with `code`; `reason` (at most 123 bytes, RFC 6455 section 5.5) is for people."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(f"{int(code)} {reason}")
        self.code = code
        self.reason = reason
