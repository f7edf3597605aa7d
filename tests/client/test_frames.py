"""What a relay may send and a site cannot read: one error for all of it, whoever is at the other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relay.client.errors import ProtocolViolation
from relay.client.feeds import sent_events
from relay.client.frames import decode, event_of
from relay.client.transport import refusal

DEEP = "[" * 5000
EVENT: dict[str, Any] = {
    "project": 12,
    "offset": 3,
    "id": "x",
    "kind": "log",
    "from": None,
    "at": "2026-11-24T10:00:00Z",
}


@pytest.mark.parametrize(
    "frame",
    [
        DEEP,
        f'{{"type":{DEEP}',
        f'{{"type":"ok","result":{DEEP}',
        b"\x00\x00\x13\x88" + DEEP.encode(),
        b"\xff\xff\xff\xff",
        b"",
    ],
)
def test_a_frame_that_cannot_be_read(frame: str | bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode(frame)


@pytest.mark.parametrize("event", [None, [], "", EVENT | {"payload": "é"}, EVENT | {"payload": "="}, EVENT | {"at": 1}])
def test_an_event_of_the_history_that_cannot_be_read(event: object) -> None:
    with pytest.raises(ProtocolViolation):
        event_of(event)


def test_a_refusal_in_no_words_of_ours() -> None:
    for body in (b"<html>", b"\xff", DEEP.encode()):
        assert refusal(503, "busy", {}, body).status == 503


async def test_a_place_in_a_stream_that_is_none_is_left_out() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"id: k:" + b"9" * 5000 + b"\ndata: 1\n\nid: k:7\ndata: 2\n\n"

    assert [one async for one in sent_events(body(), asyncio.Event(), 10_000)] == [(None, b"1"), (7, b"2")]
