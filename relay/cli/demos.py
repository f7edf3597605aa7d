"""What `demo` does."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from relay.cli.run import fail
from relay.cli.words import command


def add_demo(parser: argparse.ArgumentParser) -> None:
    command(parser, demo, "starfish-relay demo\nstarfish-relay demo --rounds 10 --json", storage=False)
    parser.add_argument("--rounds", metavar="N", type=int, default=5, help="rounds of federated averaging (default: 5)")
    parser.add_argument(
        "--plain", action="store_true", help="seal nothing: the relay can then read what the sites send"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")


def demo(options: argparse.Namespace) -> int:
    missing = [name for name in ("sklearn", "cryptography", "pyrage") if find_spec(name) is None]
    if missing:
        return fail(f"the demo needs {', '.join(missing)}, not installed here", "pip install 'starfish-relay[demo]'")
    from relay.demo import main

    return main(rounds=options.rounds, as_json=options.json, plain=options.plain)
