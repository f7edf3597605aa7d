"""A terminal with a shell, as a reader of the documents has it: typed into, read from, interrupted by Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

TIMEOUT_S = 60.0
_PROMPT = re.compile(r"^@@(\d+)@@\n", re.MULTILINE)


class Terminal:
    """One terminal, in a folder. `said` is all that was shown since the last command was typed."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        shown = {"PS1": r"@@$?@@\n", "PS2": "", "VIRTUAL_ENV_DISABLE_PROMPT": "1", "TERM": "dumb", "COLUMNS": "200"}
        shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
        self._shell = subprocess.Popen(
            shell, cwd=folder, env={**env, **shown}, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.said = ""
        self._until(_PROMPT)
        self.type("stty -echo cols 200")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the shell, and all that it has started."""
        for process in _children(self._shell.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._shell.kill()
        self._shell.wait()
        os.close(self._ours)

    def type(self, command: str) -> int:
        """A command, to its end. Returns its exit status."""
        self.begin(command)
        return self.ended()

    def begin(self, command: str) -> None:
        """A command that may go on."""
        self.said = ""
        os.write(self._ours, f"{command}\n".encode())

    def interrupt(self) -> int:
        """Ctrl-C. Returns the exit status of what was interrupted."""
        self.said = ""
        os.write(self._ours, b"\x03")
        return self.ended()

    def ended(self) -> int:
        """Wait for the prompt. Returns the exit status."""
        return int(self._until(_PROMPT)[1])

    def shows(self, line: str) -> None:
        """Wait for a line, in which `…` stands for anything."""
        words = r".*?".join(re.escape(part.rstrip()) for part in line.split("…"))
        self._until(re.compile(rf"^{words}\s*$", re.MULTILINE))

    def _until(self, words: re.Pattern[str]) -> re.Match[str]:
        deadline = time.monotonic() + TIMEOUT_S
        while (found := words.search(self.said)) is None:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError(f"{words.pattern!r} was not shown within {TIMEOUT_S:.0f} s:\n{self.said}")
            self.said += os.read(self._ours, 65536).decode(errors="replace").replace("\r", "")
        return found


def _children(pid: int) -> list[int]:
    """All processes under one."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    below = [child for child, parent in parents if parent == pid]
    return [*below, *(one for child in below for one in _children(child))]
