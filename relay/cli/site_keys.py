"""What the commands of `site-key` do."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from rich.table import Column, Table

from relay.cli.run import fail, open_store, show
from relay.cli.words import action, actions
from relay.core import signing_keys
from relay.core.model import rfc3339
from relay.core.node import Node
from relay.protocol.errors import invalid

MAX_FILE_BYTES = 16 * 1024
_UID = "0c6b8f6e-8f5c-4f63-9d0e-0f6d3a3c9a01"


def add_site_key(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    adding = action(
        among,
        "add",
        add,
        "register a site's public key and print its id",
        f"starfish-relay site-key add --site {_UID} --label controller site.pub.pem",
    )
    adding.add_argument("--site", metavar="UID", required=True)
    adding.add_argument("--label", metavar="L", default="", help="what it is for, to tell keys apart")
    adding.add_argument(
        "key", metavar="KEY", help="Ed25519: a PEM file, - for standard input, or its 32 bytes in base64"
    )
    listing = action(among, "list", list_keys, "list keys, and when each was last used", "starfish-relay site-key list")
    listing.add_argument("--site", metavar="UID", help="of this site only")
    revoking = action(
        among,
        "revoke",
        revoke,
        "revoke a key; the sessions it began are closed within 2 s",
        "starfish-relay site-key revoke 5f2c9a1e77b0      its id, as `site-key list` shows it",
    )
    revoking.add_argument("key", metavar="ID")


def add(options: argparse.Namespace) -> int:
    public_key = signing_keys.read_public_key(_text(options.key))
    if len(options.label) > 100 or "\0" in options.label:
        raise invalid(label="at most 100 characters")

    async def run() -> int:
        async with open_store(options) as store:
            key = await signing_keys.add(
                store, site_uid=options.site, public_key=public_key, label=options.label, now_us=Node.now_us()
            )
        print(key.id)
        return 0

    return asyncio.run(run())


def _text(given: str) -> str:
    """The key itself, out of a file if it names one."""
    if given == "-":
        return sys.stdin.read(MAX_FILE_BYTES)
    path = Path(given)
    if len(given) < 1000 and path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_FILE_BYTES)
    return given


def list_keys(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store:
            keys = await signing_keys.listing(store, options.site)
        table = Table(
            Column("id", no_wrap=True), "site", Column("uid", no_wrap=True), "label", "created", "used", "state"
        )
        for key, site in keys:
            state = "good" if key.revoked_us is None else "revoked"
            table.add_row(key.id, site.name, site.uid, key.label, _day(key.created_us), _day(key.used_us), state)
        show(table)
        return 0

    return asyncio.run(run())


def revoke(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            done = await signing_keys.revoke(store, options.key, Node.now_us())
        if not done:
            return fail("no such key, or it was revoked before", "`starfish-relay site-key list` has the ids")
        print("revoked")
        return 0

    return asyncio.run(run())


def _day(at_us: int | None) -> str:
    return "never" if at_us is None else rfc3339(at_us)[:19] + "Z"
