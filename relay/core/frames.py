"""WebSocket frames, built once per event and written to every socket that is to have it.

A server's frames are not masked (RFC 6455, section 5.1), so the same bytes serve every recipient.
"""

from __future__ import annotations

from typing import Any

from websockets.frames import Frame, Opcode

from relay.core.model import Entry, rfc3339
from relay.protocol import codec
from relay.protocol.envelope import Event


def text(message: dict[str, Any]) -> bytes:
    """A message as a whole text frame."""
    return Frame(Opcode.TEXT, codec.encode(message)).serialize(mask=False)


def message_of(frame: bytes) -> tuple[bytes, bool]:
    """The message in a whole frame of ours (unmasked, RFC 6455 section 5.2), and whether it is binary."""
    start = {126: 4, 127: 10}.get(frame[1], 2)
    return frame[start:], frame[0] & 0x0F == Opcode.BINARY


def event_of(entry: Entry) -> Event:
    """An entry as the protocol shows it."""
    draft = entry.draft
    return Event(
        project=entry.project_id,
        offset=entry.offset,
        id=draft.id,
        kind=draft.kind.value,
        sender=draft.sender_uid,
        run=draft.run,
        batch=draft.batch,
        at=rfc3339(entry.at_us),
        data=draft.data,
        payload=draft.payload,
    )


def of_entry(entry: Entry) -> bytes:
    """An entry as a whole frame, text or binary."""
    message, is_binary = codec.encode_event(event_of(entry))
    return Frame(Opcode.BINARY if is_binary else Opcode.TEXT, message).serialize(mask=False)
