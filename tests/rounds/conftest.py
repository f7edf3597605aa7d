"""Relays whose patience is short, on each database, and realms on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from tests.conformance.realm import Account, Realm
from tests.conftest import DATABASES
from tests.support.relay import RelayProcess

SHORT = {"STARFISH_PRESENCE_GRACE_S": "0.1", "STARFISH_RESTART_GRACE_S": "2"}
SOMEBODY = Account(name="somebody", password="somebody's password")


@contextmanager
def impatient_relay(request: pytest.FixtureRequest) -> Iterator[RelayProcess]:
    """It gives a dropped socket 0.1 s, and who was there before a restart 2 s. It knows one user."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres").create_database()
    with RelayProcess(url, settings=SHORT) as relay:
        relay.cli("user", "create", SOMEBODY.name, "--no-input", env={"STARFISH_USER_PASSWORD": SOMEBODY.password})
        yield relay
    if url is not None:
        request.getfixturevalue("postgres").drop_database(url)


@pytest.fixture(scope="package", params=DATABASES)
def shared_relay(request: pytest.FixtureRequest) -> Iterator[RelayProcess]:
    with impatient_relay(request) as relay:
        yield relay


@pytest.fixture(params=DATABASES)
def own_relay(request: pytest.FixtureRequest) -> Iterator[RelayProcess]:
    """For one test, that kills it."""
    with impatient_relay(request) as relay:
        yield relay


@pytest.fixture
async def realm(shared_relay: RelayProcess) -> AsyncIterator[Realm]:
    """Fresh sites, projects and sessions on the shared relay."""
    async with realm_on(shared_relay) as realm:
        yield realm


def realm_on(relay: RelayProcess) -> Realm:
    return Realm(relay, owner=SOMEBODY, guest=SOMEBODY, operator=SOMEBODY)
