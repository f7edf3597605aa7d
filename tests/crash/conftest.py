"""A database of each kind for relays of a test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import DATABASES
from tests.support.postgres import Postgres


@pytest.fixture(params=DATABASES)
def fresh_database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """What a relay of the test's own is started with: None for SQLite in its data directory."""
    if request.param == "sqlite":
        yield None
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create_database()
    yield url
    server.drop_database(url)
