"""Credentials in use: what was let in on a token, a key or a password is shut out once that is no longer good, or once
its site is bound to certificates of which its connection has shown none.

`recheck` is called when they may have changed. Whoever lets somebody in notes `seen` before it looks the credentials
up, and calls `heed` once they are in use: a revocation that came in between is not missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from relay.core.ports import StorageUnavailable, Store, Tx
from relay.core.session import Identity, Session
from relay.core.signing_keys import CREDENTIAL_PREFIX
from relay.core.site_certificates import NONE, lets_in

if TYPE_CHECKING:
    from relay.core.reader import Reader

log = logging.getLogger(__name__)

RETRY_S = 0.5
"""Before the storage is asked again, when it did not answer."""


class Credentials:
    """See the module. `users` says which sessions and readers there are; `spawn` runs something beside."""

    def __init__(
        self,
        store: Store,
        now_us: Callable[[], int],
        users: Callable[[], tuple[Iterable[Session], Iterable[Reader]]],
        spawn: Callable[[object, str], object],
    ) -> None:
        self._store = store
        self._now_us = now_us
        self._users = users
        self._spawn = spawn
        self._looking = False
        self.seen = 0
        """Counts the times at which credentials may have changed."""

    def heed(self, seen: int) -> None:
        """Somebody is in on credentials that were looked up when `seen` was this."""
        if self.seen != seen:
            self.recheck()

    def recheck(self) -> None:
        """Look at all that are in use. One look at a time, which heeds them all."""
        self.seen += 1
        if not self._looking:
            self._looking = True
            self._spawn(self._look(), "recheck-credentials")

    async def _look(self) -> None:
        """While the storage does not answer, ask again until it does: a revocation is not to be lost."""
        try:
            done = -1
            while done != self.seen:
                looking_at = self.seen
                try:
                    await self._shut_out()
                    done = looking_at
                except StorageUnavailable as error:
                    log.warning("credentials not checked: %s", error.cause)
                    await asyncio.sleep(RETRY_S)
        finally:
            self._looking = False

    async def _shut_out(self) -> None:
        in_sessions, in_readers = self._users()
        sessions, readers = list(in_sessions), list(in_readers)
        if not sessions and not readers:
            return
        identities: list[Session | Identity] = [*sessions, *(reader.identity for reader in readers)]
        used = {identity.token_id for identity in identities if identity.token_id is not None}
        site_ids = {identity.site.id for identity in identities}
        async with self._store.snapshot() as tx:
            bad = await self._bad_among(tx, used)
            bad_sites = await tx.sites.unusable_among(list(site_ids))
            bound = await tx.site_certificates.of_sites(list(site_ids))
        for session in sessions:
            if session.site.id in bad_sites:
                session.close_gone()
            elif session.token_id in bad:
                session.close_unauthenticated()
            elif not lets_in(bound.get(session.site.id, NONE), session.certificate):
                session.close_without_certificate()
        for reader in readers:
            one = reader.identity
            shows_one = lets_in(bound.get(one.site.id, NONE), one.certificate)
            if one.site.id in bad_sites or one.token_id in bad or not shows_one:
                reader.end()

    async def _bad_among(self, tx: Tx, used: set[str]) -> set[str]:
        keys = {one for one in used if one.startswith(CREDENTIAL_PREFIX)}
        bad_keys = await tx.signing_keys.invalid_among([one.removeprefix(CREDENTIAL_PREFIX) for one in keys])
        bad_tokens = await tx.tokens.invalid_among(list(used - keys), self._now_us())
        return bad_tokens | {CREDENTIAL_PREFIX + one for one in bad_keys}
