"""A realm on each running relay: an owner, a guest and an operator, and tokens for their sites."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.conformance.realm import Account, Realm, Site
from tests.support.relay import RelayProcess


@pytest.fixture
async def realm(relay: RelayProcess, accounts: tuple[Account, Account, Account]) -> AsyncIterator[Realm]:
    """Fresh sites, projects and sessions on the running relay, closed at the end."""
    owner, guest, operator = accounts
    async with Realm(relay, owner=owner, guest=guest, operator=operator) as realm:
        yield realm


@pytest.fixture
def make_token(relay: RelayProcess) -> Callable[[Site], str]:
    """Makes a token for a site, by the command line."""

    def make(site: Site) -> str:
        return relay.cli("token", "create", "--site", site.uid).stdout.strip()

    return make
