"""Blobs over HTTP (protocol, section 8): uploads by tus 1.0, downloads with ranges.

    OPTIONS  blobs/            what is supported
    POST     blobs/            begin an upload; its URL is in `Location`
    HEAD     blobs/{id}        with `Tus-Resumable`: how far the upload has come; without: what a GET would answer
    PATCH    blobs/{id}        go on with it
    DELETE   blobs/{id}        give it up, or delete it while no event refers to it
    GET      blobs/{id}        download; also while it is still being uploaded
    POST     blobs/{id}/link/  a URL that can be downloaded without credentials, for a short while

Each request speaks for one site: a Bearer token, or Basic with `X-Starfish-Site`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from relay.core import access, blobs
from relay.core.access import Principal, Right
from relay.core.audit_chain import Deed
from relay.core.blob_uploads import Checksum, ChecksumMismatch, Upload, Uploads
from relay.core.file_ports import FileStore
from relay.core.model import Blob, rfc3339
from relay.core.node import Node
from relay.core.ports import StorageFull
from relay.core.session import Identity
from relay.protocol.errors import ErrorCode, ReplyError, invalid, unknown_blob
from relay.web import blob_reads, tus
from relay.web.auth import Authenticator
from relay.web.blob_links import DEFAULT_S, MAX_S, Links
from relay.web.peers import shown_in
from relay.web.replies import Handler, Json, answering, error_response, read_body

if TYPE_CHECKING:
    from relay.config import Settings

BASE = "/starfish/api/v1/blobs/"
WAIT_S = 600.0
"""How long a download waits for the next byte of an upload that is under way."""
LINK_BYTES = 4096
_OVERRIDE = "x-http-method-override"

_STATUS: dict[type[ReplyError], int] = {
    tus.BadVersion: 412,
    tus.BadMediaType: 415,
    ChecksumMismatch: 460,
    StorageFull: 507,
    blobs.Expired: 410,
}
"""Where HTTP or tus has a closer word than the error's code has."""


class LinkBody(msgspec.Struct):
    expires_in: int = DEFAULT_S


