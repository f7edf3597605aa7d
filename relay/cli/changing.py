"""Changes from the command line that go through the relay's own use cases, events included.

A relay that serves hears that its database has changed, and tells the sites.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relay import __version__
from relay.cli.run import operating_user, settings_of
from relay.core.access import Principal
from relay.core.node import Node
from relay.core.ports import Store


@asynccontextmanager
async def node_for(store: Store, options: argparse.Namespace) -> AsyncIterator[Node]:
    """The core without its doors, for one change; presence as a relay has last written it down."""
    node = Node(store, settings_of(options).limits, version=__version__, name="command-line")
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


def operator() -> Principal:
    """Who sits at the machine."""
    return Principal(user_id=0, sites=frozenset(), is_operator=True, is_local=True, name=operating_user())


def is_wanted(question: str) -> bool:
    """Ask, if there is somebody to be asked."""
    if not sys.stdin.isatty():
        return True
    try:
        return input(f"{question[0].upper()}{question[1:]} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
