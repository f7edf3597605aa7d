"""A realm on each running relay: an owner, a guest and an operator, and tokens for their sites."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.conformance.realm import Account, Realm, Site
from tests.support.relay import RelayProcess

OWNER = Account(name="owner", password="the owner's password")
GUEST = Account(name="guest", password="the guest's password")
OPERATOR = Account(name="operator", password="the operator's password")


@pytest.fixture(scope="session")
def accounts(relay: RelayProcess) -> tuple[Account, Account, Account]:
    """The owner, the guest and the operator, made once a relay."""
    for account in (OWNER, GUEST):
        relay.cli("user", "create", account.name, "--no-input", env={"STARFISH_USER_PASSWORD": account.password})
    operator = ["--username", OPERATOR.name, "--email", "operator@example.org", "--no-input"]
    relay.cli("createsuperuser", *operator, env={"STARFISH_SUPERUSER_PASSWORD": OPERATOR.password})
    return OWNER, GUEST, OPERATOR


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
