"""A site that goes on publishing and receiving whatever happens to its connection, and keeps a record of it.

It does what docs/protocol.md asks of a client and nothing more: after a break it says hello with the last offset that
it has been shown, and sends again, in order, what has not been answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.conformance.realm import Site
from tests.conformance.wire import MAX_INCOMING_BYTES, PAYLOAD, Frame, binary_frame, decode, new_id

WINDOW = 16
"""Publishes that may be unanswered at once."""

BROKEN = (OSError, ConnectionClosed, InvalidHandshake, TimeoutError, EOFError)
"""Every way in which a connection can end, or not come about."""


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How a site behaves. Probabilities are from 0 to 1, pauses in seconds."""

    pause_s: float = 0.02
    acks: float = 0.2
    resumes_by_cursor: float = 0.2
    binary: float = 0.2


class Correspondent:
    """A member of a project that publishes numbered messages; `seen`, `answered` and `sent` are its record.

    Args:
        peers: the uids that it may address by name, at random; none of them leaves the addressing to the relay.
    """

    def __init__(
        self,
        site: Site,
        url: str,
        project: int,
        began: int,
        rng: random.Random,
        *,
        coordinator_uid: str,
        peers: Sequence[str] = (),
    ) -> None:
        self.site = site
        self.url = url
        self.project = project
        self.began = began
        """The journal's head when its work begins."""
        self.coordinator_uid = coordinator_uid
        self.position = began
        self.seen: list[Frame] = []
        """Every event that was shown, in order, each once."""
        self.sent: dict[str, Frame] = {}
        """Every event that was ever published, by id."""
        self.answered: dict[str, int] = {}
        """The offsets that were answered `ok`, by id."""
        self.duplicates = 0
        self.sessions = 0
        self.habits = Habits()
        self._rng = rng
        self._peers = list(peers)
        self._epoch: str | None = None
        self._by_offset: dict[int, Frame] = {}
        self._last = 0
        self._unanswered: dict[str, Frame] = {}
        self._changed = asyncio.Condition()
        self._stopping = asyncio.Event()

    @property
    def is_coordinator(self) -> bool:
        return self.site.uid == self.coordinator_uid

    @property
    def seen_ids(self) -> set[str]:
        return {event["id"] for event in self.seen}

    def stop_publishing(self) -> None:
        """Nothing new is published from now on; what is unanswered is still sent again until it is answered."""
        self._stopping.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Waits for something of the record to become true."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"{self}: not in {timeout_s} s") from None

    async def all_answered(self) -> None:
        await self.until(lambda: self._stopping.is_set() and not self._unanswered)

    def __str__(self) -> str:
        return (
            f"{self.site.name}: {len(self.sent)} sent, {len(self.answered)} answered, {len(self._unanswered)} not, "
            f"{len(self.seen)} seen up to {self.position}, {self.sessions} sessions"
        )

    # --- sessions

    async def run(self) -> None:
        """Until cancelled; raises AssertionError when the relay does what it must not."""
        while True:
            with contextlib.suppress(*BROKEN):
                async with connect(
                    self.url,
                    additional_headers=self.site.headers,
                    max_size=MAX_INCOMING_BYTES,
                    compression=None,
                    ping_interval=None,
                    close_timeout=0.2,
                    open_timeout=5,
                    proxy=None,
                ) as socket:
                    await self._session(socket)
            await asyncio.sleep(self._rng.uniform(0.0, 0.05))

    async def _session(self, socket: ClientConnection) -> None:
        by_cursor = self.sessions > 0 and self._rng.random() < self.habits.resumes_by_cursor
        position: Frame = {"offset": self.position}
        if self._epoch is not None:
            position["epoch"] = self._epoch
        projects = {} if by_cursor else {"projects": {str(self.project): position}}
        await socket.send(json.dumps({"type": "hello", "client": "crash-test/1"} | projects))
        self._welcomed(decode(await socket.recv()), by_cursor=by_cursor)
        publisher = asyncio.create_task(self._publish(socket))
        try:
            async for message in socket:
                await self._take(socket, decode(message))
        finally:
            publisher.cancel()
            with contextlib.suppress(asyncio.CancelledError, *BROKEN):
                await publisher

    def _welcomed(self, welcome: Frame, *, by_cursor: bool) -> None:
        assert welcome["type"] == "welcome", welcome
        described = welcome["projects"].get(str(self.project))
        assert described is not None, f"{self}: a member is not subscribed: {welcome}"
        assert described["recovered"] is True, f"{self}: {described}"
        assert self._epoch in (None, described["epoch"]), f"{self}: {described}"
        assert described["offset"] >= max([self.position, *self.answered.values()]), f"{self} lost: {described}"
        assert described["from"] <= self.position if by_cursor else described["from"] == self.position, described
        self._epoch, self._last = described["epoch"], described["from"]
        self.sessions += 1

    # --- sending

    async def _publish(self, socket: ClientConnection) -> None:
        for frame in list(self._unanswered.values()):
            await _send(socket, frame)
        while not self._stopping.is_set():
            async with self._changed:
                await self._changed.wait_for(lambda: len(self._unanswered) < WINDOW)
            frame = self._compose()
            self.sent[frame["id"]] = self._unanswered[frame["id"]] = frame
            await _send(socket, frame)
            await asyncio.sleep(self._rng.uniform(0.0, self.habits.pause_s))

    def _compose(self) -> Frame:
        id_ = new_id()
        frame: Frame = {"type": "publish", "ref": id_, "id": id_, "project": self.project, "kind": "message"}
        data: Frame = {"n": len(self.sent), "to": None}
        if self._peers and self._rng.random() < 0.5:
            data["to"] = frame["to"] = self._rng.sample(self._peers, self._rng.randint(1, len(self._peers)))
        name = PAYLOAD if self._rng.random() < self.habits.binary else "data"
        return frame | {name: json.dumps(data).encode() if name == PAYLOAD else data}

    # --- receiving

    async def _take(self, socket: ClientConnection, frame: Frame) -> None:
        async with self._changed:
            if frame["type"] == "event" and frame.get("offset") is not None:
                self._shown(frame)
            elif frame["type"] == "ok":
                self._ok(frame)
            assert frame["type"] != "error", f"{self}: {frame}"
            self._changed.notify_all()
        if frame["type"] == "event" and self._rng.random() < self.habits.acks:
            await socket.send(json.dumps({"type": "ack", "project": self.project, "offset": self.position}))

    def _shown(self, event: Frame) -> None:
        offset = event["offset"]
        assert offset > self._last, f"{self}: shown again, or out of order after {self._last}: {event}"
        self._last = offset
        if offset > self.position:
            self.position = offset
            self._by_offset[offset] = event
            self.seen.append(event)
        else:  # the stored cursor lags behind what was shown
            known = self._by_offset.get(offset, event)
            assert known == event, f"{self}: {offset} was shown before as {known}, and now as {event}"

    def _ok(self, answer: Frame) -> None:
        id_ = answer["ref"]
        assert id_ in self._unanswered, f"{self}: answered twice: {answer}"
        assert self.answered.get(id_, answer["offset"]) == answer["offset"], answer
        del self._unanswered[id_]
        self.answered[id_] = answer["offset"]
        self.duplicates += answer["duplicate"]


@asynccontextmanager
async def at_work(sites: Sequence[Correspondent]) -> AsyncIterator[None]:
    """The sites publish and receive for as long as the block lasts; raises what they found wrong."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(site.run(), name=f"site-{site.site.name}") for site in sites]
        yield
        for task in tasks:
            task.cancel()


async def _send(socket: ClientConnection, frame: Frame) -> None:
    if PAYLOAD in frame:
        header = {name: value for name, value in frame.items() if name != PAYLOAD}
        await socket.send(binary_frame(header, frame[PAYLOAD]))
    else:
        await socket.send(json.dumps(frame))


def content(event: Frame) -> Any:
    """What a correspondent wrote into an event."""
    return json.loads(event[PAYLOAD]) if PAYLOAD in event else event["data"]
