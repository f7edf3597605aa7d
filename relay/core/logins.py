"""Logins: recorded (who was let in for the first time in a while, who was refused), and throttled where they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relay import metrics
from relay.core.access import Principal
from relay.core.audit import SOURCE, UNKNOWN, Recorder
from relay.core.audit_chain import Deed
from relay.core.throttle import Attempt, Throttle, Ticket, TooOften, network_of
from relay.protocol.errors import ErrorCode, ReplyError

SEEN_FOR_S = 86_400.0
"""A credential that is used from the same address again within this time is no new login."""


class Logins:
    """See the module. One per process."""

    def __init__(self, recorder: Recorder | None = None, throttle: Throttle | None = None) -> None:
        self._recorder = recorder
        self._throttle = throttle or Throttle()

    @asynccontextmanager
    async def trying(
        self, kind: str, credential: bytes, *, account: bytes | None = None, is_once: bool = False
    ) -> AsyncIterator[None]:
        """The block checks what was shown, and raises `unauthenticated` if it is not good.

        Args:
            kind: of the credential, for the record.
            credential, account, is_once: see `Attempt`.

        Raises:
            TooOften: too much has failed; the block is not run.
        """
        now = asyncio.get_running_loop().time
        network = network_of(SOURCE.get().origin)
        if is_once:
            credential = network.encode("utf-8", "replace") + b"\0" + credential
        attempt = Attempt(network=network, credential=credential, account=account, is_once=is_once)
        ticket = self._admit(attempt, kind, now())
        try:
            await self._hold(ticket)
            yield
        except BaseException as error:
            is_bad = isinstance(error, ReplyError) and error.code is ErrorCode.UNAUTHENTICATED
            (self._throttle.failed if is_bad else self._throttle.void)(ticket, now())
            raise
        self._throttle.good(ticket, now())

    def _admit(self, attempt: Attempt, kind: str, now: float) -> Ticket:
        try:
            return self._throttle.admit(attempt, now)
        except TooOften as refused:
            metrics.THROTTLED.labels(refused.why).inc()
            if refused.is_news:
                self.refused(None, kind, refused.code)
            raise

    async def _hold(self, ticket: Ticket) -> None:
        if not ticket.hold_s:
            return
        self._throttle.held += 1
        try:
            await asyncio.sleep(ticket.hold_s)
        finally:
            self._throttle.held -= 1

    def succeeded(self, by: Principal, credential: str) -> None:
        """`credential` is a kind, or a kind and an id: never what it is made of."""
        if self._recorder is not None:
            self._recorder.once_in(SEEN_FOR_S, Deed.LOGIN, by, credential=credential)

    def refused(self, account: str | None, credential: str, code: str) -> None:
        """`account` is the name of one that there is; what else was given as a name may be a mistyped password."""
        if self._recorder is not None:
            actor = UNKNOWN if account is None else account
            self._recorder.later(Deed.LOGIN, actor, result=code, credential=credential)
