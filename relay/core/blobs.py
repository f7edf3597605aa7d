"""Blobs: who may upload, read and refer to large payloads. The bytes themselves are `relay.core.blob_uploads`'s.

A blob belongs to a project. Its uploader may read it, and so may whoever sees an event that refers to it (protocol,
section 8). For everybody else there is no such blob.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace

import msgspec

from relay.core import access
from relay.core.access import Principal
from relay.core.audit_chain import Deed
from relay.core.hub import Hub, Member
from relay.core.model import Blob, Draft, Entry, Participant, Role
from relay.core.node import Node
from relay.core.ports import StorageFull, Tx
from relay.protocol.errors import ErrorCode, ReplyError, forbidden, invalid, unknown_blob, unknown_project, unknown_run
from relay.protocol.position import MAX_OFFSET

_READ_AGAIN_S = 60.0
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobLimits:
    """What may be uploaded. Bytes; 0 is no limit for the quotas.

    Attributes:
        blob_bytes: one blob.
        project_bytes, site_bytes: all blobs of a project; all that a site has uploaded.
        open_uploads: unfinished ones of a site.
        expires_s: how long an unfinished upload waits for its next byte, about.
    """

    blob_bytes: int = 1024**4
    project_bytes: int = 0
    site_bytes: int = 0
    open_uploads: int = 256
    expires_s: float = 86_400


class Expired(ReplyError):
    """The upload was not finished in time."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.UNKNOWN_BLOB, "the upload was not finished in time; begin a new one")


# --- uploading


async def declare(
    node: Node, principal: Principal, blob: Blob, limits: BlobLimits, *, disk_bytes: int, parts_bytes: int = 0
) -> Blob:
    """Begin an upload: note what is to come. Returns the blob with its id.

    Args:
        disk_bytes: room for it on the disk, to refuse now what would find it full in the end.
        parts_bytes: the site's already, and to go when this is made of them.

    Raises:
        ReplyError: `unknown_project`, `unknown_run`; `too_large`; `rate_limited`, with too many unfinished ones.
        StorageFull.
    """
    site_id = blob.site_id
    assert site_id is not None
    now_us = node.now_us()
    blob = replace(blob, id=str(uuid.uuid4()), created_us=now_us, expires_us=expiry(limits, now_us))
    async with node.change() as change:
        tx = change.tx
        change.note(Deed.BLOB_CREATE, principal, f"blob:{blob.id}", project=blob.project_id, bytes=blob.size)
        if blob.project_id is not None:
            member = await _member(tx, blob.project_id, site_id)
            if member is None or not principal.acts_for(site_id):
                raise unknown_project()
            await _require_run(tx, blob, member)
        if await tx.blobs.open_of_site(site_id) >= limits.open_uploads:
            raise ReplyError(
                ErrorCode.RATE_LIMITED,
                f"a site has at most {limits.open_uploads} unfinished uploads; finish or delete one",
                {"retry_after": 60},
            )
        await _require_room(tx, blob, limits, blob.size or 0, now_us=now_us, parts_bytes=parts_bytes)
        if (blob.size or 0) > disk_bytes:
            raise StorageFull(f"there is room for {disk_bytes} bytes, {blob.size} are wanted")
        await tx.blobs.create(blob)
    return blob


def expiry(limits: BlobLimits, now_us: int) -> int:
    return now_us + int(limits.expires_s * 1e6)


async def made_before(node: Node, wish: Blob) -> Blob | None:
    """The blob that the same site has asked to be made of the same parts: the answer may have been lost."""
    async with node.store.snapshot() as tx:
        return await tx.blobs.like(wish)


async def announce_size(node: Node, blob: Blob, size: int, limits: BlobLimits) -> Blob:
    """The uploader says how long it will be, after all.

    Raises:
        ReplyError: `too_large`.
    """
    async with node.store.transaction() as tx:
        await _require_room(tx, blob, limits, size, now_us=node.now_us())
        await tx.blobs.set_size(blob.id, size)
    return replace(blob, size=size)


async def extend(node: Node, blob: Blob, limits: BlobLimits) -> Blob:
    """The upload goes on: it has time again. Written down only when half of it has gone by."""
    now_us = node.now_us()
    if blob.expires_us is None or blob.expires_us - now_us > limits.expires_s * 5e5:
        return blob
    expires_us = expiry(limits, now_us)
    async with node.store.transaction() as tx:
        await tx.blobs.extend(blob.id, expires_us)
    return replace(blob, expires_us=expires_us)


async def _require_run(tx: Tx, blob: Blob, member: Participant) -> None:
    if blob.run is None:
        return
    run = await tx.runs.get(blob.run) if 0 < blob.run <= MAX_OFFSET else None
    is_seen = run is not None and (member.role is Role.COORDINATOR or run.site_id == member.site_id)
    if run is None or run.project_id != blob.project_id or not is_seen:
        raise unknown_run()


async def _require_room(
    tx: Tx, blob: Blob, limits: BlobLimits, more_bytes: int, *, now_us: int, parts_bytes: int = 0
) -> None:
    if more_bytes > limits.blob_bytes:
        raise too_large(limits.blob_bytes, "a blob has at most")
    if limits.project_bytes and blob.project_id is not None:
        await tx.journal.lock([blob.project_id])  # of two that come at once the second sees the first
        used = await tx.blobs.size_of_project(blob.project_id)
        if used + more_bytes > limits.project_bytes:
            raise too_large(limits.project_bytes, "the blobs of the project have at most")
    if limits.site_bytes and blob.site_id is not None:
        used = await tx.blobs.size_of_site(blob.site_id, now_us) - parts_bytes
        if used + more_bytes > limits.site_bytes:
            raise too_large(limits.site_bytes, "what a site uploads has at most")


