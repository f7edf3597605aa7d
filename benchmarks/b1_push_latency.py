"""B1: from one site's `publish` to another's receipt of the event, durable, one at a time.

Beside it what cannot be saved: one bare commit of the same database, and one round trip of a bare WebSocket server.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from benchmarks import lines
from benchmarks.harness import Report, options, percentile
from benchmarks.load import PingPong
from benchmarks.processes import Remote, bare_server
from benchmarks.realm import relay_with
from tests.support.postgres import Postgres

OLD_POLLING_MS = 5_000
WAL_PAGES = 1_000
"""After so many, SQLite writes its log over from the start. A log that still grows makes each commit dearer: it is
measured as in a relay that has run for a while. A bare commit adds one page, a publish four."""


class SqliteCommits:
    """Bare commits to a SQLite file, as durable as the relay's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, body BLOB)")
        await self.run(options().pick(WAL_PAGES, 50))

    async def run(self, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            self._db.execute("INSERT INTO bare (body) VALUES (?)", (lines.DATA,))
            seconds.append(time.perf_counter() - started)
        return sorted(seconds)


class PostgresCommits:
    """Bare commits to PostgreSQL, over one connection."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        self._db = await asyncpg.connect(self._url)
        await self._db.execute("CREATE TABLE bare (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body BYTEA)")

    async def run(self, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            await self._db.execute("INSERT INTO bare (body) VALUES ($1)", lines.DATA)
            seconds.append(time.perf_counter() - started)
        return sorted(seconds)


def main() -> None:
    report = Report(
        title="B1  push latency: publish sent → event received, durable, 300 B, one at a time",
        columns=("", "p50", "p99", "commit p50 / p99", "echo p50 / p99", "sum p50 / p99", "× p50", "× p99"),
    )
    with TemporaryDirectory(prefix="relay-benchmark-") as home:
        _measure(report, "SQLite", None, Remote(SqliteCommits, Path(home) / "bare.db"))
    with Postgres() as server:
        url = server.create_database()
        _measure(report, "PostgreSQL", url, Remote(PostgresCommits, server.create_database(empty=True)))
    report.notes.append(f"a controller that polls learns of it within {OLD_POLLING_MS:,} ms")
    report.say()


def _measure(report: Report, name: str, database_url: str | None, commits: Remote) -> None:
    rounds, count = options().pick(7, 1), options().pick(300, 20)
    with commits, relay_with(1, database_url=database_url) as (relay, [team]), bare_server() as bare:
        push = Remote(PingPong, lines.relay(relay, team.coordinator), lines.relay(relay, team.participants[0]))
        line = lines.bare(bare.url, "/echo")
        echo = Remote(PingPong, line, line)
        with push, echo:
            figures: list[list[tuple[float, float]]] = [[], [], []]
            for remote in (push, commits, echo):
                remote.call("open")
                remote.call("run", count)
            for _ in range(rounds):
                for of_remote, remote in zip(figures, (push, commits, echo), strict=True):
                    seconds = remote.call("run", count)
                    of_remote.append((percentile(seconds, 50), percentile(seconds, 99)))
    _say(report, name, figures)


def _say(report: Report, name: str, figures: list[list[tuple[float, float]]]) -> None:
    push, commit, echo = ([statistics.median(one) for one in zip(*of_one, strict=True)] for of_one in figures)
    floor = [statistics.median(one) for one in zip(*(_sums(figures)), strict=True)]
    ratios = [
        statistics.median(p[at] / s[at] for p, s in zip(figures[0], _sums(figures), strict=True)) for at in (0, 1)
    ]
    report.row(
        name,
        *(_ms(value) for value in push),
        *(f"{_ms(p50)} / {_ms(p99)}" for p50, p99 in (commit, echo, floor)),
        *(f"{value:.2f}" for value in ratios),
    )
    report.at_most(f"{name}, p50: ≤ 1.5 × commit and echo", 1.5, ratios[0], f"{ratios[0]:.2f} ×")
    report.at_most(f"{name}, p99: ≤ 3 × commit and echo", 3, ratios[1], f"{ratios[1]:.2f} ×")


def _sums(figures: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """What one commit and one echo take together, round by round."""
    return [(c50 + e50, c99 + e99) for (c50, c99), (e50, e99) in zip(*figures[1:], strict=True)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


if __name__ == "__main__":
    main()
