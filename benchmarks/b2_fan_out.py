"""B2: one coordinator's durable events to 100 and to 1,000 sites. The peers store nothing and ask no rules."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks import lines, peers
from benchmarks.harness import Report, options, ratio
from benchmarks.lines import Line
from benchmarks.load import Exchange
from benchmarks.processes import Remote, bare_server, cpu_s
from benchmarks.realm import relay_with

WINDOW = 64
"""Messages of the one publisher that are unanswered at once."""
RELAY, BARE, SOCKETIO, NATS = (
    "starfish-relay, durable",
    "websockets broadcast()",
    "python-socketio",
    "NATS over WebSocket",
)


class Subject:
    """One server with its load. Each `measure` adds a figure to each list."""

    def __init__(self, name: str, pid: int, publisher: Line, subscribers: Sequence[Line], events: int) -> None:
        self.name = name
        self.load = Remote(Exchange, [publisher], subscribers, len(subscribers))
        self.rates: list[float] = []
        self.server_us: list[float] = []
        self.busy: list[tuple[float, float]] = []
        self._pid = pid
        self._events = events
        self._deliveries = events * len(subscribers)

    def measure(self) -> None:
        server_s, load_s = cpu_s(self._pid), cpu_s(self.load.pid)
        seconds = self.load.call("run", self._events, WINDOW)
        server_s, load_s = cpu_s(self._pid) - server_s, cpu_s(self.load.pid) - load_s
        self.rates.append(self._deliveries / seconds)
        self.server_us.append(server_s / self._deliveries * 1e6)
        self.busy.append((server_s / seconds, load_s / seconds))


def main() -> None:
    for sites, events in ((100, options().pick(1_000, 20)), (options().pick(1_000, 200), options().pick(100, 10))):
        report = Report(
            title=f"B2  fan-out 1 → {sites:,}, 300 B, {WINDOW} in flight",
            columns=("", "deliveries/s", "relay is", "server CPU a delivery", "server CPU", "load CPU"),
        )
        with ExitStack() as stack:
            subjects = list(_subjects(stack, report, sites, events))
            _measure(subjects)
        _judge(report, {subject.name: subject for subject in subjects})
        report.say()


def _subjects(stack: ExitStack, report: Report, sites: int, events: int) -> Iterator[Subject]:
    relay, (team,) = stack.enter_context(relay_with(sites))
    own = [lines.relay(relay, seat) for seat in team.participants]
    yield Subject(RELAY, relay.pid, lines.relay(relay, team.coordinator, kind="command"), own, events)
    bare = stack.enter_context(bare_server())
    yield Subject(
        BARE, bare.pid, lines.bare(bare.url, "/publish"), [lines.bare(bare.url, "/subscribe")] * sites, events
    )
    try:
        socketio = stack.enter_context(peers.socketio())
        nats = stack.enter_context(peers.nats())
    except peers.Missing as missing:
        report.notes.append(f"python-socketio and NATS: {missing}")
        return
    line = lines.socketio(socketio.url)
    yield Subject(SOCKETIO, socketio.pid, line, [line] * sites, events)
    line = lines.nats(nats.url)
    yield Subject(NATS, nats.pid, line, [line] * sites, events)


def _measure(subjects: Sequence[Subject]) -> None:
    with ExitStack() as stack:
        for subject in subjects:
            stack.enter_context(subject.load).call("open")
            subject.load.call("run", 5, WINDOW)
        for _ in range(options().pick(5, 1)):
            for subject in subjects:
                subject.measure()


def _judge(report: Report, subjects: dict[str, Subject]) -> None:
    ours = subjects[RELAY]
    ratios = {name: ratio(ours.rates, subject.rates) for name, subject in subjects.items()}
    for name, subject in subjects.items():
        server, load = (statistics.median(one) for one in zip(*subject.busy, strict=True))
        report.row(
            name,
            f"{statistics.median(subject.rates):,.0f}",
            "" if subject is ours else f"{ratios[name]:.2f} ×",
            f"{statistics.median(subject.server_us):.1f} µs",
            f"{server:.0%}",
            f"{load:.0%}",
        )
    for wanted, limit, name in (("≥ broadcast()", 1, BARE), ("≥ 3 × python-socketio", 3, SOCKETIO)):
        if name in ratios:
            report.at_least(wanted, limit, ratios[name], f"{ratios[name]:.2f} ×")
        else:
            report.unmeasured(wanted, "the peer is missing")


if __name__ == "__main__":
    main()
