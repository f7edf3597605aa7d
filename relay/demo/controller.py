"""What the coordinator and the participants have in common: how they are started, and how a run is moved."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import uuid
from collections.abc import Awaitable, Callable

from relay.client import Interrupted, RelayError, Site
from relay.client.sealed import Identity
from relay.protocol.errors import ErrorCode

PROJECT = "breast-cancer"
TOKEN = "STARFISH_SITE_TOKEN"  # noqa: S105 - the name of the variable
"""The environment variable with the site's token: a command line can be read by everybody on the machine."""

USER = "demo"
"""The user that owns all sites of the demo."""
PASSWORD = "STARFISH_USER_PASSWORD"  # noqa: S105 - the name of the variable
"""The environment variable with the user's password, for what speaks the polling API."""

STEPS = 20
"""As often is told of a transfer how far it is."""

TIME_LIMIT_S = 120.0
"""A controller that has lost its stage ends by itself."""


def start(work: Callable[[Site, argparse.Namespace], Awaitable[None]], parser: argparse.ArgumentParser) -> None:
    """A controller's process: read the arguments, connect, work, leave."""
    parser.add_argument("--url", required=True, help="the relay")
    parser.add_argument("--identity", metavar="FILE", help="seal what is sent, by the identity in this file")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def run() -> None:
        identity = None if options.identity is None else Identity.load(options.identity)
        site = Site(options.url, token=os.environ[TOKEN], proxy=False, identity=identity)
        async with asyncio.timeout(TIME_LIMIT_S), site:
            await work(site, options)

    asyncio.run(run())


async def walk(site: Site, run: int, *path: str) -> None:
    """Take a run along a path of statuses, from wherever on it the run stands already.

    Safe to repeat, after a crash or a lost connection: a step that had been done is refused with `conflict`, and the
    details say where the run stands.

    Raises:
        RelayError: the run stands nowhere on the path.
    """
    for status in path:
        while True:
            try:
                await site.runs.status(run, status)
            except Interrupted:
                continue
            except RelayError as refusal:
                if refusal.code is not ErrorCode.CONFLICT or refusal.details.get("from") not in path:
                    raise
            break


def by_steps(tell: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """For `on_progress`: tells of each twentieth of a transfer, and no more."""
    told = -1

    def progress(done: int, total: int) -> None:
        nonlocal told
        if done * STEPS // total > told:
            told = done * STEPS // total
            tell(done, total)

    return progress


def event_id(*names: object) -> uuid.UUID:
    """The same id for the same thing, whichever process publishes it: so it is stored once."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "/".join(str(name) for name in names))
