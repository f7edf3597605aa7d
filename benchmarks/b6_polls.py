"""B6: polling controllers, over new connections with Basic credentials: `GET runs/active/` and heartbeats a second.

The site has 30 active runs; strangers have none, or 3,000. Beside it the least that the old server did for a request:
one check of a password hashed as by Django, on all cores. Measured as a whole it did 12 requests a second on two cores,
and its answers grew with everybody's runs.

Polls are asked in two ways: as controllers do, when an answer holds until something changes; and each with a query of
its own, so that every one is read from the database.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.harness import Report, options, ratio, take_turns
from benchmarks.polls import Controllers, PasswordChecks, polled_relay, request
from benchmarks.processes import Remote, cpu_s
from tests.support.postgres import Postgres

OWN = 30
OTHERS = 3_000
AT_ONCE = 16
ANEW = "runs/active/, read anew"
CLOCK_TICK_S = 0.01
"""Processor time is counted in these."""
OLD_SERVER = 12
"""Requests a second, known of it."""


@dataclass(kw_only=True, slots=True)
class Subject:
    """One kind of request to one relay. `cost_s` is processor time of the server, one figure a round."""

    name: str
    others: int
    load: Remote
    relay_pid: int
    count: int
    size: int = 0
    cost_s: list[float] = field(default_factory=list)
    load_busy: float = 0.0

    def measure(self) -> float:
        """Requests a second."""
        server_s, load_s = cpu_s(self.relay_pid), cpu_s(self.load.pid)
        seconds, self.size = self.load.call("run", self.count, AT_ONCE)
        self.cost_s.append(max(cpu_s(self.relay_pid) - server_s, CLOCK_TICK_S) / self.count)
        self.load_busy = (cpu_s(self.load.pid) - load_s) / seconds
        return float(self.count / seconds)


def main() -> None:
    with Postgres() as server:
        for name, database in (("SQLite", lambda: None), ("PostgreSQL", server.create_database)):
            _report(name, database)


def _report(name: str, new_database: Callable[[], str | None]) -> None:
    report = Report(
        title=f"B6  polls, {name}: {OWN} active runs of the site, a new connection for each request",
        columns=("", "runs of others", "requests/s", "× PBKDF2", "server CPU each", "answer", "load's CPU"),
    )
    with ExitStack() as stack:
        checks = stack.enter_context(Remote(PasswordChecks))
        subjects = [one for others in (0, OTHERS) for one in _subjects(stack, others, new_database())]
        for one in subjects:
            one.load.call("run", AT_ONCE, AT_ONCE)
        count = options().pick(20, 2)
        rates = take_turns(
            options().pick(5, 1), *(one.measure for one in subjects), lambda: count / checks.call("run", count)
        )
    for one, rate in sorted(zip(subjects, rates, strict=False), key=lambda pair: pair[0].name, reverse=True):
        report.row(*_cells(one, rate, rates[-1]))
    report.row("PBKDF2, on all cores", "", f"{statistics.median(rates[-1]):,.1f}", "", "", "", "")
    _goals(report, subjects, rates)
    report.say()


def _subjects(stack: ExitStack, others: int, database_url: str | None) -> list[Subject]:
    relay, uid = stack.enter_context(polled_relay(OWN, others, database_url))
    heartbeat = json.dumps({"uid": uid, "status": 1}).encode()
    asked = {
        "runs/active/": (request("GET", "runs/active/"), 200, 4_000),
        ANEW: (request("GET", "runs/active/?at=%d"), 200, 1_000),
        "heartbeat": (request("POST", "sites/heartbeat/", heartbeat), 202, 4_000),
    }
    return [
        Subject(
            name=name,
            others=others,
            load=stack.enter_context(Remote(Controllers, relay.port, message, expected)),
            relay_pid=relay.pid,
            count=options().pick(count, 40),
        )
        for name, (message, expected, count) in asked.items()
    ]


def _cells(one: Subject, rate: list[float], checks: list[float]) -> list[str]:
    return [
        one.name,
        f"{one.others:,}",
        f"{statistics.median(rate):,.0f}",
        f"{ratio(rate, checks):,.0f}",
        f"{statistics.median(one.cost_s) * 1e6:,.0f} µs",
        f"{one.size:,} B",
        f"{one.load_busy:.0%}",
    ]


def _goals(report: Report, subjects: list[Subject], rates: list[list[float]]) -> None:
    alone, among = subjects[: len(subjects) // 2], subjects[len(subjects) // 2 :]
    for one, rate in zip(among, rates[len(alone) :], strict=False):
        if one.name == ANEW:
            continue
        times, known = ratio(rate, rates[-1]), statistics.median(rate) / OLD_SERVER
        reached = f"{times:,.0f} × its least; {known:,.0f} × the {OLD_SERVER}/s that are known of it"
        report.at_least(f"{one.name}: ≥ 100 × the old server", 100, times, reached)
    for one, other in zip(alone, among, strict=True):
        grown = ratio(other.cost_s, one.cost_s)
        report.at_most(f"{one.name}: cost independent of others' runs (≤ 1.25 ×)", 1.25, grown, f"{grown:.2f} ×")


if __name__ == "__main__":
    main()
