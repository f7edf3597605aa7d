"""What passes, and how long to wait for it: for transfers over HTTP that go on where they were."""

from __future__ import annotations

import asyncio
import logging

from relay.client.errors import Closed, ProxyRefused, RelayError
from relay.client.limits import Limits, backoff
from relay.client.transport import Disconnected, Refused
from relay.protocol.errors import ErrorCode

log = logging.getLogger(__name__)

_PASSING = frozenset({408, 409, 425, 429})
_BY_STATUS = {
    400: ErrorCode.INVALID,
    401: ErrorCode.UNAUTHENTICATED,
    404: ErrorCode.UNKNOWN_BLOB,
    410: ErrorCode.UNKNOWN_BLOB,
    413: ErrorCode.TOO_LARGE,
}
RENEWALS = 2
"""How often in a row credentials that can be renewed may be refused."""


class Retries:
    """For one transfer. A lost connection, or a relay that is down or overloaded, is waited for until it is cancelled.

    Args:
        over: set when the site has been left.
        renewable: the credentials of the next request may be better ones.
    """

    def __init__(self, limits: Limits, over: asyncio.Event, *, renewable: bool) -> None:
        self._limits = limits
        self._over = over
        self._renewals = RENEWALS if renewable else 0
        self._renewals_left = self._renewals
        self._attempt = 0

    def moved(self) -> None:
        """It has gone on since: the waits begin anew."""
        self._attempt = 0
        self._renewals_left = self._renewals

    async def after(self, error: Exception, what: str) -> None:
        """Wait until it can be tried again.

        Raises:
            RelayError, ProxyRefused: it will not pass.
            Closed: the site has been left.
        """
        retry_after_s = None
        if isinstance(error, Refused):
            self._raise_if_final(error)
            retry_after_s = error.retry_after_s
        wait_s = backoff(self._limits, self._attempt, retry_after_s)
        self._attempt += 1
        log.warning("%s: %s; going on in %.1f s", what, str(error) or type(error).__name__, wait_s)
        try:
            async with asyncio.timeout(wait_s):
                await self._over.wait()
        except TimeoutError:
            return
        raise Closed("the site's `async with` block has been left")

    def _raise_if_final(self, refused: Refused) -> None:
        if refused.status >= 500 or refused.status in _PASSING:
            return
        if refused.status == 407:
            raise ProxyRefused(str(refused)) from None
        if refused.status == 401 and self._renewals_left > 0:
            self._renewals_left -= 1
            return
        raise relay_error(refused) from None


def relay_error(refused: Refused) -> RelayError:
    """What the caller is told. The answer to a HEAD has no body, so its status has to do."""
    if refused.code is not None:
        return RelayError.of(refused.code, refused.message, refused.details)
    return RelayError(_BY_STATUS.get(refused.status, ErrorCode.FORBIDDEN), str(refused))


PASSING_ERRORS = (Refused, Disconnected, OSError)
"""What a request may end with; `Retries.after` sorts them."""
