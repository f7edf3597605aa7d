"""What the parts share: the options, the machine's header, rounds that take turns, and reports with their goals."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
_reports: list[Report] = []


class Failed(Exception):
    """A measurement did not come to its end: something was lost, refused or too late. No figure is made of it."""


# --- options


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """`quick` is for trying that it all works: its figures mean nothing. `full` adds what takes long."""

    parts: tuple[str, ...] = ()
    quick: bool = False
    full: bool = False
    markdown: bool = False
    json: Path | None = None

    def pick(self, normal: int, quick: int) -> int:
        """A number of rounds, of sites, of events."""
        return quick if self.quick else normal


@cache
def options() -> Options:
    """This run's options, from its command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", help="b1, b2, …; all of them if none is named")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures mean nothing")
    parser.add_argument("--full", action="store_true", help="also what takes long, such as 10,000 idle sites")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    given = vars(parser.parse_args())
    return Options(**given | {"parts": tuple(given["parts"])})


# --- the machine


def print_header() -> None:
    """What the figures were measured on: they mean nothing without it."""
    for name, value in _machine().items():
        print(f"- {name}: {value}" if options().markdown else f"{name:>9}  {value}")
    print()


@cache
def _machine() -> dict[str, str]:
    packages = ("starfish-relay", "uvicorn", "uvloop", "websockets", "picows", "asyncpg")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.2f} before the start",
        "versions": f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


# --- measuring


def take_turns(rounds: int, *subjects: Callable[[], float]) -> list[list[float]]:
    """Measure each subject once a round, so that a noisy moment hits all of them. One list of figures a subject."""
    figures: list[list[float]] = [[] for _ in subjects]
    for _ in range(rounds):
        for of_subject, measure in zip(figures, subjects, strict=True):
            of_subject.append(measure())
    return figures


def ratio(subject: Iterable[float], peer: Iterable[float]) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(ours / theirs for ours, theirs in zip(subject, peer, strict=True))


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * percent / 100))]


# --- reports


@dataclass(frozen=True, slots=True)
class Goal:
    """`reached` in words, beside what was wanted. `met` is None where it could not be measured."""

    wanted: str
    reached: str
    met: bool | None


@dataclass(kw_only=True)
class Report:
    """One table with its goals. `say` prints it and keeps it for `--json`."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, *cells: str) -> None:
        self.rows.append(cells)

    def at_most(self, wanted: str, limit: float, value: float, shown: str) -> None:
        self.goals.append(Goal(wanted, shown, value <= limit))

    def at_least(self, wanted: str, limit: float, value: float, shown: str) -> None:
        self.goals.append(Goal(wanted, shown, value >= limit))

    def unmeasured(self, wanted: str, why: str) -> None:
        self.goals.append(Goal(wanted, f"not measured: {why}", None))

    def say(self) -> None:
        _reports.append(self)
        if options().markdown:
            print(_markdown(self))
        else:
            _print_rich(self)


_MARKS = {True: "met", False: "NOT MET", None: "open"}
_COLOURS = {True: "green", False: "red", None: "yellow"}


def _print_rich(report: Report) -> None:
    table = Table(title=report.title, title_justify="left", title_style="bold")
    for number, column in enumerate(report.columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for cells in report.rows:
        table.add_row(*cells)
    console.print(table)
    for goal in report.goals:
        mark = f"[{_COLOURS[goal.met]}]{_MARKS[goal.met]:>7}[/]"
        console.print(f"{mark}  {goal.wanted}: {goal.reached}")
    for line in report.notes:
        console.print(f"         {line}", style="dim")
    console.print()


def _markdown(report: Report) -> str:
    lines = [f"### {report.title}", "", "| " + " | ".join(report.columns) + " |"]
    lines.append("|---" + "|--:" * (len(report.columns) - 1) + "|")
    lines += ["| " + " | ".join(cells) + " |" for cells in report.rows]
    lines.append("")
    lines += [f"- {goal.wanted}: **{_MARKS[goal.met]}**, {goal.reached}" for goal in report.goals]
    lines += [f"- {line}" for line in report.notes]
    return "\n".join(lines) + "\n"


def note(text: str) -> None:
    """Progress, beside the results."""
    print(text, file=sys.stderr)


def write_json() -> None:
    """Everything that was said, for programs, if `--json` asks for it."""
    path = options().json
    if path is None:
        return
    body: dict[str, Any] = {
        "machine": _machine(),
        "reports": [
            {
                "title": report.title,
                "rows": [dict(zip(report.columns, cells, strict=True)) for cells in report.rows],
                "goals": [{"wanted": goal.wanted, "reached": goal.reached, "met": goal.met} for goal in report.goals],
                "notes": report.notes,
            }
            for report in _reports
        ],
    }
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
