"""B4: sites that are connected and say nothing: memory for each, processor time and queries of the whole relay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack

import asyncpg

from benchmarks import lines
from benchmarks.harness import Report, options
from benchmarks.lines import Line
from benchmarks.load import Crowd
from benchmarks.processes import Remote, bare_server, cpu_s, memory_bytes
from benchmarks.realm import relay_with
from tests.support.postgres import Postgres

TEAM = 19
"""Participants of a project; the coordinator is the twentieth site."""
SETTLE_S = 15
"""PostgreSQL counts what an idle connection has done up to ten seconds late."""


def main() -> None:
    report = Report(
        title="B4  idle: connected sites that say nothing",
        columns=("", "sites", "memory a site", "CPU of one core", "queries"),
    )
    sizes = [options().pick(2_000, 100)] + ([10_000] if options().full else [])
    for sites in sizes:
        bare = _bare(report, sites)
        ours = _relay(report, sites)
        report.at_most(f"{sites:,} sites: ≤ 2 × the memory of bare websockets", 2, ours / bare, f"{ours / bare:.2f} ×")
    report.say()


def _bare(report: Report, sites: int) -> float:
    with ExitStack() as stack:
        server = stack.enter_context(bare_server())
        each, busy, _ = _watch(stack, server.pid, [lines.bare(server.url, "/subscribe")] * sites)
    report.row("bare websockets", f"{sites:,}", _kib(each), f"{busy:.2%}", "")
    return each


def _relay(report: Report, sites: int) -> float:
    with ExitStack() as stack:
        server = stack.enter_context(Postgres(autovacuum="off"))
        url = server.create_database()
        teams = (TEAM,) * (sites // (TEAM + 1))
        relay, made = stack.enter_context(relay_with(*teams, database_url=url))
        own = [lines.relay(relay, seat) for team in made for seat in team.seats]
        each, busy, queries = _watch(stack, relay.pid, own, url)
    report.row("starfish-relay", f"{len(own):,}", _kib(each), f"{busy:.2%}", str(queries))
    report.at_most(f"{sites:,} sites: no query in {_window_s():.0f} s", 0, queries, f"{queries} queries")
    return each


def _watch(stack: ExitStack, pid: int, own: Sequence[Line], url: str | None = None) -> tuple[float, float, int]:
    """Memory for each connection in bytes, the share of a core, and queries, while nothing happens."""
    warm = stack.enter_context(Remote(Crowd, own[:20]))
    warm.call("open")
    before = memory_bytes(pid)
    stack.enter_context(Remote(Crowd, own[20:])).call("open")
    time.sleep(options().pick(SETTLE_S, 2))
    each = (memory_bytes(pid) - before) / len(own[20:])
    queries, used_s = _transactions(url), cpu_s(pid)
    time.sleep(_window_s())
    busy = (cpu_s(pid) - used_s) / _window_s()
    return each, busy, _transactions(url) - queries


def _window_s() -> float:
    return options().pick(25, 3)  # longer than a ping's interval


def _transactions(url: str | None) -> int:
    """What the database has done so far, asked from another one, whose own do not count."""
    if url is None:
        return 0

    async def ask() -> int:
        server, _, name = url.rpartition("/")
        connection = await asyncpg.connect(f"{server}/postgres")
        try:
            count: int = await connection.fetchval(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1", name
            )
            return count
        finally:
            await connection.close()

    return asyncio.run(ask())


def _kib(size: float) -> str:
    return f"{size / 1024:.1f} KiB"


if __name__ == "__main__":
    main()
