"""Bytes to envelopes and back: text frames and binary frames (protocol, section 3).

    text      one JSON object
    binary    header length N (4 bytes, big-endian) | N bytes of JSON object | payload, opaque

Decoding raises `FrameError` and nothing else, whatever the input. Encoding an event is done once, however many
sites it goes to.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from msgspec import Raw

from relay.protocol.envelope import ClientFrame, Event, Publish, Ref
from relay.protocol.errors import ErrorCode, ReplyError

MAX_HEADER_BYTES = 64 * 1024
"""The largest header of a binary frame. Everything that may be long belongs into the payload."""

_decoder: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)
_encoder = msgspec.json.Encoder()
_KNOWN_TYPES = frozenset({"hello", "publish", "ack", "call", "refresh"})


class FrameError(ReplyError):
    """A frame that cannot be read (`bad_frame`), or whose type is not of this protocol (`unknown_type`).

    `ref` is the frame's own where it could still be read, so that the client can tell which one was meant.
    """

    def __init__(self, code: ErrorCode, message: str, ref: Ref = None) -> None:
        super().__init__(code, message)
        self.ref = ref


def decode_text(frame: str | bytes) -> ClientFrame:
    """Read a client's text frame.

    Raises:
        FrameError: it is not JSON, not an object, has a wrong type in a known field, or an unknown `type`.
    """
    try:
        # The parser does not look into `data`: bytes are made sure to be UTF-8 here, as a socket does for text.
        return _decoder.decode(frame if isinstance(frame, str) else frame.decode())
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _explain(frame, error) from None


def decode_binary(frame: bytes) -> tuple[Publish, bytes]:
    """Read a client's binary frame into its header and its payload. Only `publish` may be binary.

    Raises:
        FrameError: the header is cut off, too long, not JSON, or of another type than `publish`.
    """
    header, payload = split_binary(frame)
    envelope = decode_text(header)
    if not isinstance(envelope, Publish):
        ref = getattr(envelope, "ref", None)
        raise FrameError(ErrorCode.BAD_FRAME, "a binary frame is for publish only; send this as text", ref)
    return envelope, payload


def split_binary(frame: bytes) -> tuple[bytes, bytes]:
    """Split a binary frame into header and payload, without reading either.

    Raises:
        FrameError: the frame is shorter than its header says, or the header is past `MAX_HEADER_BYTES`.
    """
    if len(frame) < 4:
        raise FrameError(ErrorCode.BAD_FRAME, f"a binary frame starts with 4 bytes of header length, got {len(frame)}")
    length = int.from_bytes(frame[:4], "big")
    if length > MAX_HEADER_BYTES:
        raise FrameError(ErrorCode.BAD_FRAME, f"a header has at most {MAX_HEADER_BYTES} bytes, this one says {length}")
    if len(frame) < 4 + length:
        raise FrameError(
            ErrorCode.BAD_FRAME, f"the header says {length} bytes, but only {len(frame) - 4} bytes follow its length"
        )
    return frame[4 : 4 + length], frame[4 + length :]


def _explain(frame: str | bytes, error: Exception) -> FrameError:
    """Tell apart what the fast path lumps together. Only refused frames come here, so it may parse twice."""
    try:
        loose = msgspec.json.decode(frame if isinstance(frame, str) else frame.decode())
    except (msgspec.DecodeError, UnicodeError):
        return FrameError(ErrorCode.BAD_FRAME, "the frame is not valid JSON")
    except RecursionError:
        return FrameError(ErrorCode.BAD_FRAME, "the frame's JSON is nested too deeply")
    if not isinstance(loose, dict):
        return FrameError(ErrorCode.BAD_FRAME, f"a frame is a JSON object, this one is a {type(loose).__name__}")
    ref = loose.get("ref")
    if isinstance(ref, bool) or not isinstance(ref, str | int):
        ref = None
    kind = loose.get("type")
    if not isinstance(kind, str):
        return FrameError(ErrorCode.BAD_FRAME, "a frame has a `type`, a string", ref)
    if kind not in _KNOWN_TYPES:
        return FrameError(ErrorCode.UNKNOWN_TYPE, f"no frame has the type {kind[:40]!r}", ref)
    return FrameError(ErrorCode.BAD_FRAME, f"a field has a wrong type: {str(error)[:200]}", ref)


def encode(frame: dict[str, Any]) -> bytes:
    """Write a text frame. A value may be `msgspec.Raw`: it is copied as it is."""
    return _encoder.encode(frame)


def encode_binary(header: dict[str, Any], payload: bytes) -> bytes:
    """Write a binary frame."""
    head = _encoder.encode(header)
    return b"".join((len(head).to_bytes(4, "big"), head, payload))


def event_header(event: Event) -> dict[str, Any]:
    """An event's fields without its payload, in the order that the protocol shows them."""
    header: dict[str, Any] = {"type": "event", "project": event.project}
    if event.offset is not None:
        header["offset"] = event.offset
    header["id"] = event.id
    header["kind"] = event.kind
    header["from"] = event.sender
    header["run"] = event.run
    header["batch"] = event.batch
    header["at"] = event.at
    return header


def encode_event(event: Event) -> tuple[bytes, bool]:
    """Write an event frame. Returns the bytes and whether they make a binary frame."""
    header = event_header(event)
    if event.payload is not None:
        return encode_binary(header, event.payload), True
    header["data"] = Raw(event.data or b"null")
    return _encoder.encode(header), False


def event_object(event: Event, *, inline_limit: int) -> dict[str, Any]:
    """An event where there are no binary frames: history, long poll, SSE (protocol, section 10, case 3).

    Args:
        inline_limit: payloads longer than this, in bytes, are left out: `payload` is null and `size` says how long.
    """
    body = event_header(event)
    if event.payload is None:
        body["data"] = Raw(event.data or b"null")
    elif len(event.payload) > inline_limit:
        body["payload"] = None
        body["size"] = len(event.payload)
    else:
        body["payload"] = base64.b64encode(event.payload).decode("ascii")
    return body