class BlobDoor:
    """See the module."""

    def __init__(self, node: Node, auth: Authenticator, settings: Settings, files: FileStore) -> None:
        self._node = node
        self._auth = auth
        self._patience_s = settings.blob_patience_s
        self._limits = settings.blob_limits
        self._min_free_bytes = settings.min_free_bytes
        self.uploads = Uploads(node, files, self._limits)
        self._links = Links(node, Path(settings.data_dir) / "links.key")

    def routes(self) -> list[BaseRoute]:
        all_ = {"OPTIONS": self.options, "POST": self.create}
        one = {
            "OPTIONS": self.options,
            "GET": self.download,
            "HEAD": self.head,
            "PATCH": self.write,
            "DELETE": self.terminate,
        }
        return [
            Route(BASE, self._answering(all_), methods=list(all_)),
            Route(BASE + "{blob}/link/", self._answering({"POST": self.link}), methods=["POST"]),
            Route(BASE + "{blob}", self._answering(one), methods=[*one, "POST"]),
        ]

    def _answering(self, handlers: Mapping[str, Handler]) -> Handler:
        """By method; a refusal is an answer in this API's own form, and every answer says which tus this is."""
        allow = ", ".join(handlers)

        async def dispatch(request: Request) -> Response:
            handler = handlers.get(request.headers.get(_OVERRIDE, request.method).upper())
            if handler is None:
                return Response(status_code=405, headers={"Allow": allow})
            try:
                return await handler(request)
            except ReplyError as error:
                return _refusal(error)

        answering_ = answering(dispatch)

        async def answer(request: Request) -> Response:
            response = await answering_(request)
            response.headers["Tus-Resumable"] = tus.VERSION
            return response

        return answer

    async def options(self, _request: Request) -> Response:
        headers = {
            "Tus-Version": tus.VERSION,
            "Tus-Extension": ",".join(tus.EXTENSIONS),
            "Tus-Checksum-Algorithm": ",".join(tus.ALGORITHMS),
            "Tus-Max-Size": str(self._limits.blob_bytes),
        }
        return Response(status_code=204, headers=headers)

    # --- uploading

    async def create(self, request: Request) -> Response:
        tus.require_version(request.headers)
        identity = await self._site(request, Right.PUBLISH)
        blob, checksum = tus.wish(request.headers, identity.site.id), tus.checksum(request.headers)
        if blob.concat.startswith("final;"):
            return _created(request, await self._put_together(identity, blob))
        blob = await self._declare(identity, blob)
        has_body = _content_type(request) == tus.OFFSET_STREAM
        if not has_body and blob.size != 0:
            return _created(request, blob)
        async with self.uploads.use(blob) as upload, upload.turn(0):
            if has_body:
                await self._receive(request, upload, checksum)
            response = _created(request, await self._finished(upload))
            response.headers["Upload-Offset"] = str(upload.offset)
        return response

    async def _declare(self, identity: Identity, blob: Blob, *, parts_bytes: int = 0) -> Blob:
        free = await asyncio.to_thread(self.uploads.files.free_bytes)
        room = max(0, free - self._min_free_bytes)
        return await blobs.declare(
            self._node, identity.principal, blob, self._limits, disk_bytes=room, parts_bytes=parts_bytes
        )

    async def _put_together(self, identity: Identity, blob: Blob) -> Blob:
        earlier = await blobs.made_before(self._node, blob)
        if earlier is not None and (made := await self.uploads.outcome(earlier)) is not None:
            return made
        parts = [
            await blobs.own(self._node, identity.principal, identity.site.id, part_id)
            for part_id in tus.parts(blob.concat, BASE)
        ]
        if not all(part.is_part and part.is_complete for part in parts):
            raise invalid(**{"Upload-Concat": "all parts must be `partial` uploads that are complete"})
        size = sum(part.size or 0 for part in parts)
        blob = await self._declare(identity, replace(blob, size=size), parts_bytes=size)
        return await self.uploads.put_together(blob, parts)

    async def head(self, request: Request) -> Response:
        if "tus-resumable" not in request.headers:
            return await self.download(request)
        tus.require_version(request.headers)
        _, blob = await self._readable(request, Right.PUBLISH)
        offset = blob.size or 0
        if not blob.is_complete:
            async with self.uploads.use(blob) as upload:
                await self.uploads.if_whole(upload)
                if isinstance(upload.ended, ReplyError):
                    raise upload.ended
                blob, offset = upload.ended or upload.blob, upload.offset
        headers = {"Cache-Control": "no-store"} | _expires(blob)
        if not blob.concat.startswith("final;") or blob.is_complete:
            headers["Upload-Offset"] = str(offset)
        headers |= {"Upload-Defer-Length": "1"} if blob.size is None else {"Upload-Length": str(blob.size)}
        if blob.metadata:
            headers["Upload-Metadata"] = blob.metadata
        if blob.concat:
            headers["Upload-Concat"] = blob.concat
        return Response(headers=headers)

    async def write(self, request: Request) -> Response:
        tus.require_version(request.headers)
        _, blob = await self._own(request)
        if _content_type(request) != tus.OFFSET_STREAM:
            error = invalid(**{"Content-Type": f"expected {tus.OFFSET_STREAM}"})
            raise tus.BadMediaType(error.code, error.message, error.details)
        offset, checksum = tus.number(request.headers, "upload-offset"), tus.checksum(request.headers)
        if offset is None:
            raise invalid(**{"Upload-Offset": "required: where the bytes belong"})
        if blob.concat.startswith("final;"):
            raise ReplyError(ErrorCode.FORBIDDEN, "a final upload is made of its parts alone")
        async with self.uploads.use(blob) as upload, upload.turn(offset):
            if upload.ended is None:
                await self._announce(request, upload)
                await self._receive(request, upload, checksum)
            elif _said_length(request):
                raise blobs.too_large(upload.offset, "the upload has")
            blob = await self._finished(upload)
            headers = {"Upload-Offset": str(upload.offset)} | _expires(blob)
        return Response(status_code=204, headers=headers)

    async def _announce(self, request: Request, upload: Upload) -> None:
        """The length of an upload that did not say it at first, if it says it now."""
        length = tus.number(request.headers, "upload-length")
        if length is None or length == upload.blob.size:
            return
        if upload.blob.size is not None or length < upload.offset:
            raise invalid(**{"Upload-Length": "it was said before, or more has come already"})
        upload.blob = await blobs.announce_size(self._node, upload.blob, length, self._limits)

    async def _receive(self, request: Request, upload: Upload, checksum: Checksum | None) -> None:
        upload.blob = await blobs.extend(self._node, upload.blob, self._limits)
        limit = upload.blob.size
        if limit is None:
            limit = upload.offset + await blobs.room(self._node, upload.blob, self._limits)
        if _said_length(request) > limit - upload.offset:
            raise blobs.too_large(limit, "the upload has at most")
        await upload.receive(_chunks(request), limit=limit, patience_s=self._patience_s, checksum=checksum)

    async def _finished(self, upload: Upload) -> Blob:
        """The blob, complete if all of it is there."""
        return await self.uploads.finish(upload) if upload.is_whole else upload.blob

    async def terminate(self, request: Request) -> Response:
        tus.require_version(request.headers)
        principal, blob = await self._own(request)
        if not blob.is_complete:
            async with self.uploads.use(blob) as upload, upload.turn(None):
                if upload.ended is None:
                    await self.uploads.drop(upload, unknown_blob(), principal)
                    return Response(status_code=204)
        await blobs.withdraw(self._node, principal, blob)
        return Response(status_code=204)

    # --- downloading

    async def download(self, request: Request) -> Response:
        identity, blob = await self._readable(request, Right.READ)
        if request.method == "GET":
            by = "link" if "signature" in request.query_params else "credentials"
            blobs.note_read(self._node, identity.principal, blob, by)

        async def look() -> None:
            await blobs.readable(self._node, identity.principal, identity.site.id, blob.id)

        return await blob_reads.respond(request, self.uploads, blob, look, patience_s=self._patience_s, wait_s=WAIT_S)

    async def link(self, request: Request) -> Response:
        identity = await self._site(request, Right.READ)
        blob = await blobs.readable(self._node, identity.principal, identity.site.id, request.path_params["blob"])
        wish: LinkBody = await read_body(request, LinkBody, LINK_BYTES, default=LinkBody())
        if not 1 <= wish.expires_in <= MAX_S:
            raise invalid(expires_in=f"1 to {MAX_S} seconds")
        self._node.audit.later(Deed.BLOB_LINK, identity.principal, f"blob:{blob.id}", lasts_s=wish.expires_in)
        until_s = self._node.now_us() // 1_000_000 + wish.expires_in
        query = await asyncio.to_thread(self._links.query, blob.id, identity.site, until_s)
        url = f"{_url(request, blob)}?{query}"
        return Json({"url": url, "expires_at": rfc3339(until_s * 1_000_000)}, 201, {"Cache-Control": "no-store"})

    # --- who asks, and for what

    async def _site(self, request: Request, right: Right) -> Identity:
        """Raises `ReplyError`; `rate_limited`, too. The bytes of blobs do not count: they wait, and are not refused."""
        identity = await self._auth.site(request.headers, shown_in(request.scope))
        access.require_right(identity.principal, right)
        self._node.shares.admit(identity.site, 0, asyncio.get_running_loop().time())
        return identity

    async def _readable(self, request: Request, right: Right) -> tuple[Identity, Blob]:
        blob_id = request.path_params["blob"]
        if "signature" in request.query_params and request.method in ("GET", "HEAD"):
            identity = await self._links.site(blob_id, request.query_params, shown_in(request.scope))
        else:
            identity = await self._site(request, right)
        blob = await blobs.readable(self._node, identity.principal, identity.site.id, blob_id)
        return identity, blob

    async def _own(self, request: Request) -> tuple[Principal, Blob]:
        identity = await self._site(request, Right.PUBLISH)
        blob = await blobs.own(self._node, identity.principal, identity.site.id, request.path_params["blob"])
        return identity.principal, blob


def _url(request: Request, blob: Blob) -> str:
    """Absolute: some tus clients cannot use another."""
    return f"{str(request.base_url).rstrip('/')}{BASE}{blob.id}"


def _created(request: Request, blob: Blob) -> Response:
    return Response(status_code=201, headers={"Location": _url(request, blob)} | _expires(blob))


def _refusal(error: ReplyError) -> Response:
    response = error_response(error)
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), None)
    if status is not None:
        response.status_code = status
    if status == 412:
        response.headers["Tus-Version"] = tus.VERSION
    return response


def _content_type(request: Request) -> str:
    return str(request.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _said_length(request: Request) -> int:
    """Content-Length; 0 if the client does not say."""
    return tus.number(request.headers, "content-length") or 0


def _expires(blob: Blob) -> dict[str, str]:
    return {} if blob.expires_us is None else {"Upload-Expires": tus.http_date(blob.expires_us)}


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk
