"""What a handler raises is answered; who is gone in the middle of a request is no failure."""

from __future__ import annotations

import asyncio
import logging

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message

from relay.protocol.errors import ReplyError, unknown_project
from relay.web import replies
from relay.web.replies import answering, read_body


async def answer_to(error: Exception) -> Response:
    async def handler(_: Request) -> Response:
        raise error

    return await answering(handler)(Request({"type": "http"}))


@pytest.mark.parametrize(
    ("error", "status", "failures"),
    [(unknown_project(), 404, 0), (ClientDisconnect(), 400, 0), (ZeroDivisionError(), 500, 1)],
    ids=["refused", "gone", "failed"],
)
async def test_what_is_raised_is_answered_and_only_failures_are_logged(
    caplog: pytest.LogCaptureFixture, error: Exception, status: int, failures: int
) -> None:
    with caplog.at_level(logging.WARNING):
        response = await answer_to(error)
    assert (response.status_code, len(caplog.records)) == (status, failures)


async def test_a_body_that_does_not_come_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    coming: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        return coming.pop() if coming else await asyncio.Future()

    monkeypatch.setattr(replies, "STALL_S", 0.05)
    with pytest.raises(ReplyError, match="no byte"):
        await read_body(Request({"type": "http"}, receive), dict, 100)
