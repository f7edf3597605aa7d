"""The seed of a turn is printed; `make chaos SEED=N` goes through the same weather again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import DATABASES
from tests.support.postgres import Postgres


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a line, if output is not captured; else keeps it for the report of a failure."""
    writer = request.config.get_terminal_writer()

    def say(line: str) -> None:
        request.node.add_report_section("call", "turn", line)
        if request.config.option.capture == "no":
            writer.line(f"{request.node.name}: {line}")

    return say


@pytest.fixture
def no_news_of_reconnects() -> Iterator[None]:
    """There are thousands of them."""
    log = logging.getLogger("relay.client")
    level = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(level)


@pytest.fixture(params=DATABASES)
def own_postgres(request: pytest.FixtureRequest) -> Iterator[Postgres | None]:
    """A server of the test's own, to be stopped; None, for SQLite."""
    if request.param == "sqlite":
        yield None
        return
    with Postgres() as server:
        yield server
