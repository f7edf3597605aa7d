"""Bodies and answers of everything but the polling API. Errors are `{"error": {"code", "message", "details"}}`."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping
from math import ceil
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from relay import metrics
from relay.protocol.errors import ErrorCode, ReplyError, invalid

log = logging.getLogger(__name__)

STALL_S = 30.0
"""How long a body may not come on."""
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
RETRY_AFTER_S = (2.0, 10.0)
"""Between these, at random: a crowd that was refused in one moment is not to come back in one."""

SLOWEST_BYTES_S = 1024
"""How long a body may take in all: `STALL_S`, and a second more for each so many bytes that have come."""

_encoder = msgspec.json.Encoder()


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return _encoder.encode(content)


def error_response(error: ReplyError) -> Json:
    """The answer that a refusal is over HTTP."""
    status = STATUS[error.code]
    metrics.REFUSED.labels(error.code).inc()
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.details:
        body["details"] = error.details
    headers = retry_after(error)
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="starfish", Basic realm="starfish", charset="UTF-8"'
    return Json({"error": body}, status, headers)


def retry_after(error: ReplyError) -> dict[str, str]:
    """The header that says when to come again, if coming again may help: each at another time, unless it is known."""
    if STATUS[error.code] not in (429, 503):
        return {}
    after_s = error.details.get("retry_after") or random.uniform(*RETRY_AFTER_S)  # noqa: S311 - not a secret
    return {"Retry-After": str(ceil(after_s))}


Handler = Callable[[Request], Awaitable[Response]]


def answering(handler: Handler) -> Handler:
    """The handler, with what it raises as an answer in this API's own form."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ReplyError as error:
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody: who asked is gone, and that is no failure of the relay's
        except Exception:
            incident = uuid.uuid4().hex
            log.exception("request failed", extra={"incident": incident})
            failure = ReplyError(ErrorCode.INTERNAL, "the relay failed; its log has the id", {"id": incident})
            return error_response(failure)

    return answer


async def read_body(request: Request, form: type[Any], limit: int, *, default: Any = None) -> Any:
    """A JSON body; of one that is empty, `default`, if there is one.

    Raises:
        ReplyError: `too_large`, `invalid`; or no byte has come for `STALL_S` (a peer that is gone may never say so), or
            it trickles.
    """
    body = await _whole(request, limit)
    if not body and default is not None:
        return default
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(body=str(error) or type(error).__name__) from None


async def _whole(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    stream = aiter(request.stream())
    now = asyncio.get_running_loop().time
    until = now() + STALL_S
    while True:
        left_s = until + size / SLOWEST_BYTES_S - now()
        try:
            async with asyncio.timeout(min(STALL_S, left_s)):
                chunk = await anext(stream, None)
        except TimeoutError:
            words = f"it broke off: no byte for {STALL_S:g} s"
            if left_s < STALL_S / 2:
                words = f"it trickles: fewer than {SLOWEST_BYTES_S} bytes a second"
            raise invalid(body=words) from None
        if chunk is None:
            return b"".join(chunks)
        size += len(chunk)
        if size > limit:
            raise ReplyError(ErrorCode.TOO_LARGE, f"a body has at most {limit} bytes", {"limit": limit})
        chunks.append(chunk)
