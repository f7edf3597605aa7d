"""Every metric of the relay, named once. Counters and histograms are counted up where things happen; what can be looked
at — sessions, hubs, lag, queues — is looked at when `/metrics` is asked for (`relay.web.metrics`).

No label has a value that somebody outside can make up, but `project`, of which there are as many series as the relay
has live projects, at most `PROJECTS`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

PROJECTS = 500
"""Projects that have series of their own; those furthest behind go first."""

REGISTRY = CollectorRegistry(auto_describe=True)

_QUICK_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

EVENTS = Counter("starfish_events", "Events committed to a journal", ["kind"], registry=REGISTRY)
PUBLISH_SECONDS = Histogram(
    "starfish_publish_seconds", "From a publish's frame to its answer", buckets=_QUICK_S, registry=REGISTRY
)
DELIVERY_SECONDS = Histogram(
    "starfish_delivery_seconds",
    "From an event's time to its having been written to every session that keeps up",
    buckets=_QUICK_S,
    registry=REGISTRY,
)
REFUSED = Counter("starfish_refused", "Requests that were answered with an error", ["code"], registry=REGISTRY)
THROTTLED = Counter("starfish_logins_throttled", "Logins that have to wait", ["why"], registry=REGISTRY)
CLOSED = Counter("starfish_sessions_closed", "WebSocket sessions that ended", ["code"], registry=REGISTRY)
POLLS = Counter("starfish_polls", "Requests of polling controllers", ["method", "resource"], registry=REGISTRY)
