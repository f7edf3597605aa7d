"""`/metrics` for Prometheus: what was counted (`relay.metrics`), and what there is to see at this moment.

For operators, by their login, or for a scraper, by the token in `STARFISH_METRICS_TOKEN` or one whose scope is metrics.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Iterable, Iterator
from heapq import nlargest

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay import metrics
from relay.core import access
from relay.core.access import Right
from relay.core.node import Node
from relay.core.ports import StorageLoad, StorageUnavailable, Store
from relay.core.session import Session
from relay.web.arrivals import Arrivals
from relay.web.auth import Authenticator
from relay.web.replies import answering

STORED_GOOD_FOR_S = 60.0
STORED_PATIENCE_S = 3.0


class Sight(Collector):
    """What a node looks like now. Costs a walk over its sessions, and nothing in between."""

    def __init__(self, node: Node, arrivals: Arrivals) -> None:
        self._node = node
        self._arrivals = arrivals

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        node = self._node
        sessions = list(node.all_sessions())
        yield InfoMetricFamily("starfish_relay", "The relay", value={"version": node.version, "node": node.name})
        yield _gauge("starfish_sessions", "Open WebSocket sessions", len(sessions))
        yield _gauge("starfish_arrivals_waiting", "Handshakes that wait to be let in", self._arrivals.waiting)
        yield _gauge("starfish_readers", "Long polls and event streams that wait", len(node.readers))
        yield _gauge("starfish_sites_online", "Sites that count as online", len(node.presence.online_sites()))
        yield _gauge("starfish_hubs", "Projects that are live", len(node.hubs))
        yield _gauge("starfish_publishes_waiting", "Publishes that wait for a commit", node.writer.waiting)
        yield _gauge("starfish_publishes_waiting_bytes", "Bytes of those", node.writer.waiting_bytes)
        yield from _outboxes(sessions)
        yield from _database(node.store.load)
        yield self._lag(sessions)

    def _lag(self, sessions: Iterable[Session]) -> GaugeMetricFamily:
        """By project, how far the session furthest behind is behind."""
        worst = {project_id: 0 for project_id, hub in self._node.hubs.items() if hub.lanes}
        for session in sessions:
            for project_id, lane in session.outbox.lanes.items():
                worst[project_id] = max(worst.get(project_id, 0), lane.hub.head - lane.position)
        family = GaugeMetricFamily(
            "starfish_lag_events", "Events that the session furthest behind is behind", labels=["project"]
        )
        for project_id, lag in nlargest(metrics.PROJECTS, worst.items(), key=lambda item: item[1]):
            family.add_metric([str(project_id)], lag)
        return family


def _outboxes(sessions: Iterable[Session]) -> Iterator[Metric]:
    waiting = [session.outbox.waiting for session in sessions]
    yield _gauge("starfish_outbox_replies", "Answers that wait for a socket", sum(w.replies for w in waiting))
    yield _gauge(
        "starfish_outbox_transients", "Transient events that wait for a socket", sum(w.transients for w in waiting)
    )
    yield _gauge("starfish_outbox_bytes", "Bytes that wait in sockets' buffers", sum(w.bytes for w in waiting))
    yield _gauge(
        "starfish_outbox_fullest_bytes", "The same, of the fullest one", max((w.bytes for w in waiting), default=0)
    )


def _database(load: StorageLoad) -> Iterator[Metric]:
    family = GaugeMetricFamily("starfish_database_connections", "Connections to the database", labels=["state"])
    family.add_metric(["in_use"], load.in_use)
    family.add_metric(["idle"], load.idle)
    yield family
    yield _gauge("starfish_database_waiting", "Who waits for a connection to the database", load.waiting)


class Stored(Collector):
    """Bytes of blobs. The database counts them, for whoever asks within `STORED_GOOD_FOR_S` once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bytes: tuple[int, int] | None = None
        self._read_at = -STORED_GOOD_FOR_S

    async def read(self) -> None:
        """Count anew, if it is time. While the storage does not answer, there is no such metric."""
        if time.monotonic() - self._read_at < STORED_GOOD_FOR_S:
            return
        try:
            async with asyncio.timeout(STORED_PATIENCE_S), self._store.snapshot() as tx:
                self._bytes = await tx.blobs.total_bytes()
        except (StorageUnavailable, TimeoutError):
            self._bytes = None
        self._read_at = time.monotonic()

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        if self._bytes is None:
            return
        family = GaugeMetricFamily("starfish_blob_bytes", "Bytes of blobs, of each upload its own", labels=["state"])
        for state, size in zip(("complete", "unfinished"), self._bytes, strict=True):
            family.add_metric([state], size)
        yield family


def _gauge(name: str, doc: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, doc, value=value)


class MetricsDoor:
    """See the module."""

    def __init__(self, node: Node, auth: Authenticator, arrivals: Arrivals, token: str) -> None:
        self._auth = auth
        self._token = token
        self._sight = CollectorRegistry()
        self._sight.register(Sight(node, arrivals))
        self._stored = Stored(node.store)
        self._sight.register(self._stored)

    def routes(self) -> list[Route]:
        return [Route("/metrics", answering(self.scrape))]

    async def scrape(self, request: Request) -> Response:
        await self._admit(request.headers.get("authorization", ""))
        await self._stored.read()
        body = generate_latest(self._sight) + generate_latest(metrics.REGISTRY)
        return Response(body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _admit(self, authorization: str) -> None:
        """Raises `ReplyError`: `unauthenticated`, `forbidden`."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "bearer" and self._token and hmac.compare_digest(given.encode(), self._token.encode()):
            return
        if scheme.lower() == "bearer":
            identity = await self._auth.bearer(given.strip())
            access.require_right(identity.principal, Right.METRICS)
            return
        access.require_operator(await self._auth.user(authorization))
