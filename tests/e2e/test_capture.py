"""A short training, of which all that the relay stores and all that passes is captured: no content is in it."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.client import Site
from tests.e2e.conftest import LIMITS, PASSWORD, TASKS, USER, Ward, first
from tests.e2e.hostile import HostileRelay
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

MODEL, UPDATE, BLOB, COMMAND, LOG, METRIC = (
    f"MARKER-{word}-of-the-training" for word in ("model", "update", "blob", "command", "log", "metric")
)
MARKERS = (MODEL, UPDATE, BLOB, COMMAND, LOG, METRIC)
SECONDS = 60
FEW = replace(LIMITS, inline_bytes=100_000)


class Tap(Proxy):
    """Keeps all that passes. What goes over it is HTTP, so that it stands there as it is."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.heard = bytearray()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        piece = await super()._read(reader)
        self.heard += piece
        return piece


def found_in(captured: bytes) -> set[str]:
    """The markers that can be read there, as they are or in base64, wherever in it they begin."""

    def forms(marker: str) -> list[bytes]:
        raw = marker.encode()
        return [raw, *(base64.b64encode(bytes(shift) + raw)[4:-4] for shift in range(3))]

    return {marker for marker in MARKERS if any(form in captured for form in forms(marker))}


async def train(co: Site, one: Site, other: Site, home: Path) -> None:
    """One round: the model and a command out; logs, progress and updates, one of them as a blob, back."""
    project = (await co.projects.create("study", tasks=TASKS))["id"]
    for pa in (one, other):
        await pa.projects.join("study")
        await first(co, lambda event, uid=pa.uid: event.kind == "participant" and event.data["site"] == uid)  # type: ignore[misc]
    runs = {run["site_uid"]: run["id"] for run in (await co.runs.start(project))["runs"]}
    await co.publish(project, "update", payload=MODEL.encode() * 10, run=runs[co.uid])
    await co.publish(project, "command", data={"op": COMMAND})
    for pa in (one, other):
        assert (await first(pa)).payload == MODEL.encode() * 10
        assert (await first(pa)).data == {"op": COMMAND}
        await pa.publish(project, "log", data={"line": LOG}, run=runs[pa.uid])
        await pa.publish(project, "progress", data={"loss": METRIC}, run=runs[pa.uid], transient=False)
        await pa.publish(project, "progress", data={"loss": METRIC}, run=runs[pa.uid])
        await pa.send_update(project, UPDATE.encode(), run=runs[pa.uid])
    await one.send_update(project, BLOB.encode() * 5000, run=runs[one.uid])
    event = await first(co, lambda event: event.kind == "update" and event.payload is None)
    assert (await event.save(home / "saved")).read_bytes() == BLOB.encode() * 5000
    newest = await co.progress(project, 1)
    assert [progress["data"] for progress in newest] == [{"loss": METRIC}] * 2


@pytest.mark.parametrize("sealed", [True, False])
async def test_what_is_captured_of_a_training_shows_nothing_of_it(tmp_path: Path, sealed: bool) -> None:
    """Unsealed, the same search finds all of it: so it is one that finds."""
    with RelayProcess() as relay:
        relay.cli("user", "create", USER, "--no-input", env={"STARFISH_USER_PASSWORD": PASSWORD})
        ward = Ward(relay=relay, home=tmp_path)
        uids = await asyncio.gather(*(ward.register() for _ in range(3)))
        options: dict[str, Any] = {"sealed": sealed, "limits": FEW}
        async with asyncio.timeout(SECONDS), HostileRelay(relay.url) as frames, Tap(relay.port) as tap:
            http = f"http://127.0.0.1:{tap.port}"
            co = ward.site(uids[0], by=http, transports=["sse"], **options)
            one = ward.site(uids[1], by=http, transports=["poll"], **options)
            other = ward.site(uids[2], by=frames.url, **options)
            async with co, one, other:
                await train(co, one, other, tmp_path)
        assert relay.terminate() == 0
        stored = b"".join(path.read_bytes() for path in relay.data_dir.rglob("*") if path.is_file())
        said = b"".join(frames.said)
        log = relay.log.encode()
    expected = set() if sealed else set(MARKERS)
    assert found_in(stored) == expected
    assert found_in(bytes(tap.heard)) == expected
    assert found_in(said) == expected - {BLOB}
    assert not found_in(log)
    assert b"starfish-seal-v1" in stored or not sealed
    assert json.dumps(uids[0]).encode() in said  # it was this training that was captured
