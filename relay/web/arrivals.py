"""Arriving, from a handshake to its welcome: so many sites at a time, the others in order, and too many of them later.

Were thousands that return in one moment all let in at once, none would be welcomed before its time for a hello is up,
and all would come again: a relay can be busy for ever with welcoming nobody. So they wait in front of the door, before
the upgrade, and whoever gives up meanwhile costs nothing more. Who comes when too many wait is told so before anything
is looked up, and when to come again: each at another time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager

from relay.protocol.errors import ErrorCode, ReplyError

RETRY_AFTER_S = (5.0, 20.0)
"""Between these, at random."""


class Arrivals:
    """See the module. One per door.

    Args:
        at_once: let in, and not welcomed yet.
        waiting: in front of the door.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._most = waiting
        self.waiting = 0

    @contextmanager
    def in_front(self) -> Iterator[None]:
        """The block is in front of the door.

        Raises:
            ReplyError: `unavailable`, when too many are.
        """
        if self.waiting >= self._most:
            raise ReplyError(
                ErrorCode.UNAVAILABLE,
                f"{self._most} others wait to be let in; come again",
                {"retry_after": round(random.uniform(*RETRY_AFTER_S), 1)},  # noqa: S311 - not a secret
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def turn(self) -> Turn:
        """A place in the order. The caller ends it."""
        return Turn(self._turns)


class Turn:
    """Being let in. It ends with the welcome, or with the session; to end it again is nothing."""

    __slots__ = ("_has_come", "_turns")

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns
        self._has_come = False

    async def come(self) -> None:
        """Wait for it, behind all who have come before."""
        await self._turns.acquire()
        self._has_come = True

    def end(self) -> None:
        if self._has_come:
            self._has_come = False
            self._turns.release()
