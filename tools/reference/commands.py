"""The command line, from its own help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from relay import cli
from tools.reference import markdown

_HEAD = """\
# The command line

What `starfish-relay COMMAND --help` says, of every command. Exit status: 0 done; 1 refused, or something is wrong
(the message says what, and what to do); 2 the words of the call are off; 75 the relay was not reached in time; 130
interrupted.

"""


def page() -> str:
    with _plain():
        tree = cli.parser(*cli.COMMANDS)
        parts = [_HEAD, markdown.block(tree.format_help(), "text")]
        for name, parser in commands(tree):
            parts.append(
                f"{'##' if ' ' not in name else '###'} {name}\n\n{markdown.block(parser.format_help(), 'text')}"
            )
    return "".join(parts)


def commands(tree: argparse.ArgumentParser, above: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All commands under a parser, and their actions, by the words that call them; a plural is not another one."""
    for branches in (one for one in tree._actions if isinstance(one, argparse._SubParsersAction)):
        seen = set[int]()
        for name, parser in branches.choices.items():
            if id(parser) not in seen:
                seen.add(id(parser))
                yield f"{above}{name}", parser
                yield from commands(parser, f"{above}{name} ")


@contextmanager
def _plain() -> Iterator[None]:
    """Help as wide as a page, without colours, whatever terminal this runs on."""
    before = dict(os.environ)
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}
    os.environ.pop("STARFISH_IDENTITY", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