async def room(node: Node, blob: Blob, limits: BlobLimits) -> int:
    """How many bytes there may come of an upload that does not say how many it will have."""
    left = [limits.blob_bytes]
    async with node.store.snapshot() as tx:
        if limits.project_bytes and blob.project_id is not None:
            left.append(limits.project_bytes - await tx.blobs.size_of_project(blob.project_id))
        if limits.site_bytes and blob.site_id is not None:
            left.append(limits.site_bytes - await tx.blobs.size_of_site(blob.site_id, node.now_us()))
    return max(0, min(left))


def too_large(limit: int, what: str) -> ReplyError:
    return ReplyError(ErrorCode.TOO_LARGE, f"{what} {limit} bytes", {"limit": limit})


async def own(node: Node, principal: Principal, site_id: int, blob_id: str) -> Blob:
    """A blob that the site has uploaded, or is uploading.

    Raises:
        ReplyError: `unknown_blob`; `forbidden`, if it is another's that this site may read.
        Expired: it was not finished in time.
    """
    blob = await readable(node, principal, site_id, blob_id)
    if blob.site_id != site_id:
        raise forbidden("a blob is changed by its uploader alone")
    return blob


async def withdraw(node: Node, by: Principal | str, blob: Blob) -> None:
    """Delete a blob. What events refer to stays, once it is complete.

    Raises:
        ReplyError: `conflict`.
    """
    async with node.change() as change:
        tx = change.tx
        change.note(Deed.BLOB_DELETE, by, f"blob:{blob.id}", project=blob.project_id)
        await tx.blobs.hold([blob.id])
        now = await tx.blobs.get(blob.id)
        if now is not None and now.is_complete and await tx.blobs.refs(blob.id):
            raise ReplyError(ErrorCode.CONFLICT, "an event refers to this blob; it stays as long as the event does")
        await tx.blobs.delete(blob.id)


# --- reading


async def readable(node: Node, principal: Principal, site_id: int, blob_id: str) -> Blob:
    """A blob that the site may read, whether it is complete or still on its way.

    Raises:
        ReplyError: `unknown_blob`.
        Expired: it was not finished in time.
    """
    blob = None
    if _ID.fullmatch(blob_id):
        async with node.store.snapshot() as tx:
            blob = await tx.blobs.get(blob_id)
            if blob is not None and not (principal.acts_for(site_id) and await _may_read(tx, blob, site_id)):
                blob = None
    if blob is None:
        raise unknown_blob()
    if blob.expires_us is not None and blob.expires_us <= node.now_us():
        raise Expired
    return blob


def note_read(node: Node, principal: Principal, blob: Blob, way: str) -> None:
    """Record a download. One in many ranges is one, as far as they are asked for within a minute of each other."""
    node.audit.once_in(
        _READ_AGAIN_S, Deed.BLOB_READ, principal, f"blob:{blob.id}", project=blob.project_id, bytes=blob.size, way=way
    )


async def _may_read(tx: Tx, blob: Blob, site_id: int) -> bool:
    if blob.project_id is None:
        return blob.site_id == site_id
    member = await _member(tx, blob.project_id, site_id)
    return member is not None and access.reads_blob(member, member.joined, blob.site_id, await tx.blobs.refs(blob.id))


async def _member(tx: Tx, project_id: int, site_id: int) -> Participant | None:
    return next((one for one in await tx.participants.of_site(site_id) if one.project_id == project_id), None)


# --- referring


class _Reference(msgspec.Struct):
    id: str
    size: int | None = None
    sha256: str | None = None


class _Data(msgspec.Struct):
    blob: _Reference


_decoder = msgspec.json.Decoder(_Data)


def reference_in(data: bytes) -> _Reference | None:
    """The reference in an event's data: `{"blob": {"id": …}}`. Data that cannot hold one is not parsed."""
    if b'"blob"' not in data and b"\\u" not in data:
        return None
    try:
        return _decoder.decode(data).blob
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # something of the sites' own, that looks alike


async def referred(node: Node, member: Member, project_id: int, data: bytes) -> str | None:
    """The id of the blob that an event's data refers to, if it does.

    Raises:
        ReplyError: `unknown_blob`, if the sender may not read it or it is another project's; `invalid`, if it is of
            another size or SHA-256 than the event says.
    """
    reference = reference_in(data)
    if reference is None:
        return None
    blob = None
    if _ID.fullmatch(reference.id):
        async with node.store.snapshot() as tx:
            blob = await tx.blobs.get(reference.id)
            refs = [] if blob is None else await tx.blobs.refs(reference.id)
    if blob is None or blob.project_id != project_id or blob.is_part:
        raise unknown_blob()
    if not access.reads_blob(member, member.joined, blob.site_id, refs):
        raise unknown_blob()
    _require_agreement(blob, reference)
    return blob.id


def _require_agreement(blob: Blob, reference: _Reference) -> None:
    if None not in (blob.size, reference.size) and blob.size != reference.size:
        raise invalid(**{"data.blob.size": f"the blob has {blob.size} bytes"})
    if None not in (blob.sha256, reference.sha256) and blob.sha256 != (reference.sha256 or "").lower():
        raise invalid(**{"data.blob.sha256": f"the blob has {blob.sha256}"})


async def refer_in_passing(node: Node, hub: Hub, draft: Draft) -> None:
    """A transient event gives the right to read, too: whoever might be shown it now.

    Raises:
        ReplyError: `unknown_blob`, if it has gone meanwhile.
    """
    entry = Entry(project_id=hub.project_id, offset=None, at_us=node.now_us(), draft=draft)
    async with node.store.transaction() as tx:
        if not await tx.blobs.hold([draft.blob or ""]):
            raise unknown_blob()
        await tx.blobs.refer([entry], position=hub.head + 1)
