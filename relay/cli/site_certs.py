"""What the commands of `site-cert` do."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from rich.table import Column, Table

from relay.cli.run import fail, open_store, show
from relay.cli.words import action, actions
from relay.core import site_certificates
from relay.core.model import rfc3339
from relay.core.node import Node
from relay.protocol.errors import invalid

MAX_FILE_BYTES = 64 * 1024
_UID = "0c6b8f6e-8f5c-4f63-9d0e-0f6d3a3c9a01"


def add_site_cert(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    adding = action(
        among,
        "add",
        add,
        "bind a site to a client certificate: it is let in with one of those that it is bound to, and not without",
        f"starfish-relay site-cert add --site {_UID} --cert site.pem --label controller",
    )
    adding.add_argument("--site", metavar="UID", required=True)
    adding.add_argument("--cert", metavar="FILE", required=True, help="PEM file; its first certificate is meant")
    adding.add_argument("--label", metavar="L", default="", help="what it is for, to tell certificates apart")
    listing = action(among, "list", list_certificates, "list what sites are bound to", "starfish-relay site-cert list")
    listing.add_argument("--site", metavar="UID", help="this site only")
    removing = action(
        among,
        "remove",
        remove,
        "unbind a certificate; a site that is bound to none any more is let in without",
        "starfish-relay site-cert remove 5f2c…77b0      its SHA-256, as `site-cert list` shows it",
    )
    removing.add_argument("sha256", metavar="SHA256")


def add(options: argparse.Namespace) -> int:
    with Path(options.cert).open("rb") as file:
        sha256 = site_certificates.fingerprint(file.read(MAX_FILE_BYTES))
    if len(options.label) > 100 or "\0" in options.label:
        raise invalid(label="at most 100 characters")

    async def run() -> int:
        async with open_store(options) as store:
            await site_certificates.add(
                store, site_uid=options.site, sha256=sha256, label=options.label, now_us=Node.now_us()
            )
        print(sha256)
        return 0

    return asyncio.run(run())


def list_certificates(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store:
            bound = await site_certificates.listing(store, options.site)
        table = Table(Column("sha256", no_wrap=True), "site", Column("uid", no_wrap=True), "label", "created")
        for one, site in bound:
            table.add_row(one.sha256, site.name, site.uid, one.label, rfc3339(one.created_us)[:19] + "Z")
        show(table)
        return 0

    return asyncio.run(run())


def remove(options: argparse.Namespace) -> int:
    sha256 = site_certificates.as_fingerprint(options.sha256)

    async def run() -> int:
        async with open_store(options) as store:
            sites, free = await site_certificates.remove(store, sha256, Node.now_us())
        if not sites:
            return fail("no site is bound to it", "`starfish-relay site-cert list` has those that sites are bound to")
        for site in sites:
            print(f"removed from {site.uid}" + (", which is let in without a certificate now" if site in free else ""))
        return 0

    return asyncio.run(run())
