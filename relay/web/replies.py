"""Errors as HTTP answers, for everything but the polling API: `{"error": {"code", "message", "details"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from relay.protocol.errors import ErrorCode, ReplyError

STATUS: Mapping[ErrorCode, int] = {
    ErrorCode.BAD_FRAME: 400,
    ErrorCode.UNKNOWN_TYPE: 400,
    ErrorCode.UNKNOWN_METHOD: 404,
    ErrorCode.INVALID: 400,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.UNKNOWN_PROJECT: 404,
    ErrorCode.UNKNOWN_RUN: 404,
    ErrorCode.UNKNOWN_SITE: 404,
    ErrorCode.UNKNOWN_BLOB: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.NOT_ALL_CONNECTED: 409,
    ErrorCode.EXISTS: 409,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.TOO_MANY_SESSIONS: 429,
    ErrorCode.DRAINING: 503,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}
RETRY_AFTER_S = 5

_encoder = msgspec.json.Encoder()


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return _encoder.encode(content)


def error_response(error: ReplyError) -> Json:
    """The answer that a refusal is over HTTP."""
    status = STATUS[error.code]
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.details:
        body["details"] = error.details
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="starfish", Basic realm="starfish", charset="UTF-8"'
    if status in (429, 503):
        headers["Retry-After"] = str(int(error.details.get("retry_after", RETRY_AFTER_S)))
    return Json({"error": body}, status, headers)
