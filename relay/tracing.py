"""Traces by OpenTelemetry (the extra `otel`): an event followed from its publisher to each site that acknowledges it.

    publish             from the frame to its answer; a child of the publisher's own span, if it sent one along
    └ commit            until it was durable
      └ deliver         until it was handed to a site's connection; one for each site
        └ ack           until the site said that it has processed it

What is remembered of an event on its way is bounded: `FOLLOWED` events and `WAITING` deliveries. What falls out is
followed no further; its spans up to there are whole. Nothing of it is stored: after a restart nothing is followed on.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from relay.core.model import Appended, Draft, Entry
from relay.protocol.errors import ReplyError

FOLLOWED = 4096
WAITING = 16_384
WAITING_OF_SITE = 256
"""Deliveries of one project to one site that wait for its ack."""
SHUTDOWN_MS = 3000

Key: TypeAlias = tuple[int, int | None, str]

# W3C Trace Context, 3.2: version 00, as text, or as a JSON string.
_TRACEPARENT = re.compile(rb'"?00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"?')


@dataclass(slots=True)
class _Following:
    """A committed event: its commit, and when that was (nanoseconds since 1970)."""

    commit: SpanContext
    committed_ns: int
    sites: set[int] = field(default_factory=set)


class Tracing:
    """Serves `relay.core.traces.Tracer`; see the module. `committed` is to be among `Node.on_committed`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("starfish-relay")
        self._open: OrderedDict[Key, tuple[Span, int]] = OrderedDict()
        self._followed: OrderedDict[tuple[int, int], _Following] = OrderedDict()
        self._waiting: OrderedDict[tuple[int, int], deque[tuple[int, SpanContext, int]]] = OrderedDict()
        self._waiting_count = 0

    def close(self) -> None:
        """Send what waits, for at most `SHUTDOWN_MS`. Blocks."""
        self._provider.force_flush(SHUTDOWN_MS)
        self._provider.shutdown()

    # --- relay.core.traces.Tracer

    def published(self, project_id: int, draft: Draft, parent: bytes | None) -> None:
        now_ns = time.time_ns()
        attributes: Mapping[str, str | int] = {
            "messaging.system": "starfish",
            "messaging.message.id": draft.id,
            "starfish.project": project_id,
            "starfish.kind": draft.kind.value,
            "starfish.site": draft.sender_uid or "",
        }
        span = self._tracer.start_span(
            "publish", parent_of(parent), SpanKind.SERVER, attributes=attributes, start_time=now_ns
        )
        if span.is_recording():
            self._open[_key(project_id, draft)] = (span, now_ns)
            if len(self._open) > FOLLOWED:
                self._open.popitem(last=False)[1][0].end()

    def committed(self, project_id: int, entries: Sequence[Entry]) -> None:
        """Called after each commit, before anybody is shown it."""
        if not self._open:
            return
        now_ns = time.time_ns()
        for entry in entries:
            found = self._open.get(_key(project_id, entry.draft))
            if found is None or entry.offset is None:
                continue
            commit = self._child("commit", found[0].get_span_context(), found[1], now_ns, {})
            self._followed[project_id, entry.offset] = _Following(commit, now_ns)
            if len(self._followed) > FOLLOWED:
                self._followed.popitem(last=False)

    def answered(self, project_id: int, draft: Draft, outcome: Appended | ReplyError) -> None:
        found = self._open.pop(_key(project_id, draft), None)
        if found is None:
            return
        span = found[0]
        if isinstance(outcome, ReplyError):
            span.set_attribute("starfish.error", outcome.code)
            span.set_status(Status(StatusCode.ERROR, outcome.code))
        else:
            span.set_attribute("starfish.offset", outcome.offset)
            span.set_attribute("starfish.duplicate", outcome.duplicate)
        span.end()

    def delivered(self, project_id: int, offset: int, site_id: int, site_uid: str) -> None:
        following = self._followed.get((project_id, offset))
        if following is None or site_id in following.sites:
            return
        following.sites.add(site_id)
        now_ns = time.time_ns()
        told: Mapping[str, str | int] = {"starfish.site": site_uid, "starfish.offset": offset}
        deliver = self._child("deliver", following.commit, following.committed_ns, now_ns, told, SpanKind.PRODUCER)
        self._wait_for_ack(project_id, site_id, (offset, deliver, now_ns))

    def acknowledged(self, project_id: int, site_id: int, offset: int) -> None:
        waiting = self._waiting.get((project_id, site_id))
        if waiting is None:
            return
        now_ns = time.time_ns()
        while waiting and waiting[0][0] <= offset:
            _, deliver, delivered_ns = waiting.popleft()
            self._waiting_count -= 1
            self._child("ack", deliver, delivered_ns, now_ns, {"starfish.offset": offset})
        if not waiting:
            del self._waiting[project_id, site_id]

    # --- spans

    def _child(
        self,
        name: str,
        parent: SpanContext,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, str | int],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> SpanContext:
        """A span that is over."""
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        span = self._tracer.start_span(name, context, kind, attributes=attributes, start_time=start_ns)
        span.end(end_ns)
        return span.get_span_context()

    def _wait_for_ack(self, project_id: int, site_id: int, delivery: tuple[int, SpanContext, int]) -> None:
        waiting = self._waiting.setdefault((project_id, site_id), deque())
        waiting.append(delivery)
        self._waiting_count += 1
        if len(waiting) > WAITING_OF_SITE:
            waiting.popleft()
            self._waiting_count -= 1
        while self._waiting_count > WAITING:
            self._waiting_count -= len(self._waiting.popitem(last=False)[1])


def parent_of(traceparent: bytes | None) -> Context | None:
    """The context that a `traceparent` names; None if there is none that can be read."""
    found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & TraceFlags.SAMPLED))
    return trace.set_span_in_context(trace.NonRecordingSpan(context)) if context.is_valid else None


def sending(url: str, *, ratio: float, version: str, node: str) -> Tracing:
    """Traces that are sent to a collector, by OTLP over HTTP.

    Args:
        url: of the collector, e.g. http://127.0.0.1:4318/v1/traces.
        ratio: how many of the events are followed whose publisher does not say, from 0 to 1.
    """
    resource = Resource.create(
        {"service.name": "starfish-relay", "service.version": version, "service.instance.id": node}
    )
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    return Tracing(provider)


def _key(project_id: int, draft: Draft) -> Key:
    return project_id, draft.sender_id, draft.id
