"""What breaks, and when: a forecast that follows from a seed alone, and the weather that carries it out.

The network and the processes break each by a stream of its own, so that a relay is also killed while the network is
slow, half of the sessions hang, and the others reconnect.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.support.postgres import Postgres
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

NETWORK = {
    "cut one": 6,
    "cut all": 1,
    "half-open one": 3,
    "half-open all": 1,
    "delay": 3,
    "throttle": 2,
    "stall": 2,
    "refuse": 1,
    "reorder": 2,
}
PROCESSES = {"kill the relay": 3, "kill the relay, and again in its start": 1}
POSTGRES = {"crash PostgreSQL": 2, "restart PostgreSQL": 1, "crash both": 1}

START_S = 120.0
"""What a relay's start may take on a machine that is as busy as this makes it."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """One thing that breaks: after a pause, for a while. `which` chooses a connection."""

    pause_s: float
    name: str
    for_s: float
    which: int


def forecast(seed: str, weights: dict[str, int], *, pause_s: float, for_s: float) -> Iterator[Act]:
    """Without an end. First each of the acts once, so that a short turn has them all; then at random."""
    rng = random.Random(seed)
    names = rng.sample(list(weights), len(weights))
    while True:
        name = names.pop() if names else rng.choices(list(weights), list(weights.values()))[0]
        yield Act(
            pause_s=rng.uniform(0.0, pause_s), name=name, for_s=rng.uniform(0.0, for_s), which=rng.randrange(1000)
        )


@dataclass(kw_only=True)
class Weather:
    """Carries forecasts out.

    Attributes:
        progress: how much has been done; it goes on after an act of the processes before the next one comes.
        acts: what has happened, in order.
    """

    seed: int
    relay: RelayProcess
    proxy: Proxy
    postgres: Postgres | None
    progress: Callable[[], int]
    acts: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def bad(self, processes: dict[str, int], *, pause_s: float, for_s: float, least: int) -> AsyncIterator[None]:
        """Bad weather for as long as the block lasts; at its end, what is under way is over and all works again.

        Args:
            processes: what happens to them, with weights.
            pause_s: at most between two acts of the network, and the same between progress and an act of the processes.
            for_s: at most how long an act lasts.
            least: progress between two acts of the processes.
        """
        calm = asyncio.Event()
        network = forecast(f"network {self.seed}", NETWORK, pause_s=pause_s, for_s=for_s)
        engine = forecast(f"processes {self.seed}", processes, pause_s=pause_s, for_s=for_s)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry_out(network, self._network, 0, calm))
            group.create_task(self._carry_out(engine, self._processes, least, calm))
            try:
                yield
            finally:
                calm.set()

    async def _carry_out(
        self, acts: Iterator[Act], do: Callable[[Act], Awaitable[None]], least: int, calm: asyncio.Event
    ) -> None:
        for act in acts:
            wanted = self.progress() + least
            while not await _within(calm, act.pause_s):
                if self.progress() >= wanted:
                    break
            else:
                return
            await do(act)
            self.acts.append(act.name)

    async def _network(self, act: Act) -> None:
        proxy = self.proxy
        which = None if act.name.endswith("all") else act.which
        match act.name:
            case "cut one" | "cut all":
                proxy.cut(which)
            case "half-open one" | "half-open all":
                proxy.half_open(which)
            case "delay":
                proxy.delay_s = act.for_s / 20
            case "throttle":
                proxy.rate = 50_000.0
            case "stall":
                proxy.stall()
            case "refuse":
                proxy.refusing = True
                proxy.cut()
            case "reorder":
                proxy.hold()
                proxy.cut()
        if not act.name.startswith(("cut", "half-open")):
            await asyncio.sleep(act.for_s)
        self._clear_up(act)

    def _clear_up(self, act: Act) -> None:
        proxy = self.proxy
        proxy.delay_s, proxy.rate, proxy.refusing = 0.0, None, False
        proxy.resume()
        proxy.release(random.Random(act.which))

    async def _processes(self, act: Act) -> None:
        if act.name in ("crash PostgreSQL", "restart PostgreSQL"):
            await self._without_postgres(act)
            return
        await asyncio.to_thread(self.relay.kill)
        if act.name == "crash both":
            await self._without_postgres(act)
        elif act.name.endswith("start"):
            await asyncio.to_thread(self.relay.start, ready=False)
            await asyncio.sleep(act.for_s)
            await asyncio.to_thread(self.relay.kill)
        await asyncio.to_thread(self.relay.start, ready=False)
        await asyncio.to_thread(self.relay.wait_until_ready, START_S)

    async def _without_postgres(self, act: Act) -> None:
        assert self.postgres is not None
        await asyncio.to_thread(self.postgres.stop, "fast" if act.name.startswith("restart") else "immediate")
        await asyncio.sleep(act.for_s)
        await asyncio.to_thread(self.postgres.start)


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Whether it happens in that time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await event.wait()
    return False
