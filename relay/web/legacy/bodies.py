"""Request bodies: JSON, urlencoded forms and multipart forms, each to what a handler reads its fields from.

Bodies are small here and are read whole, up to a limit; uploads of files go their own way (`uploads`).
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from relay.web.legacy.answers import Refused, bad, detail
from relay.web.legacy.multipart import BadForm, Head, Multipart
from relay.web.replies import SLOWEST_BYTES_S

MAX_BYTES = 8 * 1024 * 1024
MAX_FIELDS = 1000

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def media_type(request: Request) -> str:
    """The body's media type, without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read(request: Request, *, stall_s: float) -> Any:
    """The body as data. A form is an object of strings, in which the last of several values counts; no body is `{}`.

    Raises:
        Refused: 400, 408, 413 or 415.
    """
    raw = await _whole(request, stall_s)
    if not raw:
        return {}
    match media_type(request):
        case "application/json":
            return read_json(raw)
        case "application/x-www-form-urlencoded":
            return _read_form(raw)
        case "multipart/form-data":
            return _read_multipart(request.headers["content-type"], raw)
    raise unsupported(request)


def unsupported(request: Request) -> Refused:
    given = request.headers.get("content-type", "")
    return detail(415, f'Unsupported media type "{given}" in request.')


async def chunks(request: Request, stall_s: float) -> AsyncIterator[bytes]:
    """The body as it comes in.

    Raises:
        Refused: 408, if no byte has come for so many seconds (a peer that is gone may never say so), or if it trickles:
            after those seconds it has to have come by `SLOWEST_BYTES_S`.
    """
    stream = aiter(request.stream())
    now = asyncio.get_running_loop().time
    until, size = now() + stall_s, 0
    while True:
        left_s = until + size / SLOWEST_BYTES_S - now()
        try:
            async with asyncio.timeout(min(stall_s, left_s)):
                chunk = await anext(stream, None)
        except TimeoutError:
            words = f"Request body broke off: no byte for {stall_s:g} s."
            if left_s < stall_s / 2:
                words = f"Request body trickles: fewer than {SLOWEST_BYTES_S} bytes a second."
            raise detail(408, words, {"Connection": "close"}) from None
        if chunk is None:
            return
        size += len(chunk)
        yield chunk


async def _whole(request: Request, stall_s: float) -> bytes:
    if int(request.headers.get("content-length") or 0) > MAX_BYTES:
        raise too_large(MAX_BYTES)
    parts: list[bytes] = []
    size = 0
    async for part in chunks(request, stall_s):
        size += len(part)
        if size > MAX_BYTES:
            raise too_large(MAX_BYTES)
        parts.append(part)
    return b"".join(parts)


def too_large(limit: int) -> Refused:
    return detail(413, f"Request body exceeds {limit} bytes.")


def read_json(raw: bytes) -> Any:
    """Strict JSON: no NaN or Infinity, whether said or meant (1e999), and no half of a surrogate pair."""
    try:
        data = json.loads(raw.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        if _SURROGATE.search(raw):
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise bad({"detail": "JSON parse error - nested too deeply"}) from None
    except ValueError as error:
        raise bad({"detail": f"JSON parse error - {error}"}) from None
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"Out of range float values are not JSON compliant: {name}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse_constant(text)
    return number


def _read_form(raw: bytes) -> dict[str, str]:
    try:
        return dict(
            parse_qsl(
                raw.decode("utf-8", "replace"), keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS
            )
        )
    except ValueError:
        raise bad({"detail": f"Form parse error - more than {MAX_FIELDS} fields"}) from None


def _read_multipart(content_type: str, raw: bytes) -> dict[str, str]:
    """The text fields of a multipart form; parts that are files are left out."""
    fields: dict[str, str] = {}
    name, content = "", bytearray()
    try:
        form = Multipart(content_type, max_parts=MAX_FIELDS)
        for piece in form.feed(raw):
            if isinstance(piece, Head):
                name = piece.name if piece.filename is None else ""
                content.clear()
            elif piece is not None:
                content += piece
            elif name:
                fields[name] = content.decode("utf-8", "replace")
    except BadForm as error:
        raise bad({"detail": f"Multipart form parse error - {error}"}) from None
    if not form.is_whole:
        raise bad({"detail": "Multipart form parse error - the body breaks off"})
    return fields
