"""The frames of the protocol as frozen records (protocol, sections 3 to 5).

Client frames are decoded straight into these; an unknown field is ignored, a wrong type is refused. A field that is
left out is None (or UNSET where null means something else): what is *required* is a question of meaning, answered
with `invalid`, not of grammar, answered with `bad_frame`.

An event's payload is never looked into. It travels as `msgspec.Raw` (a slice of the sender's own JSON) or as the
bytes behind a binary frame's header.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

SUBPROTOCOL = "starfish.v1"

Ref = str | int | None


class ResumeFrom(msgspec.Struct, frozen=True):
    """One entry of `hello.projects`: go on after this offset."""

    offset: int | Literal["new"] | None = None
    epoch: str | None = None


class Hello(msgspec.Struct, frozen=True, tag_field="type", tag="hello"):
    ref: Ref = None
    client: str | None = None
    projects: dict[str, ResumeFrom] | None = None


class Publish(msgspec.Struct, frozen=True, tag_field="type", tag="publish"):
    """`payload` is set by the codec when the frame was binary; it is not a field of the header."""

    ref: Ref = None
    id: str | None = None
    project: int | None = None
    kind: str | None = None
    to: str | list[str] | None = None
    run: int | None = None
    data: Raw | UnsetType = UNSET
    transient: bool | None = None
    receipts: bool | None = None
    trace: Raw | UnsetType = UNSET
    """A W3C `traceparent`. Of any type: what is none is as good as absent."""


class Ack(msgspec.Struct, frozen=True, tag_field="type", tag="ack"):
    project: int | None = None
    offset: int | None = None


class Call(msgspec.Struct, frozen=True, tag_field="type", tag="call"):
    ref: Ref = None
    method: str | None = None
    params: dict[str, Any] | None = None


class Refresh(msgspec.Struct, frozen=True, tag_field="type", tag="refresh"):
    ref: Ref = None
    token: str | None = None

    def __repr__(self) -> str:
        return f"Refresh(ref={self.ref!r}, token=…)"


ClientFrame = Hello | Publish | Ack | Call | Refresh


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it is shown. `offset` is None for a transient one; exactly one of `data`, `payload` is set."""

    project: int
    offset: int | None
    id: str
    kind: str
    sender: str | None
    run: int | None
    batch: int | None
    at: str
    data: bytes | None = None
    payload: bytes | None = None
