"""A round of training as docs/protocol.md tells it, spoken by a plain synchronous WebSocket client.

Nothing here knows more than the framing: what works here works from any language's WebSocket library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.conformance.realm import TASKS, Realm, Site, unique
from tests.conformance.wire import SUBPROTOCOL, Frame, decode, new_id

WAIT_S = 5.0


class Plain:
    """Sends a frame, and reads until the frame that it waits for; what it passes by is kept for later."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.kept: list[Frame] = []

    def send(self, **frame: Any) -> None:
        self.connection.send(json.dumps(frame))

    def until(self, type_: str, **fields: Any) -> Frame:
        wanted = {"type": type_, **fields}
        for frame in self._frames():
            assert frame["type"] != "error", frame
            if all(frame.get(name) == value for name, value in wanted.items()):
                self.kept.remove(frame)
                return frame
        raise AssertionError("unreachable")

    def _frames(self) -> Iterator[Frame]:
        yield from list(self.kept)
        while True:
            self.kept.append(decode(self.connection.recv(timeout=WAIT_S)))
            yield self.kept[-1]

    def call(self, method: str, **params: Any) -> Any:
        self.send(type="call", ref=method, method=method, params=params)
        return self.until("ok", ref=method)["result"]


@pytest.fixture
def dial(realm: Realm) -> Iterator[Any]:
    """Opens a session of a site and says hello."""
    with ExitStack() as stack:

        def open_(site: Site) -> Plain:
            connection = connect(
                realm.socket_url, additional_headers=site.headers, subprotocols=[Subprotocol(SUBPROTOCOL)], proxy=None
            )
            plain = Plain(stack.enter_context(connection))
            plain.send(type="hello", ref=0, client="plain/1")
            plain.until("welcome", ref=0)
            return plain

        yield open_


async def test_a_round_of_training(realm: Realm, dial: Any) -> None:
    owner, guest = await realm.site(realm.owner), await realm.site(realm.guest)
    coordinator, participant = dial(owner), dial(guest)
    name = unique("project")
    project = coordinator.call("projects.create", name=name, description="", tasks=TASKS)["id"]
    assert participant.call("projects.join", name=name)["role"] == "participant"

    started = coordinator.call("runs.start", project=project)
    runs = {run["site_uid"]: run["id"] for run in started["runs"]}
    participant.until("event", kind="run", run=runs[guest.uid])
    for plain, site in ((coordinator, owner), (participant, guest)):
        plain.call("runs.status", run=runs[site.uid], status="Preparing")
    while participant.until("event", kind="batch")["data"]["status"] != "Preparing":
        pass

    coordinator.send(type="publish", ref=1, id=new_id(), project=project, kind="command", data={"op": "train"})
    assert coordinator.until("ok", ref=1)["duplicate"] is False
    command = participant.until("event", kind="command")
    assert (command["data"], command["from"]) == ({"op": "train"}, owner.uid)
    participant.send(type="ack", project=project, offset=command["offset"])

    update = {"coef": [0.25, -1.5]}
    participant.send(
        type="publish", ref=2, id=new_id(), project=project, kind="update", run=runs[guest.uid], data=update
    )
    offset = participant.until("ok", ref=2)["offset"]
    received = coordinator.until("event", kind="update")
    assert (received["data"], received["offset"], received["run"]) == (update, offset, runs[guest.uid])

    participant.connection.close()
    coordinator.until("presence", site=guest.uid, state="offline")
    coordinator.send(type="publish", ref=3, id=new_id(), project=project, kind="message", data="while you were away")
    coordinator.until("ok", ref=3)
    assert dial(guest).until("event", kind="message")["data"] == "while you were away"
