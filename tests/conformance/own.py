"""A realm on a relay that a test has started for itself: to be ended, burdened, or run with settings of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.conformance.realm import Account, Realm
from tests.support.relay import RelayProcess

ACCOUNT = Account(name="somebody", password="somebody's password")


@asynccontextmanager
async def new_realm(relay: RelayProcess) -> AsyncIterator[Realm]:
    """A realm of one account."""
    environment = {"STARFISH_USER_PASSWORD": ACCOUNT.password}
    await asyncio.to_thread(relay.cli, "user", "create", ACCOUNT.name, "--no-input", env=environment)
    async with Realm(relay, owner=ACCOUNT, guest=ACCOUNT, operator=ACCOUNT) as realm:
        yield realm
