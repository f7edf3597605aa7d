"""Long runs are marked `soak` and left out unless `-m` asks for them; what is random says its seed when it fails."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.conftest import DATABASES
from tests.support.postgres import Postgres


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("soak")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """The test's randomness. To run one again as it was: CRASH_SEED=<seed> pytest <its id>."""
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(2**32))
    request.node.add_report_section("setup", "seed", f"CRASH_SEED={seed}")
    return random.Random(seed)


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
