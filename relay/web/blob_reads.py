"""Downloads of blobs: whole or in ranges, finished or still on their way, in flat memory.

What is on its way is sent as far as it has come, and goes on as more arrives (cut-through). If it ends early, or its
bytes turn out not to be what they should, the connection is cut: nobody takes a part for the whole.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from relay.core.blob_uploads import Upload, Uploads
from relay.core.file_ports import Readable
from relay.core.model import Blob
from relay.core.ports import StorageUnavailable
from relay.core.pump import settled
from relay.protocol.errors import ReplyError, unknown_blob
from relay.web import ranges
from relay.web.connection import abort
from relay.web.ranges import Span
from relay.web.tus import http_date

log = logging.getLogger(__name__)

PIECE_BYTES = 256 * 1024
LOOK_S = 2.0
"""How long after a site has lost its right to a blob it may still be sent of it."""
REDIRECT_S = 300
"""How long a URL of the bucket is good for."""
_TOKEN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$&+-.^_`|~ ()[]{}@=,'")


async def respond(
    request: Request,
    uploads: Uploads,
    blob: Blob,
    look: Callable[[], Awaitable[None]],
    *,
    patience_s: float,
    wait_s: float,
) -> Response:
    """The answer to a GET or a HEAD that the caller has allowed.

    Args:
        look: whether the site still may; raises `ReplyError`. It is asked each `LOOK_S`, and ends the download.
        patience_s: how long a client may take nothing.
        wait_s: how long the next byte of an unfinished upload may take to come.

    Raises:
        ReplyError: `unknown_blob`, it has gone meanwhile; `unavailable`.
    """
    headers = _headers(blob)
    etag = headers["ETag"]
    if ranges.is_unexpected(request.headers, etag):
        return Response(status_code=412, headers=headers)
    if ranges.is_known(request.headers, etag):
        return Response(status_code=304, headers=headers)
    try:
        spans = _spans(request, blob, headers)
    except ranges.Unsatisfiable:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{blob.size}", "ETag": etag})
    elsewhere = await _elsewhere(request, uploads, blob)
    if elsewhere is not None:
        kept = {name: headers[name] for name in ("ETag", "Cache-Control")}
        return Response(status_code=307, headers=kept | {"Location": elsewhere})
    boundary = secrets.token_hex(16)
    _describe(headers, blob, spans, boundary)
    status = 200 if spans is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(_opened(uploads, blob, wait_s))
        body = _as_long_as(look, _body(source, blob, spans, boundary))
        return _Streamed(body, status, headers, request=request, held=stack.pop_all(), patience_s=patience_s)


async def _elsewhere(request: Request, uploads: Uploads, blob: Blob) -> str | None:
    """Where a complete blob can be downloaded beside the relay. A condition on our ETag means nothing there."""
    if request.method == "HEAD" or not blob.is_complete or "if-range" in request.headers:
        return None
    return await asyncio.to_thread(uploads.files.location, blob.sha256 or "", REDIRECT_S)


def _headers(blob: Blob) -> dict[str, str]:
    headers = {
        "ETag": f'"{blob.id}"',
        "Last-Modified": http_date(blob.created_us),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Type": blob.media_type,
        "Content-Disposition": disposition(blob.filename or blob.id),
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
    }
    if blob.is_complete and blob.sha256 is not None:
        digest = base64.b64encode(bytes.fromhex(blob.sha256)).decode()
        headers["Repr-Digest"] = f"sha-256=:{digest}:"
    return headers


def disposition(name: str) -> str:
    """To be saved under this name, in the old words and the new (RFC 6266, section 5)."""
    plain = "".join(one if one in _TOKEN else "_" for one in name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{exact}'


def _spans(request: Request, blob: Blob, headers: Mapping[str, str]) -> list[Span] | None:
    """What is asked for of it. Of what has no known length nobody gets a part."""
    if blob.size is None:
        return None
    return ranges.wanted(request.headers, blob.size, headers["ETag"], headers["Last-Modified"])


def _describe(headers: dict[str, str], blob: Blob, spans: Sequence[Span] | None, boundary: str) -> None:
    """Say what follows: its length, and which part of the whole it is."""
    if spans is None:
        if blob.size is not None:
            headers["Content-Length"] = str(blob.size)
        return
    assert blob.size is not None
    if len(spans) == 1:
        headers["Content-Range"] = spans[0].header(blob.size)
        headers["Content-Length"] = str(spans[0].size)
        return
    headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    frame = sum(len(_part_head(blob, span, boundary)) + span.size for span in spans)
    headers["Content-Length"] = str(frame + len(_closing(boundary)))


def _part_head(blob: Blob, span: Span, boundary: str) -> bytes:
    assert blob.size is not None
    return (
        f"\r\n--{boundary}\r\nContent-Type: {blob.media_type}\r\nContent-Range: {span.header(blob.size)}\r\n\r\n"
    ).encode()


def _closing(boundary: str) -> bytes:
    return f"\r\n--{boundary}--\r\n".encode()


class _Source:
    """Where the bytes come from: a reader, and while it is on its way the upload that it follows."""

    def __init__(self, reader: Readable, size: int | None, upload: Upload | None, wait_s: float) -> None:
        self.reader = reader
        self._size = size
        self._upload = upload
        self._wait_s = wait_s

    async def end(self, at: int) -> int:
        """How far there is something to read at this position; `at` itself at the very end."""
        upload = self._upload
        if upload is None:
            return self._size or 0
        while True:
            left_s = upload.left_s()
            try:
                return await upload.follow(at, min(self._wait_s, left_s))
            except TimeoutError:
                if left_s > self._wait_s or upload.left_s() <= 0:
                    raise


@asynccontextmanager
async def _opened(uploads: Uploads, blob: Blob, wait_s: float) -> AsyncIterator[_Source]:
    async with AsyncExitStack() as stack:
        upload: Upload | None = None
        if not blob.is_complete:
            upload = await stack.enter_async_context(uploads.use(blob))
            await uploads.if_whole(upload)
            if isinstance(upload.ended, ReplyError):
                raise upload.ended
            if isinstance(upload.ended, Blob):
                blob, upload = upload.ended, None
        if upload is None:
            reader = await asyncio.to_thread(uploads.files.open, blob.sha256 or "")
        else:
            reader = upload.staged.reader()
        stack.callback(reader.close)
        yield _Source(reader, blob.size, upload, wait_s)


async def _body(
    source: _Source, blob: Blob, spans: Sequence[Span] | None, boundary: str
) -> AsyncGenerator[bytes, None]:
    if spans is None or len(spans) == 1:
        whole = Span(0, 2**63 if blob.size is None else blob.size)
        async with aclosing(_pieces(source, spans[0] if spans else whole)) as pieces:
            async for piece in pieces:
                yield piece
        return
    for span in spans:
        yield _part_head(blob, span, boundary)
        async with aclosing(_pieces(source, span)) as pieces:
            async for piece in pieces:
                yield piece
    yield _closing(boundary)


async def _as_long_as(
    look: Callable[[], Awaitable[None]], body: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """A body, as long as the site may read it: who is put out of a project is not sent the rest of its blobs."""
    clock = asyncio.get_running_loop().time
    looked_at = clock()
    async with aclosing(body):
        async for piece in body:
            if clock() - looked_at >= LOOK_S:
                with suppress(StorageUnavailable):  # which says nothing of the site's rights
                    await look()
                looked_at = clock()
            yield piece


async def _pieces(source: _Source, span: Span) -> AsyncGenerator[bytes, None]:
    """The bytes of a span. While a piece is being sent the next one is read."""
    at, end = span.start, 0
    reading: asyncio.Task[bytes] | None = None
    try:
        while at < span.end:
            if reading is None:
                end = min(span.end, await source.end(at))
                if end <= at:
                    return
                reading = _read(source, at, end)
            piece = await reading
            if not piece:
                raise unknown_blob()  # shorter than it should be
            at += len(piece)
            reading = _read(source, at, end) if at < end else None
            yield piece
    finally:
        if reading is not None:
            await settled(reading)  # or it might read from another file that gets the same descriptor


def _read(source: _Source, at: int, end: int) -> asyncio.Task[bytes]:
    task = asyncio.create_task(asyncio.to_thread(source.reader.read, at, min(PIECE_BYTES, end - at)))
    task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return task


class _Streamed(StreamingResponse):
    """A body that is cut off if it cannot be sent to its end, or if the client does not take it."""

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        status: int,
        headers: Mapping[str, str],
        *,
        request: Request,
        held: AsyncExitStack,
        patience_s: float,
    ) -> None:
        super().__init__(body, status, headers)
        self._body = body
        self._held = held
        self._request = request
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:  # what it reads from, also if it never comes to its first byte
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        try:
            async with aclosing(self._body) as body:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for piece in body:
                    async with asyncio.timeout(self._patience_s):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (ReplyError, TimeoutError) as error:
            log.info("a download was cut off", extra={"path": self._request.url.path, "reason": _reason(error)})
            abort(self._request.scope)
            await asyncio.sleep(0)  # the connection learns that it is lost, before this request ends unfinished


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, ReplyError) else "it did not move"
