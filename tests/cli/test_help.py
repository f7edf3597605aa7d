"""The words of the command line: every command teaches, and a call loads no more than it needs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator

import pytest

from relay.cli import COMMANDS, main, parser

HEAVY = ("starlette", "uvicorn", "databases", "sqlalchemy", "cryptography", "rich", "httpx", "relay.core", "db")
LOADED = """
import sys
from relay.cli import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    assert left.code == 0, left.code
print(" ".join(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


def leaves(branch: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of what can be called, once each, whatever other names they have."""
    below = [one for one in branch._actions if isinstance(one, argparse._SubParsersAction)]
    if not below:
        yield branch
    for actions in below:
        for one in dict.fromkeys(actions.choices.values()):
            yield from leaves(one)


@pytest.mark.parametrize("branch", list(leaves(parser(*COMMANDS))), ids=lambda branch: str(branch.prog))
def test_the_help_of_each_command_has_an_example_that_is_a_call(branch: argparse.ArgumentParser) -> None:
    assert branch.get_default("run"), "nothing is run"
    assert branch.description
    assert branch.epilog
    assert f" {branch.prog}" in branch.epilog


@pytest.mark.parametrize("call", [["--help"], ["--version"], ["version"]])
def test_help_and_version_load_nothing_that_takes_time(call: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(heavy=HEAVY), *call], check=True, capture_output=True, text=True
    )
    assert done.stdout
    assert done.stderr.strip() == ""


def test_an_unknown_command_is_answered_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["sight", "list"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert all(f"'{command.name}'" in said for command in COMMANDS)
