"""Health tells the truth: of the database and the disk, while it drains, and cheaply."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from relay.config import Settings
from relay.core.node import Node
from relay.core.ports import Store as StorePort
from relay.web.health import Health
from tests.support.relay import RelayProcess


def test_a_running_relay_is_live_ready_and_tells_people_how_it_is(relay: RelayProcess) -> None:
    with httpx.Client(base_url=relay.url, trust_env=False) as http:
        assert http.get("/health/live").status_code == 200
        assert http.get("/health/ready").json() == {"status": "ready"}
        report = http.get("/health").json()
    assert report["status"] == "ready"
    assert report["problems"] == {}
    assert report["uptime_s"] >= 0
    assert {"version", "sessions", "projects_live", "database", "lag_events", "sites_online"} <= set(report)


async def test_a_full_disk_is_not_ready(store: StorePort, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, min_free_bytes=2**60)
    node = Node(store, settings.limits, version="0", name="test")
    problems = await Health(node, settings, lambda: False).problems()
    assert "STARFISH_MIN_FREE_BYTES" in problems["disk"]


async def test_a_data_directory_that_is_gone_is_not_ready(store: StorePort, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "gone")
    node = Node(store, settings.limits, version="0", name="test")
    problems = await Health(node, settings, lambda: False).problems()
    assert "cannot be written" in problems["disk"]


async def test_a_relay_that_drains_is_not_ready_whatever_else(store: StorePort, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    node = Node(store, settings.limits, version="0", name="test")
    assert await Health(node, settings, lambda: True).problems() == {"relay": "it drains and will stop"}


@pytest.mark.parametrize("asked", [50])
async def test_many_who_ask_at_once_cost_one_check(
    store: StorePort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    settings = Settings(data_dir=tmp_path)
    node = Node(store, settings.limits, version="0", name="test")
    checks = 0
    check = store.check

    async def counted() -> None:
        nonlocal checks
        checks += 1
        await check()

    monkeypatch.setattr(store, "check", counted)
    health = Health(node, settings, lambda: False)
    assert await asyncio.gather(*(health.problems() for _ in range(asked))) == [{}] * asked
    assert await health.problems() == {}
    assert checks == 1
