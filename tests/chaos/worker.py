"""A site's application on `relay.client`: it publishes, processes, dies and is started again, and keeps a record.

It does what docs/delivery.md says makes effects happen exactly once. What it publishes has an id of its own, that it
remembers until it is answered; its position is stored together with what it has processed. Its record is what such an
application would have on its disk: it outlives the application.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from relay.client import Event, Limits, RelayError
from relay.client import Site as Client
from relay.protocol.errors import ErrorCode
from tests.conformance.realm import Site
from tests.conformance.wire import new_id

QUICK = Limits(
    connect_s=None,
    open_s=3.0,
    close_s=0.5,
    ping_s=1.0,
    backoff_s=0.05,
    backoff_max_s=0.5,
    stable_s=0.2,
    ack_delay_s=0.02,
)
"""A client that finds out soon that a connection is dead, and is soon back."""


class Died(Exception):
    """The application is killed."""


@dataclass(kw_only=True)
class Lane:
    """Messages of one application to one project, one after the other: the next is not sent before `ok`."""

    number: int
    project: int
    sent: int = 0
    pending: str | None = None
    """The id of the newest, while it is not answered."""


@dataclass(kw_only=True)
class Record:
    """What an application has on its disk, by project."""

    position: dict[int, int]
    processed: dict[int, list[tuple[int, str]]]
    """Offset and id of each message by others, in the order in which they were processed."""
    answered: dict[int, dict[str, int]]
    deaths: int = 0
    repeats: int = field(default=0)
    """Publishes that were answered as duplicates: the answer to an earlier attempt had been lost."""


class Worker:
    """One of a federation's sites. `began` is, by project, the journal's head when its work begins."""

    def __init__(
        self, site: Site, url: str, began: dict[int, int], rng: random.Random, *, lanes: int, peers: Sequence[str]
    ) -> None:
        self.site = site
        self.began = began
        self.record = Record(
            position=dict(began),
            processed={project: [] for project in began},
            answered={project: {} for project in began},
        )
        self._url = url
        self._rng = rng
        self._lanes = [Lane(number=number, project=project) for project in began for number in range(lanes)]
        self._peers = list(peers)
        self._leads: set[int] = set()
        self._enough = asyncio.Event()
        self._changed = asyncio.Condition()
        self._dying = asyncio.Event()

    def __str__(self) -> str:
        return f"{self.site.name}: {self.answered} answered, at {self.record.position}, {self.record.deaths} deaths"

    @property
    def answered(self) -> int:
        return sum(len(answered) for answered in self.record.answered.values())

    def stop_publishing(self) -> None:
        """Nothing new is published; what is not answered is still sent until it is."""
        self._enough.set()

    def die(self) -> None:
        self._dying.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"{self}: not in {timeout_s} s") from None

    async def all_answered(self) -> None:
        await self.until(lambda: self._enough.is_set() and all(lane.pending is None for lane in self._lanes))

    # --- the application

    async def run(self) -> None:
        """Until cancelled; raises AssertionError when the relay, or its client, does what it must not."""
        while True:
            try:
                await self._live()
            except* Died:
                self.record.deaths += 1

    async def _live(self) -> None:
        start = self.record.position if self._rng.random() < 0.7 else {}  # or from the cursor that the relay keeps
        account = self.site.account
        client = Client(
            self._url,
            user=account.name,
            password=account.password,
            uid=self.site.uid,
            proxy=False,
            start=start,
            limits=QUICK,
        )
        self._dying.clear()
        async with client, asyncio.TaskGroup() as group:
            self._leads = {project for project, one in client.memberships.items() if one.role == "coordinator"}
            group.create_task(self._process(client, dict(start)))
            for lane in self._lanes:
                group.create_task(self._publish(client, lane))
            await self._dying.wait()
            raise Died

    async def _publish(self, client: Client, lane: Lane) -> None:
        while lane.pending is not None or not self._enough.is_set():
            if lane.pending is None:
                lane.pending = new_id()
                lane.sent += 1
            offset = await self._until_answered(client, lane, lane.pending)
            async with self._changed:
                self.record.answered[lane.project][lane.pending] = offset
                lane.pending = None
                self._changed.notify_all()

    async def _until_answered(self, client: Client, lane: Lane, id_: str) -> int:
        # The same content whenever it is sent again: it follows from the id.
        rng = random.Random(id_)
        addressed = lane.project in self._leads and rng.random() < 0.3
        to = sorted(rng.sample(self._peers, 2)) if addressed else None
        data = {"lane": lane.number, "n": lane.sent - 1, "to": to}
        content = {"payload": json.dumps(data).encode()} if rng.random() < 0.2 else {"data": data}
        while True:
            try:
                published = await client.publish(lane.project, "message", to=to, id=id_, **content)
            except RelayError as refusal:
                if refusal.code is not ErrorCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
                continue
            assert published.offset is not None
            self.record.repeats += published.duplicate
            return published.offset

    async def _process(self, client: Client, started: dict[int, int]) -> None:
        shown = dict(started)
        async for event in client.events():
            assert event.kind != "resync", f"{self}: {event}"
            if event.offset is None or event.project not in self.record.position:
                continue
            assert event.offset > shown.get(event.project, 0), f"{self}: shown again, or out of order: {event}"
            shown[event.project] = event.offset
            await self._take(event, event.offset)

    async def _take(self, event: Event, offset: int) -> None:
        """Process it, unless an earlier life has: one step, as the transaction of an application would be."""
        if offset <= self.record.position[event.project]:
            return
        async with self._changed:
            self.record.position[event.project] = offset
            if event.kind == "message" and event.sender != self.site.uid:
                self.record.processed[event.project].append((offset, event.id))
            self._changed.notify_all()


def content_of(entry: dict[str, Any]) -> dict[str, Any]:
    """What a worker wrote into an entry of the journal, payloads as bytes."""
    data: dict[str, Any] = json.loads(entry["payload"]) if "payload" in entry else entry["data"]
    return data


@asynccontextmanager
async def at_work(workers: Sequence[Worker]) -> AsyncIterator[None]:
    """All of them live for as long as the block lasts; raises what they found wrong."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(worker.run(), name=f"worker-{worker.site.name}") for worker in workers]
        yield
        for task in tasks:
            task.cancel()
