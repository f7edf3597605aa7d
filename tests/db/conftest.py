"""A world of users, sites and projects in a fresh database."""

from __future__ import annotations

import pytest

from db.store import Store
from tests.support.world import World


@pytest.fixture
def world(store: Store) -> World:
    return World(store)
