"""Relays for polling controllers, one for each database, and accounts on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.conformance.realm import Account, Realm
from tests.conftest import DATABASES
from tests.support.relay import RelayProcess

OWNER = Account(name="owner", password="the owner's password")
GUEST = Account(name="guest", password="the guest's password")
OPERATOR = Account(name="operator", password="the operator's password")

DWELL_S = 1.2
"""What the shared relay has for STARFISH_LEGACY_DWELL_S: the polls of its tests are that much quicker, too."""


def make_user(relay: RelayProcess, account: Account) -> None:
    relay.cli("user", "create", account.name, "--no-input", env={"STARFISH_USER_PASSWORD": account.password})


def make_operator(relay: RelayProcess, account: Account) -> None:
    named = ["--username", account.name, "--email", f"{account.name}@example.org", "--no-input"]
    relay.cli("createsuperuser", *named, env={"STARFISH_SUPERUSER_PASSWORD": account.password})


@contextmanager
def empty_relay(request: pytest.FixtureRequest, database: str, settings: Mapping[str, str]) -> Iterator[RelayProcess]:
    """A relay that knows nobody."""
    url = None if database == "sqlite" else request.getfixturevalue("postgres").create_database()
    with RelayProcess(url, settings=settings) as relay:
        yield relay
    if url is not None:
        request.getfixturevalue("postgres").drop_database(url)


@contextmanager
def peopled_relay(request: pytest.FixtureRequest, database: str, settings: Mapping[str, str]) -> Iterator[RelayProcess]:
    """A relay with an owner, a guest and an operator."""
    with empty_relay(request, database, settings) as relay:
        for account in (OWNER, GUEST):
            make_user(relay, account)
        make_operator(relay, OPERATOR)
        yield relay


@pytest.fixture(scope="package", params=DATABASES)
def polled_relay(request: pytest.FixtureRequest) -> Iterator[RelayProcess]:
    """What most tests here share: they never share a site or a project."""
    with peopled_relay(request, request.param, {"STARFISH_LEGACY_DWELL_S": f"{DWELL_S}"}) as relay:
        yield relay


@pytest.fixture
async def realm(polled_relay: RelayProcess) -> AsyncIterator[Realm]:
    """Fresh sites, projects and sessions on the shared relay."""
    async with realm_on(polled_relay) as realm:
        yield realm


def realm_on(relay: RelayProcess) -> Realm:
    return Realm(relay, owner=OWNER, guest=GUEST, operator=OPERATOR)
