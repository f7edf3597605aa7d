"""B8: thousands of sites drop and return at once; and one site comes back to a long backlog."""

from __future__ import annotations

import statistics
from contextlib import ExitStack

from benchmarks import lines
from benchmarks.harness import Failed, Report, options
from benchmarks.load import Crowd, Latecomer
from benchmarks.processes import Remote, cpu_s
from benchmarks.realm import relay_with
from tests.support.postgres import Postgres

TEAM = 19


def main() -> None:
    with Postgres() as server:
        databases = {"SQLite": None, "PostgreSQL": server.create_database()}
        storm = Report(
            title="B8  reconnect storm: all sites drop, and return at once",
            columns=("", "sites", "until all are live", "sites/s", "refused, came again", "server CPU", "CPU a return"),
        )
        backlog = Report(
            title="B8  backlog of one site, 300 B an event",
            columns=("", "events", "from connecting to the last", "events/s"),
        )
        for name, url in databases.items():
            _backlog(backlog, name, url)
        backlog.say()
        databases["PostgreSQL"] = server.create_database()
        for name, url in databases.items():
            _storm(storm, name, url)
        storm.say()


def _storm(report: Report, name: str, url: str | None) -> None:
    sites = options().pick(5_000, 100)
    with relay_with(*(TEAM,) * (sites // (TEAM + 1)), database_url=url) as (relay, teams):
        crowd = [lines.relay(relay, seat) for team in teams for seat in team.seats]
        with Remote(Crowd, crowd) as load:
            load.call("open")
            figures: list[tuple[float, int, float]] = []
            for _ in range(options().pick(3, 1)):
                used_s = cpu_s(relay.pid)
                try:
                    seconds, refused = load.call("storm")
                except Failed as error:
                    report.unmeasured(f"{name}: all {sites:,} live again in ≤ 15 s", str(error))
                    return
                figures.append((seconds, refused, (cpu_s(relay.pid) - used_s) / seconds))
    seconds, refused, busy = (statistics.median(one) for one in zip(*figures, strict=True))
    report.row(
        name,
        f"{sites:,}",
        f"{seconds:.1f} s",
        f"{sites / seconds:,.0f}",
        f"{refused:.0f}",
        f"{busy:.0%}",
        f"{busy * seconds / sites * 1e3:.1f} ms",
    )
    report.at_most(f"{name}: all live again in ≤ 15 s", 15, seconds, f"{seconds:.1f} s")


def _backlog(report: Report, name: str, url: str | None) -> None:
    events = options().pick(10_000, 500)
    with ExitStack() as stack:
        relay, (team,) = stack.enter_context(relay_with(1, database_url=url, backlog=events))
        load = stack.enter_context(Remote(Latecomer, lines.relay(relay, team.participants[0])))
        seconds = statistics.median(load.call("read", events) for _ in range(options().pick(5, 1)))
    report.row(name, f"{events:,}", f"{seconds:.2f} s", f"{events / seconds:,.0f}")
    report.at_most(f"{name}: {events:,} events in ≤ 1 s", 1, seconds, f"{seconds:.2f} s")


if __name__ == "__main__":
    main()
