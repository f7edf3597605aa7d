"""One site's open session, as the core knows it: who it is, what it may, and its outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from relay import metrics
from relay.core import frames
from relay.core.access import Principal
from relay.core.model import Site, rfc3339
from relay.core.outbox import Outbox, OutboxLimits
from relay.core.ports import Link, Store
from relay.core.rate import Gate
from relay.protocol.envelope import Ref
from relay.protocol.errors import CloseCode, ReplyError, SessionClosed

EXPIRY_NOTICE_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What authentication found out.

    `token_id` is `key:` and a key's id where a key was used, and None for a password login; `expires_us` None for no
    expiry. `bound` are the certificates that the site is bound to (`relay.core.site_certificates`), `certificate` the
    one that its connection has shown.
    """

    site: Site
    principal: Principal
    token_id: str | None = None
    expires_us: int | None = None
    bound: frozenset[str] = frozenset()
    certificate: str | None = None


class Session:
    """`close` may be called from anywhere, any number of times; the first one counts."""

    def __init__(
        self,
        session_id: str,
        identity: Identity,
        link: Link,
        store: Store,
        limits: OutboxLimits,
        catch_up: asyncio.Semaphore,
        flight: asyncio.Semaphore,
        gate: Gate,
        on_close: Callable[[SessionClosed], None],
    ) -> None:
        self.id = session_id
        self.site = identity.site
        self.principal = identity.principal
        self.token_id = identity.token_id
        self.expires_us = identity.expires_us
        self.certificate = identity.certificate
        """Of the connection: new credentials do not change it."""
        self.outbox = Outbox(session_id, link, store, limits, catch_up, self.close)
        self.live = False
        """The hello has been answered."""
        self.counted = False
        """Presence counts this session."""
        self.client = ""
        self.pending_joins: set[int] = set()
        self.flight = flight
        self.gate = gate
        self.closed: SessionClosed | None = None
        self._on_close = on_close
        self._timers: list[asyncio.TimerHandle] = []

    def __repr__(self) -> str:
        return f"<Session {self.id} of site {self.site.id}>"

    # --- answers

    def ok(self, ref: Ref, **fields: object) -> None:
        message: dict[str, object] = {"type": "ok"}
        if ref is not None:
            message["ref"] = ref
        self.outbox.reply(frames.text(message | fields))

    def error(self, ref: Ref, error: ReplyError) -> None:
        message: dict[str, object] = {"type": "error"}
        if ref is not None:
            message["ref"] = ref
        metrics.REFUSED.labels(error.code).inc()
        message |= {"code": error.code, "message": error.message, "details": error.details}
        self.outbox.reply(frames.text(message))

    def goodbye(self, code: str, retry_after_s: float | None = None) -> None:
        """Sent past everything that waits: it is small, and of no use afterwards."""
        message: dict[str, object] = {"type": "goodbye", "code": code}
        if retry_after_s is not None:
            message["retry_after"] = round(retry_after_s, 1)
        self.outbox.link.send(frames.text(message))

    # --- the credential's life

    @property
    def expires_at(self) -> str | None:
        return None if self.expires_us is None else rfc3339(self.expires_us)

    def renew(self, identity: Identity, now_us: int) -> None:
        """Go on with new credentials of the same site."""
        self.principal = identity.principal
        self.token_id = identity.token_id
        self.expires_us = identity.expires_us
        self.watch_expiry(now_us)

    def watch_expiry(self, now_us: int) -> None:
        """Give notice a minute before the credential expires, and close when it does.

        One that has less than that left gets its notice at half of it: at once, it would cross the answer to `refresh`,
        and a client that renews at each notice would do nothing else.
        """
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        if self.expires_us is None:
            return
        left_s = max(0.0, (self.expires_us - now_us) / 1e6)
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(left_s, self.close_unauthenticated))
        notice_s = left_s - EXPIRY_NOTICE_S if left_s > EXPIRY_NOTICE_S else left_s / 2
        self._timers.append(loop.call_later(notice_s, self.goodbye, "token_expiring"))

    # --- the end

    def close_unauthenticated(self) -> None:
        self.close(SessionClosed(CloseCode.UNAUTHENTICATED, "the token has expired or was revoked"))

    def close_without_certificate(self) -> None:
        self.close(SessionClosed(CloseCode.UNAUTHENTICATED, "the site is bound to another client certificate"))

    def close_gone(self) -> None:
        self.close(SessionClosed(CloseCode.GONE, "the site was deleted, or its user is disabled"))

    def close(self, closed: SessionClosed) -> None:
        """Start to end the session: no event is sent any more, and the socket is closed with the code."""
        if self.closed is None:
            self.closed = closed
            self.outbox.close()
            self._on_close(closed)

    def end(self) -> None:
        """The socket is gone."""
        self.live = False
        for timer in self._timers:
            timer.cancel()
        self.outbox.close()
