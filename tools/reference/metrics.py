"""The metrics, as a relay that has just been started shows them."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import httpx
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

import relay.metrics
from relay.config import Settings
from relay.web import app
from tools.reference import markdown

_HEAD = """\
# Metrics

`GET /metrics` answers in the Prometheus text format: to operators, to the token in `STARFISH_METRICS_TOKEN`, and to a
token with the [scope](../credentials.md#what-a-token-may-be-used-for) `metrics`. No label has a value that somebody
outside can make up; series by `project` are bounded. Alerts and a dashboard to begin with:
[alerts.yaml](../../deploy/alerts.yaml), [starfish-relay.json](../../deploy/grafana/starfish-relay.json).

"""
_TOKEN = "of the page"  # noqa: S105 - of a relay that serves nobody


def page() -> str:
    rows = [
        [markdown.code(_shown(family)), family.type, _labels(family), family.documentation]
        for family in sorted(families(), key=lambda family: family.name)
        if not family.name.endswith("_created")
    ]
    return _HEAD + markdown.table(["name", "type", "labels", ""], rows)


def families() -> list[Metric]:
    """What a fresh relay has to show."""
    return asyncio.run(_scraped())


async def _scraped() -> list[Metric]:
    with tempfile.TemporaryDirectory() as folder:
        async with app.running(Settings(data_dir=Path(folder), metrics_token=_TOKEN)) as fresh:
            transport = httpx.ASGITransport(fresh.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://relay") as client:
                answer = await client.get("/metrics", headers={"Authorization": f"Bearer {_TOKEN}"})
    answer.raise_for_status()
    return list(text_string_to_metric_families(answer.text))


def _shown(family: Metric) -> str:
    """As it is written in a query."""
    return family.name + {"counter": "_total", "histogram": "_bucket", "info": "_info"}.get(family.type, "")


def _labels(family: Metric) -> str:
    counted = [one for one in vars(relay.metrics).values() if isinstance(one, MetricWrapperBase)]
    declared = next((one._labelnames for one in counted if one._name == family.name), ())
    shown = sorted({name for sample in family.samples for name in sample.labels if name != "le"})
    return ", ".join(map(markdown.code, declared or shown))
