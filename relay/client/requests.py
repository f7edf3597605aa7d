"""What was asked of the relay and is not answered yet, in the order in which it was asked.

A publish carries an idempotency id, and a reading call changes nothing: both are sent again, in their order, on the
next connection, until they are answered or their caller gives up. A call that changes something is sent once. If the
connection is lost before its answer comes, its caller is told (`Interrupted`); one that had not been sent yet waits.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from relay.client.errors import Interrupted, RelayError, SessionEnded
from relay.client.frames import Error, FrameLimits, Ok
from relay.protocol import codec
from relay.protocol.errors import ErrorCode

REPEATABLE = frozenset(
    {
        "publish",
        "refresh",
        "projects.list",
        "projects.get",
        "projects.participants",
        "runs.list",
        "progress.get",
        "cursors.list",
        "receipts.get",
        "history.read",
        "keys.get",
        "keys.put",
        "invitations.list",
        "requests.list",
        "members.barred",
    }
)
"""What may be sent twice and is done once: the reading calls, and those that replace a whole value."""


class Request:
    """One frame that waits for its answer. `name` is the frame's type, or the method of a call."""

    __slots__ = ("answer", "name", "payload", "ref", "sent", "text")

    def __init__(self, ref: int, name: str, text: bytes, payload: bytes | None) -> None:
        self.ref = ref
        self.name = name
        self.text = text
        self.payload = payload
        self.sent = False
        """On the present connection."""
        self.answer: asyncio.Future[Ok] = asyncio.get_running_loop().create_future()

    def frame(self, limits: FrameLimits) -> bytes:
        """The bytes to send.

        Raises:
            RelayError: `too_large`. The relay would refuse it, or even close the session.
        """
        if self.payload is None:
            return _within(self.text, limits.frame, "a text frame")
        _within(self.payload, limits.inline, "a binary payload")
        _within(self.text, codec.MAX_HEADER_BYTES, "a binary frame's header")
        return b"".join((len(self.text).to_bytes(4, "big"), self.text, self.payload))

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # seen: its caller may be gone by the time it would be raised


class Requests:
    """See the module. `on_new` is called when there is one to send."""

    def __init__(self, in_flight: int, on_new: Callable[[], None]) -> None:
        self._slots = asyncio.Semaphore(in_flight)
        self._on_new = on_new
        self._refs = itertools.count(1)
        self._waiting: dict[int, Request] = {}
        self._unsent: dict[int, Request] = {}
        self._ended: SessionEnded | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def fragile(self) -> bool:
        """Something is under way that would not survive the loss of the connection."""
        return any(request.sent and request.name not in REPEATABLE for request in self._waiting.values())

    async def ask(self, name: str, frame: dict[str, Any], payload: bytes | None = None) -> Ok:
        """Have a frame sent, and wait for its answer. To stop waiting, cancel.

        Raises:
            RelayError: the relay refused it.
            Interrupted: it was sent, and the connection was lost before the answer.
            SessionEnded: there is no session any more.
        """
        async with self._slots:
            if self._ended is not None:
                raise self._ended.again()
            ref = next(self._refs)
            request = Request(ref, name, codec.encode(frame | {"ref": ref}), payload)
            self._waiting[ref] = request
            self._unsent[ref] = request
            self._on_new()
            try:
                return await request.answer
            finally:
                del self._waiting[ref]
                self._unsent.pop(ref, None)

    def next_to_send(self) -> Request | None:
        """The oldest one that has not been sent on this connection. The caller sends it."""
        for ref, request in self._unsent.items():
            del self._unsent[ref]
            request.sent = True
            return request
        return None

    def answered(self, frame: Ok | Error) -> bool:
        """Hand an answer to whoever waits for it. False: nobody does."""
        request = self._waiting.get(frame.ref) if isinstance(frame.ref, int) else None
        if request is None or request.answer.done():
            return False
        if isinstance(frame, Ok):
            request.answer.set_result(frame)
        else:
            request.fail(RelayError.of(frame.code, frame.message, frame.details))
        return True

    def disconnected(self) -> None:
        """The connection is lost: sort what may be sent again from what may not."""
        for request in self._waiting.values():
            if request.sent and request.name not in REPEATABLE:
                request.fail(Interrupted(request.name))
        self._unsent = {ref: request for ref, request in self._waiting.items() if not request.answer.done()}

    def end(self, why: SessionEnded) -> None:
        """Nothing will be sent or answered any more."""
        self._ended = why
        self._unsent.clear()
        for request in self._waiting.values():
            request.fail(why.again())


def _within(part: bytes, limit: int, what: str) -> bytes:
    if len(part) > limit:
        message = f"{what} has at most {limit} bytes here, this one has {len(part)}"
        raise RelayError(ErrorCode.TOO_LARGE, message, {"limit": limit})
    return part
