"""What `version` does. It loads nothing."""

from __future__ import annotations

import argparse

from relay import __version__
from relay.cli import words


def add_version(parser: argparse.ArgumentParser) -> None:
    words.command(parser, version, "starfish-relay version", storage=False)


def version(_options: argparse.Namespace) -> int:
    print(f"starfish-relay {__version__}")
    return 0


def guarded(command: words.Run, options: argparse.Namespace) -> int:
    return command(options)
