"""The dashboard and the alerts ask for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from relay import metrics
from relay.core.node import Limits, Node
from relay.core.ports import Store
from relay.protocol.errors import ErrorCode
from relay.web.arrivals import Arrivals
from relay.web.metrics import Sight, Stored

DEPLOY = Path(__file__).parents[2] / "deploy"


async def served(store: Store) -> set[str]:
    """Every sample that the relay can serve."""
    node = Node(store, Limits(), version="0", name="test")
    stored = Stored(store)
    await stored.read()
    families = [*metrics.REGISTRY.collect(), *Sight(node, Arrivals(1, 1)).collect(), *stored.collect()]
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""], "info": ["_info"]}
    return {family.name + suffix for family in families for suffix in suffixes[family.type]}


async def test_the_dashboard_and_the_alerts_ask_for_what_is_served(store: Store) -> None:
    board = json.loads((DEPLOY / "grafana/starfish-relay.json").read_text())
    rules = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for rule in rules]
    named = {name for expression in asked for name in re.findall(r"starfish_\w+", expression)}
    assert len(named) > 10
    assert named <= await served(store)


async def test_all_that_is_served_is_described_and_no_more(store: Store) -> None:
    text = (DEPLOY.parent / "docs/observe.md").read_text()
    described = set(re.findall(r"`(starfish_\w+)`", text))
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in await served(store)}
    assert described == families


def test_alerts_name_codes_that_there_are() -> None:
    codes = set(re.findall(r'code="(\w+)"', (DEPLOY / "alerts.yaml").read_text()))
    assert codes
    assert codes <= set(ErrorCode)
