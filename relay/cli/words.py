"""What the parsers of the commands share: the words of a call, and an example under the help of each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[argparse.Namespace], int]
"""What a command does. Its exit status comes back."""


def actions(parser: argparse.ArgumentParser) -> Any:
    """Where the actions of a command such as `site` are added, by `action`."""
    return parser.add_subparsers(required=True, metavar="ACTION")


def action(
    among: Any, name: str, run: Run, help_: str, example: str, *, storage: bool = True, aliases: tuple[str, ...] = ()
) -> argparse.ArgumentParser:
    """Add an action of a command. `storage`: it works on the relay's own data, and is told where that is."""
    parser: argparse.ArgumentParser = among.add_parser(name, help=help_, description=sentence(help_), aliases=aliases)
    return command(parser, run, example, storage=storage)


def command(
    parser: argparse.ArgumentParser, run: Run, example: str, *, storage: bool = True
) -> argparse.ArgumentParser:
    """Make of a parser that of a command that has no actions."""
    parser.set_defaults(run=run)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    if storage:
        add_storage(parser)
    lines = example.strip("\n").splitlines()
    several = sum(not line.startswith(" ") for line in lines) > 1
    parser.epilog = "\n".join(["examples:" if several else "example:", *(f"  {line}" for line in lines)])
    return parser


def add_storage(parser: argparse.ArgumentParser) -> None:
    """The words that say where the relay's data is."""
    group = parser.add_argument_group("where the data is")
    group.add_argument(
        "--database-url", metavar="URL", help="sqlite:///file or postgresql://… (default: $DATABASE_URL)"
    )
    group.add_argument("--data-dir", metavar="DIR", type=Path, help="default: $STARFISH_DATA_DIR, or ./data")


def sentence(help_: str) -> str:
    return help_[0].upper() + help_[1:] + "."


def positive(given: str) -> int:
    """The type of an id. Raises `ArgumentTypeError`."""
    if not given.isdecimal() or not 1 <= int(given) < 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {given[:40]!r}")
    return int(given)


def between(least: int, most: int) -> Callable[[str], int]:
    """The type of a number that has bounds. It raises `ArgumentTypeError`."""

    def read(given: str) -> int:
        if not given.isdecimal() or len(given) > 18 or not least <= int(given) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {given[:40]!r}")
        return int(given)

    return read
