"""A new token in the place of one that is about to expire, while the connection goes on."""

from __future__ import annotations

import asyncio
import logging
import math
import time

from relay.client.credentials import Credentials
from relay.client.errors import RelayError
from relay.client.limits import Limits, backoff
from relay.client.requests import Requests

log = logging.getLogger(__name__)

PAUSE_S = 5.0
"""Between two new tokens: one that lives for less than its notice is about to expire from the beginning."""


class Renewal:
    """See the module."""

    def __init__(self, credentials: Credentials, requests: Requests, limits: Limits) -> None:
        self._credentials = credentials
        self._requests = requests
        self._limits = limits
        self._last = -math.inf
        self._running = False
        self._asked_again = False

    def is_due(self) -> bool:
        """The token is about to expire: is `run` to be started? One that runs already goes round again."""
        self._asked_again = self._running
        return self._credentials.renewable and not self._running

    async def run(self) -> None:
        """Try until it is done. The relay ends the connection when the old token expires; then cancel this.

        Raises:
            SessionEnded: the source of tokens says that there will be none; or there is no session any more.
        """
        self._running = self._asked_again = True
        try:
            while self._asked_again:
                await asyncio.sleep(max(0.0, self._last + PAUSE_S - time.monotonic()))
                self._asked_again = False  # from here on: the notice of the new token may come with its `ok`
                self._credentials.renew(await self._new_token())
                self._last = time.monotonic()
                log.info("going on with a new token")
        finally:
            self._running = False

    async def _new_token(self) -> str:
        attempt = 0
        while True:
            try:
                token = await self._credentials.fetch()
                await self._requests.ask("refresh", {"type": "refresh", "token": token})
                return token
            except (OSError, RelayError) as error:
                wait_s = backoff(self._limits, attempt, None)
                log.warning("no new token: %s; trying again in %.1f s", error, wait_s)
                attempt += 1
                await asyncio.sleep(wait_s)
