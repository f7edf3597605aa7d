"""Fixtures for all tests: both databases, and a running relay on each.

A test that asks for `database_url`, `store` or `relay` runs twice, as `[sqlite]` and as `[postgresql]`. PostgreSQL is
one server a session, started when the first test needs it; each database is a fresh copy of a migrated template.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

from db.connect import Database
from db.migrate import migrate
from db.store import Store
from tests.support.postgres import Postgres
from tests.support.relay import RelayProcess

DATABASES = ("sqlite", "postgresql")

# One example may be slow on a machine that is busy with something else: that is no finding.
settings.register_profile("suite", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_configure() -> None:
    """A run that is told to end ends its servers too."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


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


@pytest.fixture(scope="session", params=DATABASES)
def relay(request: pytest.FixtureRequest) -> Iterator[RelayProcess]:
    """A running relay that the black-box tests share. Tests that end or burden it start one of their own."""
    url = None
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.create_database()
    with RelayProcess(url) as process:
        yield process
