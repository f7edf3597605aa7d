"""B3: durable publishes a second, from 50 publishers in one project and in 50, on PostgreSQL.

Each waits for its answer before it publishes the next; coordinators are there, and get all of it. Beside it one commit
per message on the same PostgreSQL, and NATS JetStream with a file store that syncs each publish.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from benchmarks import lines, peers
from benchmarks.harness import Report, options, ratio, take_turns
from benchmarks.load import Exchange
from benchmarks.processes import Remote
from benchmarks.realm import relay_with
from tests.support.postgres import Postgres

PUBLISHERS = 50
ONE, MANY = "PostgreSQL, a commit each, 1 connection", f"PostgreSQL, a commit each, {PUBLISHERS} connections"
OWN = "starfish-relay, "

Rate = Callable[[], float]


class Commits:
    """One commit a message, from so many connections at once."""

    def __init__(self, url: str, connections: int) -> None:
        self._url = url
        self._count = connections

    async def open(self) -> None:
        self._connections = [await asyncpg.connect(self._url) for _ in range(self._count)]
        await self._connections[0].execute(
            "CREATE TABLE IF NOT EXISTS bare (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body BYTEA)"
        )

    async def run(self, each: int) -> float:
        """Seconds until every connection has committed `each` messages."""
        started = time.perf_counter()
        await asyncio.gather(*(self._insert(connection, each) for connection in self._connections))
        return time.perf_counter() - started

    async def _insert(self, connection: asyncpg.Connection[asyncpg.Record], count: int) -> None:
        for _ in range(count):
            await connection.execute("INSERT INTO bare (body) VALUES ($1)", lines.DATA)


def main() -> None:
    report = Report(
        title=f"B3  durable publishes/s, {PUBLISHERS} publishers that each wait for their answers, 300 B",
        columns=("", "publishes/s", "× 1 connection", f"× {PUBLISHERS} connections"),
    )
    with ExitStack() as stack:
        subjects = dict(_subjects(stack, report))
        figures = dict(zip(subjects, take_turns(options().pick(5, 1), *subjects.values()), strict=True))
    for name, rates in figures.items():
        ratios = (f"{ratio(rates, figures[peer]):.2f}" for peer in (ONE, MANY))
        report.row(name, f"{statistics.median(rates):,.0f}", *ratios)
    for name in (name for name in figures if name.startswith(OWN)):
        value = ratio(figures[name], figures[ONE])
        report.at_least(f"{name.removeprefix(OWN)}: ≥ 5 × one commit a message", 5, value, f"{value:.2f} ×")
    report.say()


def _subjects(stack: ExitStack, report: Report) -> Iterator[tuple[str, Rate]]:
    server = stack.enter_context(Postgres())
    for name, sizes in (("one project", (PUBLISHERS,)), (f"{PUBLISHERS} projects", (1,) * PUBLISHERS)):
        relay, teams = stack.enter_context(relay_with(*sizes, database_url=server.create_database()))
        coordinators = [lines.relay(relay, team.coordinator) for team in teams]
        publishers = [lines.relay(relay, seat) for team in teams for seat in team.participants]
        yield OWN + name, _exchanging(stack, Remote(Exchange, publishers, coordinators, 1))
    for name, connections in ((ONE, 1), (MANY, PUBLISHERS)):
        commits = Remote(Commits, server.create_database(empty=True), connections)
        yield name, _committing(stack, commits, connections)
    try:
        store = Path(stack.enter_context(TemporaryDirectory(prefix="relay-benchmark-")))
        nats = stack.enter_context(peers.nats(store))
    except peers.Missing as missing:
        report.notes.append(f"NATS JetStream: {missing}")
        return
    publishers = [lines.jetstream(nats.url, number) for number in range(PUBLISHERS)]
    yield "NATS JetStream, synced", _exchanging(stack, Remote(Exchange, publishers, (), 0))


def _exchanging(stack: ExitStack, load: Remote) -> Rate:
    each = options().pick(200, 10)
    stack.enter_context(load).call("open")
    load.call("run", 10, 1)
    return lambda: PUBLISHERS * each / load.call("run", each, 1)


def _committing(stack: ExitStack, load: Remote, connections: int) -> Rate:
    each = options().pick(4_000, 100) // connections
    stack.enter_context(load).call("open")
    load.call("run", 10)
    return lambda: connections * each / load.call("run", each)


if __name__ == "__main__":
    main()
