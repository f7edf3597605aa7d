"""How far a transfer is, on standard error: a bar on a terminal, a line for each 10 % elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

Show = Callable[[int, int], None]
"""Is told how many bytes of how many are done: the client's `on_progress`."""

STEP_PERCENT = 10


@contextmanager
def shown(what: str) -> Iterator[Show]:
    """A bar as long as the block lasts, if this is a terminal and `rich` is installed; lines otherwise."""
    progress = _bar() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else None
    if progress is None:
        yield Lines(what)
        return
    task = progress.add_task("connecting", total=None)
    begun = False

    def show(done: int, total: int) -> None:
        nonlocal begun
        if begun:
            progress.update(task, completed=done)
        else:  # what an earlier call has done is no part of the speed
            begun = True
            progress.reset(task, description=what, total=total, completed=done)

    with progress:
        yield show


def _bar() -> Progress | None:
    try:
        from rich import progress as parts
        from rich.console import Console
    except ModuleNotFoundError:  # it comes with the extra `server`
        return None
    return parts.Progress(
        parts.TextColumn("{task.description}", markup=False),
        parts.BarColumn(),
        parts.TaskProgressColumn(),
        parts.DownloadColumn(),
        parts.TransferSpeedColumn(),
        parts.TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class Lines:
    """One line at the beginning, which says from where it goes on, and one for each step that is reached after it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._step: int | None = None

    def __call__(self, done: int, total: int) -> None:
        percent = 100 if total == 0 else 100 * done // total
        step = percent // STEP_PERCENT
        if step != self._step:
            self._step = step
            print(f"{self._what}: {percent} %, {done} of {total} bytes", file=sys.stderr, flush=True)
