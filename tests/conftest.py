"""Fixtures for all tests: both databases, and a running relay on each.

A test that asks for `database_url`, `store` or `relay` runs twice, as `[sqlite]` and as `[postgresql]`. PostgreSQL is
one server a session, started when the first test needs it; each database is a fresh copy of a migrated template.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

from db.connect import Database
from db.migrate import migrate
from db.store import Store
from tests.conformance.realm import GUEST, OPERATOR, OWNER, Account
from tests.support.postgres import Postgres
from tests.support.relay import RelayProcess

DATABASES = ("sqlite", "postgresql")

# One example may be slow on a machine that is busy with something else: that is no finding.
settings.register_profile("suite", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="run what is random as it was run with this seed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long runs are left out unless `-m` asks for them."""
    if config.option.markexpr:
        return
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in ("soak", "chaos"))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of the test's randomness. To run one again as it was: `pytest --seed N <its id>`, or SEED=N in the shell."""
    given: int | None = request.config.getoption("--seed")
    chosen = given if given is not None else int(os.environ.get("SEED") or random.randrange(2**32))
    request.node.add_report_section("setup", "seed", f"--seed {chosen}")
    return chosen


@pytest.fixture
def rng(seed: int) -> random.Random:
    """The test's randomness, by its seed."""
    return random.Random(seed)


def pytest_configure() -> None:
    """A run that is told to end ends its servers too. Interrupts are heeded also where it runs in the background, with
    SIGINT ignored: what the tests start would inherit that.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's PostgreSQL server. A test that stops it starts it again, or makes one of its own."""
    with Postgres() as server:
        yield server


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/relay.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create_database()
    yield url
    server.drop_database(url)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open, migrated database."""
    opened = Database(database_url)
    await opened.connect()
    try:
        await migrate(opened)
        yield opened
    finally:
        await opened.disconnect()


@pytest.fixture
def store(database: Database) -> Store:
    """The storage of the relay on a fresh database."""
    return Store(database)


@pytest.fixture(scope="session")
def relays(request: pytest.FixtureRequest) -> Iterator[Callable[[str], RelayProcess]]:
    """A running relay on each database, started when the first test asks for it, for all tests of this process.

    A fixture with parameters would be ended and started again whenever the parameter changes, which it does twice in
    every file: a second of the processor's time each, and three more for the accounts.
    """
    running: dict[str, RelayProcess] = {}
    with ExitStack() as stack:

        def relay_on(database: str) -> RelayProcess:
            if database not in running:
                url = None
                if database == "postgresql":
                    server: Postgres = request.getfixturevalue("postgres")
                    url = server.create_database()
                running[database] = stack.enter_context(RelayProcess(url))
                _make_accounts(running[database])
            return running[database]

        yield relay_on


@pytest.fixture(scope="session", params=DATABASES)
def relay(request: pytest.FixtureRequest, relays: Callable[[str], RelayProcess]) -> RelayProcess:
    """A running relay that the black-box tests share. Tests that end or burden it start one of their own."""
    return relays(request.param)


@pytest.fixture(scope="session")
def accounts(relay: RelayProcess) -> tuple[Account, Account, Account]:
    """The owner, the guest and the operator, whom every shared relay has."""
    return OWNER, GUEST, OPERATOR


def _make_accounts(relay: RelayProcess) -> None:
    for account in (OWNER, GUEST):
        relay.cli("user", "create", account.name, "--no-input", env={"STARFISH_USER_PASSWORD": account.password})
    operator = ["--username", OPERATOR.name, "--email", "operator@example.org", "--no-input"]
    relay.cli("createsuperuser", *operator, env={"STARFISH_SUPERUSER_PASSWORD": OPERATOR.password})
