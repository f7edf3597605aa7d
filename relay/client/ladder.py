"""Which way is taken to the relay: the best one that this site's network lets through.

    websocket  ─▶  sse  ─▶  poll        down, when the way itself is closed: not when the relay or the network is
        ▲                    │
        └────────────────────┘          up, when a rung above has answered to a trial hello; now and then, at random

What counts against a rung is what happens before a welcome, and a stream that turns out to be held back:

    blocked     an answer that is not the relay's (no upgrade, a page of a proxy's), or none in time: the next rung
    doubtful    a gateway's 502, a connection that breaks off: the next rung, the second time
    passing     no connection at all, or the relay's own word: the same rung again

From the last rung it goes on with the first.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import time
from collections.abc import Callable, Sequence

from relay.client import frames
from relay.client.credentials import TokenUnavailable
from relay.client.errors import ProtocolViolation
from relay.client.limits import Limits
from relay.client.transport import Disconnected, HeldBack, Refused, Rung, Transport, Unreachable
from relay.protocol.errors import CloseCode

log = logging.getLogger(__name__)

BLOCKED = 2
"""A rung is left when as much as this has come together against it."""
_DOUBTFUL = 1
_PASSING = 0
_GATEWAY = frozenset({408, 429, 500, 502, 503, 504})


class Ladder:
    """See the module."""

    def __init__(self, rungs: Sequence[Rung], limits: Limits) -> None:
        self._rungs = rungs
        self._limits = limits
        self._at = 0
        self._against = 0
        self._tries = 0
        self._top_since = 0.0

    @property
    def name(self) -> str:
        """The name of the rung that it stands on."""
        return self._rungs[self._at].name

    @property
    def at_bottom(self) -> bool:
        return self._at == len(self._rungs) - 1

    @property
    def may_climb(self) -> bool:
        return self._at > 0 and self._limits.climb_s is not None

    async def open(self) -> Transport:
        """A connection by the rung that it stands on. Raises as `Rung.open` does."""
        return await self._rungs[self._at].open()

    def welcomed(self) -> None:
        """The rung bears."""
        self._against = 0
        if self._at == 0:
            self._top_since = time.monotonic()

    def failed(self, error: Exception) -> bool:
        """An attempt came to nothing. True: the next one is by a lower rung, and need not wait."""
        self._against += weight(error)
        if self._against < BLOCKED or len(self._rungs) == 1:
            return False
        if self._at == 0 and time.monotonic() - self._top_since > self._limits.climb_max_s:
            self._tries = 0
        before, was_last = self.name, self.at_bottom
        self._against = 0
        self._at = 0 if was_last else self._at + 1
        log.warning("%s does not get through (%s); trying %s", before, error, self.name)
        return not was_last

    async def climb(self, hello: Callable[[], bytes]) -> None:
        """Wait until a rung above gets through, and stand on it. Whoever waits then connects anew.

        Args:
            hello: makes a hello that asks for no events.

        Raises:
            SessionEnded: the source of tokens says that there will be none.
        """
        while True:
            await asyncio.sleep(self._interval_s())
            self._tries += 1
            for index in range(self._at):
                if await self._gets_through(self._rungs[index], hello()):
                    log.info("%s gets through again", self._rungs[index].name)
                    self._at, self._against = index, 0
                    return

    def _interval_s(self) -> float:
        assert self._limits.climb_s is not None
        interval_s = min(self._limits.climb_max_s, self._limits.climb_s * (1 << min(self._tries, 16)))
        return interval_s * random.uniform(0.5, 1)  # noqa: S311 - not a secret

    async def _gets_through(self, rung: Rung, hello: bytes) -> bool:
        transport: Transport | None = None
        try:
            async with asyncio.timeout(self._limits.open_s):
                transport = await rung.open()
                await transport.send(hello)
                return isinstance(frames.decode(await transport.receive()), frames.Welcome)
        except (Refused, Disconnected, ProtocolViolation, OSError) as error:
            log.debug("%s does not get through yet: %s", rung.name, error)
            return False
        finally:
            if transport is not None:
                await transport.close(CloseCode.NORMAL)


def weight(error: Exception) -> int:
    """How much a failure speaks against the rung: `BLOCKED` is enough."""
    match error:
        case Refused(code=None, status=status):
            return _DOUBTFUL if status in _GATEWAY else BLOCKED
        case Refused(status=426):
            return BLOCKED
        case Unreachable() | TokenUnavailable() | ConnectionRefusedError() | socket.gaierror() | ssl.SSLError():
            return _PASSING
        case TimeoutError() | HeldBack():
            return BLOCKED
        case Disconnected(code=1006) | ConnectionError():
            return _DOUBTFUL
        case _:
            return _PASSING
