"""What the commands of `site` do, and the old router's job."""

from __future__ import annotations

import argparse
import asyncio

from rich.table import Table

from relay.cli.run import open_store, show
from relay.cli.words import action, actions, command
from relay.core import accounts
from relay.core.model import rfc3339
from relay.core.node import Node


def add_site(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    create = action(
        among,
        "create",
        create_site,
        "make a site and print its uid",
        'starfish-relay site create --owner anna --name "St. Anna"',
    )
    create.add_argument("--owner", metavar="NAME", required=True, help="the user that the site belongs to")
    create.add_argument("--name", metavar="N", required=True, help="unique, at most 100 characters")
    create.add_argument("--description", metavar="D", default="")
    create.add_argument("--uid", metavar="UID", help="a UUID; made if left out")


def add_runjob(parser: argparse.ArgumentParser) -> None:
    command(parser, run_job, "starfish-relay runjob check_site_status")
    parser.add_argument(
        "job", choices=["check_site_status"], help="check_site_status: list the sites and who is connected"
    )


def create_site(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            site = await accounts.create_site(
                store,
                owner=options.owner,
                uid=options.uid,
                name=options.name,
                description=options.description,
                now_us=Node.now_us(),
            )
        print(site.uid)
        return 0

    return asyncio.run(run())


def run_job(options: argparse.Namespace) -> int:
    """The old router's cron job. The relay keeps presence by itself; the job is there so that cron lines still work."""

    async def run() -> int:
        async with open_store(options) as store, store.snapshot() as tx:
            _, sites = await tx.sites.visible_to(None, limit=100_000, skip=0)
        table = Table("site", "uid", "status", "since")
        for site in sites:
            status = "Connected" if site.connected else "Disconnected"
            table.add_row(site.name, site.uid, status, rfc3339(site.seen_us)[:19] + "Z")
        show(table)
        return 0

    return asyncio.run(run())
