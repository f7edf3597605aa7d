"""The tutorial, done as it is written: its commands typed into its two terminals, in order, in an empty folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.documents import DOCS, ROOT, Block, blocks
from tests.support.ports import free_port
from tests.support.terminal import Terminal

TUTORIAL = DOCS / "tutorial.md"
INTERRUPTED = 130


class Reader:
    """Somebody with two terminals.

    Args:
        folder: where the clone is.
        port: the relay's, in the place of 8000, which may be in use.
    """

    def __init__(self, folder: Path, port: int, terminals: dict[str, Terminal]) -> None:
        self._folder = folder
        self._port = str(port)
        self._terminals = terminals

    def follow(self, block: Block) -> None:
        what, _, words = block.mark.partition(": ")
        text = block.text.replace("8000", self._port)
        match what:
            case "file":
                (self._folder / words).write_text(text)
            case "terminal":
                name, _, goes_on = words.partition(", ")
                self._type(self._terminals[name], text.splitlines(), goes_on=bool(goes_on))
            case _:
                assert what == "given", f"line {block.line}: a block is marked `terminal`, `file` or `given`"

    def _type(self, terminal: Terminal, lines: list[str], *, goes_on: bool) -> None:
        """Type the block's commands; of each, what the page shows has to be shown."""
        starts = [n for n, line in enumerate(lines) if line.startswith(("$ ", "^C"))]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            command, shown = lines[start], lines[start + 1 : end]
            if command == "^C":
                status = terminal.interrupt()
                assert status in (0, INTERRUPTED), terminal.said
            else:
                terminal.begin(command.removeprefix("$ "))
                if not (goes_on and end == len(lines)):
                    assert terminal.ended() == 0, f"{command}\n{terminal.said}"
            for line in shown:
                terminal.shows(line)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    for name, target in ((".venv", Path(sys.prefix)), ("examples", ROOT / "examples")):
        (tmp_path / name).symlink_to(target)
    port = free_port()
    foreign = ("STARFISH_", "DATABASE_", "VIRTUAL_", "PYTHONUNBUFFERED")  # unbuffered, two sites' lines would mix
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env = own | {"STARFISH_PORT": str(port)}
    with ExitStack() as stack:
        terminals = {name: stack.enter_context(Terminal(tmp_path, env)) for name in ("relay", "sites")}
        yield Reader(tmp_path, port, terminals)


def test_it_goes_as_it_is_written(reader: Reader, tmp_path: Path) -> None:
    for block in blocks(TUTORIAL):
        reader.follow(block)
    assert not (tmp_path / "data").exists()


def test_what_is_given_is_what_the_makefile_has() -> None:
    (given,) = (block.text for block in blocks(TUTORIAL) if block.mark.startswith("given: "))
    (target,) = (line.split()[-1] for line in given.splitlines() if line.startswith("$ make"))
    assert f"\n{target}: " in (ROOT / "Makefile").read_text()
