"""A scripted relay, and a check after every test that the client has left nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.client.fake import FakeRelay


@pytest.fixture
async def fake() -> AsyncIterator[FakeRelay]:
    async with FakeRelay() as relay:
        yield relay


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """No task outlives the test but the test's own."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if "relay-" in task.get_name()}
    assert not left
