"""Logs: a line an event, whole and on one line, with the request's id, and without anybody's secrets."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from relay import telemetry
from tests.conformance.own import ACCOUNT, new_realm
from tests.support.relay import RelayProcess

GIVEN = "0af7651916cd43dd-8448eb211c80319c"


def line_of(form: str, message: str, **extra: Any) -> str:
    """How a line comes out."""
    formatter = telemetry._Json() if form == "json" else telemetry._Text()
    record = logging.LogRecord("relay.test", logging.INFO, "", 0, message, None, None)
    vars(record).update(extra)
    return formatter.format(record)


def test_what_a_client_sends_makes_no_line_of_its_own() -> None:
    line = line_of("text", "a download was cut off", path="/x\n2026 error all is lost\x1b[2J", reason="größer")
    assert "\n" not in line and "\x1b" not in line
    assert r"path=/x\n2026 error all is lost\x1b[2J  reason=größer" in line
    assert json.loads(line_of("json", "x\ny", path="/\n"))["event"] == "x\ny"


async def test_a_line_is_the_requests_only_while_it_is_answered() -> None:
    assert telemetry.begin_request(GIVEN) == GIVEN
    assert f"request={GIVEN}" in line_of("text", "here")
    beside = await asyncio.create_task(_line_beside())
    assert "request=" not in beside
    assert "request=" not in await asyncio.to_thread(line_of, "text", "in a thread")


async def _line_beside() -> str:
    return line_of("text", "beside")


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "é", "a\nb"])
async def test_an_id_that_is_not_sane_is_not_taken(given: str | None) -> None:
    made = telemetry.begin_request(given)
    assert made != given and len(made) == 16


@pytest.fixture
def relay() -> Iterator[RelayProcess]:
    with RelayProcess(settings={"STARFISH_LOG_FORMAT": "json"}) as process:
        yield process


async def test_requests_and_sessions_can_be_found_in_the_log(relay: RelayProcess) -> None:
    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as http:
        answer = await http.get("/health/live", headers={"X-Request-Id": GIVEN})
        assert answer.headers["x-request-id"] == GIVEN
        refused = await http.get("/starfish/api/v1/sites/", headers={"X-Request-Id": "not sane"})
        assert refused.headers["x-request-id"] != "not sane"
    async with new_realm(relay) as realm:
        site = await realm.site()
        wire = await realm.connect(site.headers | {"X-Request-Id": GIVEN})
        await wire.hello()
        await wire.close()
    assert await asyncio.to_thread(relay.terminate) == 0
    lines = [json.loads(line) for line in relay.log.splitlines()]
    assert all({"at", "level", "logger", "event"} <= set(line) for line in lines)
    opened, closed = ([line for line in lines if line["event"] == f"session {what}"] for what in ("opened", "closed"))
    assert [line["request"] for line in (*opened, *closed)] == [GIVEN, GIVEN]
    assert opened[0]["session"] == closed[0]["session"] and opened[0]["site"] == site.uid
    assert [line["event"] for line in lines[-2:]] == ["draining", "stopped"]
    secret = base64.b64encode(f"{ACCOUNT.name}:{ACCOUNT.password}".encode()).decode()
    assert ACCOUNT.password not in relay.log and secret not in relay.log
