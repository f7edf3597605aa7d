"""What is shown while the demo runs: a live table in a terminal, plain lines elsewhere; and the result at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

STYLES = {
    "killed": "red",
    "back": "green",
    "Running": "yellow",
    "Pending Aggregating": "cyan",
    "Aggregating": "magenta",
    "Success": "green",
}


@dataclass(kw_only=True, slots=True)
class _Row:
    role: str
    status: str = "starting"
    polls: bool = False
    round: int | None = None
    done: float = 0
    of: float = 1
    """Epochs of the round's training, or bytes of a transfer."""
    loss: float | None = None
    accuracy: float | None = None
    path: list[str] = field(default_factory=list)
    """The statuses that the run has gone through in this round."""


class Display:
    """One line per site. News come as the coordinator tells them, with the sites' uids; `names` says who is who."""

    def __init__(self, console: Console, coordinator: str, participants: list[str], polling: str) -> None:
        self._console = console
        self._began = time.monotonic()
        self._rows = {coordinator: _Row(role="coordinator")}
        self._rows |= {name: _Row(role="participant", polls=name == polling) for name in participants}
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        seconds = time.monotonic() - self._began
        self._console.print(f"[dim]{seconds:5.1f} s[/]  {text}", highlight=False, soft_wrap=True)

    def mark(self, name: str, status: str) -> None:
        """Something that the relay does not know of: it stands in the status's place until there is another one."""
        self._rows[name].status = status
        self._refresh()

    def show(self, news: Mapping[str, Any], names: Mapping[str, str]) -> None:
        """What has become of a run, or how far a site's training is."""
        name = names[news["site"]]
        row = self._rows[name]
        if news["what"] == "run":
            row.status, row.round = news["status"], news["round"]
            if row.status == "Standby":
                row.done, row.path = 0, []
            row.path.append(row.status)
            if self._live is None and row.role == "participant" and row.status == "Pending Aggregating":
                figures = f"loss {_number(row.loss)}, accuracy {_number(row.accuracy)}"
                how = "(polls)" if row.polls else ""
                self.say(f"{name:<10} {how:<7}  round {row.round}: {figures}  [dim]{' > '.join(row.path)}[/]")
        elif news["what"] == "progress":
            row.done, row.of = news["epoch"], news["epochs"]
            row.loss, row.accuracy = news["loss"], news["accuracy"]
        elif news["what"] == "transfer":
            row.done, row.of = news["sent"], news["of"]
            row.status = "sending" if row.role == "coordinator" else "receiving"
        self._refresh()

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        widths = {"site": 16, "round": 5, "status": 19, "progress": 12, "loss": 5, "accuracy": 8}
        columns = [Column(title, min_width=width, no_wrap=True) for title, width in widths.items()]
        table = Table(*columns, box=SIMPLE_HEAD)
        for name, row in self._rows.items():
            trains = row.role == "participant"
            table.add_row(
                f"{name}{' [dim](polls)[/]' if row.polls else ''}" if trains else f"[bold]{name}[/]",
                str(row.round or ""),
                f"[{STYLES.get(row.status, 'default')}]{row.status}[/]",
                ProgressBar(total=row.of, completed=row.done, width=12) if trains or row.status == "sending" else "",
                _number(row.loss),
                _number(row.accuracy),
            )
        return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
