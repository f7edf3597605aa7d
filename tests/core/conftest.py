"""The core on fakes of its ports: no database, no socket, and a clock in the test's hand."""

from __future__ import annotations

from typing import cast

import pytest

from db.store import Store
from tests.support.clock import Clock
from tests.support.fakes import FakeStore
from tests.support.world import World


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def world(store: FakeStore) -> World:
    return World(cast("Store", store))


@pytest.fixture
async def clock() -> Clock:
    return Clock()
