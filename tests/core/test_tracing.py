"""Traces: an event is followed from its publisher to each ack; what is remembered is bounded; off, it costs nothing."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from relay import tracing
from relay.core.model import Appended, Draft, Entry, Kind
from relay.protocol.errors import ErrorCode, ReplyError
from relay.tracing import Tracing, parent_of
from tests.conformance.own import new_realm
from tests.conformance.wire import Wire
from tests.support.ports import free_port
from tests.support.relay import RelayProcess

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"
DRAFT = Draft(kind=Kind.COMMAND, id=str(uuid.uuid4()), sender_id=1, sender_uid="co")


class Collected:
    """Spans as they are made, in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces = Tracing(provider)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def commit(self, draft: Draft = DRAFT, offset: int = 7, parent: str = GIVEN) -> None:
        self.traces.published(5, draft, parent.encode())
        self.traces.committed(5, [Entry(project_id=5, offset=offset, at_us=0, draft=draft)])
        self.traces.answered(5, draft, Appended(offset=offset, duplicate=False))


def parent_id(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def own_id(span: ReadableSpan) -> int:
    assert span.context is not None
    span_id: int = span.context.span_id
    return span_id


def test_each_step_is_a_child_of_the_one_before() -> None:
    seen = Collected()
    seen.commit()
    seen.traces.delivered(5, 7, 2, "north")
    seen.traces.delivered(5, 7, 2, "north")  # its second session
    seen.traces.delivered(5, 7, 3, "south")
    seen.traces.acknowledged(5, 2, 9)
    seen.traces.acknowledged(5, 2, 9)
    (publish,), (commit,), delivered, (ack,) = map(seen.named, ("publish", "commit", "deliver", "ack"))
    assert parent_id(publish) == int(SPAN, 16)
    assert parent_id(commit) == own_id(publish)
    assert [parent_id(one) for one in delivered] == [own_id(commit)] * 2
    assert [(one.attributes or {})["starfish.site"] for one in delivered] == ["north", "south"]
    assert parent_id(ack) == own_id(delivered[0])
    assert {span.context.trace_id for span in seen.spans if span.context} == {int(TRACE, 16)}
    assert publish.attributes and publish.attributes["starfish.offset"] == 7


def test_what_is_refused_is_an_error_and_followed_no_further() -> None:
    seen = Collected()
    seen.traces.published(5, DRAFT, GIVEN.encode())
    seen.traces.answered(5, DRAFT, ReplyError(ErrorCode.UNAVAILABLE, "not now"))
    (publish,) = seen.spans
    assert publish.status.description == "unavailable"
    seen.traces.committed(5, [Entry(project_id=5, offset=7, at_us=0, draft=DRAFT)])
    assert len(seen.spans) == 1


def test_what_its_publisher_does_not_want_traced_is_not() -> None:
    seen = Collected()
    seen.commit(parent=UNSAMPLED)
    seen.traces.delivered(5, 7, 2, "north")
    assert seen.spans == []


@pytest.mark.parametrize("given", [None, b"", b"1", b'{"a":1}', GIVEN.encode()[:-1], b"00-" + b"0" * 32 + b"-0-01"])
def test_what_is_no_traceparent_is_as_good_as_none(given: bytes | None) -> None:
    assert parent_of(given) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "FOLLOWED", 10)
    monkeypatch.setattr(tracing, "WAITING", 12)
    monkeypatch.setattr(tracing, "WAITING_OF_SITE", 4)
    seen = Collected()
    for number in range(50):
        draft = replace(DRAFT, id=str(number))
        seen.commit(draft, offset=number)
        for site in range(5):
            seen.traces.delivered(5, number, site, "site")
        seen.traces.published(6, draft, GIVEN.encode())  # never answered
    held = seen.traces
    assert (len(held._open), len(held._followed)) == (10, 10)
    assert sum(map(len, held._waiting.values())) == held._waiting_count <= 12
    assert all(len(waiting) <= 4 for waiting in held._waiting.values())
    for site in range(5):
        held.acknowledged(5, site, 100)
    assert held._waiting == {} and held._waiting_count == 0
    assert len(seen.named("ack")) <= 12


# --- a relay that sends


class Collector:
    """What takes traces by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: dict[str, list[tuple[str, str]]] = {}
        taken = self.spans

        class Taking(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            ids = (span.span_id.hex(), span.parent_span_id.hex())
                            if span.trace_id.hex() == TRACE:
                                taken.setdefault(span.name, []).append(ids)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Taking)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    thread = Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield collector
    await asyncio.to_thread(collector.server.shutdown)
    collector.server.server_close()
    thread.join()


async def test_a_command_is_followed_to_each_sites_ack(collector: Collector) -> None:
    settings = {"STARFISH_OTLP_URL": collector.url, "STARFISH_TRACE_RATIO": "0"}
    with RelayProcess(settings=settings) as relay:
        async with new_realm(relay) as realm:
            team = await realm.team(participants=2)
            sent = await team.co.publish(team.project, kind="command", data={"op": "train"}, trace=GIVEN)
            await asyncio.gather(*(_take_and_ack(wire, team.project, sent["offset"]) for wire in team.pas))
            quiet = await team.co.publish(team.project, kind="command", data={"op": "train"}, trace={"not": "one"})
            await team.pa.until("event", offset=quiet["offset"])
            body = {"id": str(uuid.uuid4()), "kind": "update", "payload": base64.b64encode(b"model").decode()}
            path = f"projects/{team.project}/events/"
            answer = await realm.as_site("POST", path, team.participant, json=body, headers={"traceparent": GIVEN})
            assert answer.status_code == 201
            await team.co.until("event", offset=answer.json()["offset"])
        assert await asyncio.to_thread(relay.terminate) == 0
        assert "Traceback" not in relay.log
    spans = collector.spans
    assert {name: len(found) for name, found in spans.items()} == {"publish": 2, "commit": 2, "deliver": 4, "ack": 2}
    assert {parent for _, parent in spans["publish"]} == {SPAN}
    for name, before in (("commit", "publish"), ("deliver", "commit"), ("ack", "deliver")):
        assert {parent for _, parent in spans[name]} <= {own for own, _ in spans[before]}


async def _take_and_ack(wire: Wire, project: int, offset: int) -> None:
    await wire.until("event", project=project, offset=offset)
    await wire.send(type="ack", project=project, offset=offset)
    await wire.call("projects.list")  # what was sent before it has been taken


def test_a_collector_that_is_not_there_holds_up_nothing(tmp_path: Path) -> None:
    with RelayProcess(settings={"STARFISH_OTLP_URL": f"http://127.0.0.1:{free_port()}/v1/traces"}) as relay:
        assert relay.terminate() == 0


def test_a_url_that_is_none_is_said_at_once() -> None:
    with RelayProcess() as relay:
        done = relay.cli("serve", env={"STARFISH_OTLP_URL": "localhost:4318"}, check=False)
    assert done.returncode != 0
    assert "STARFISH_OTLP_URL: expected http" in done.stderr
