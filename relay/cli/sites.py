"""What the commands of `site` do, and the old router's job. Whether a site is there is what a relay last wrote down."""

from __future__ import annotations

import argparse
import asyncio

from rich.table import Table

from relay.cli import tables
from relay.cli.named import project_named, site_named, user_named
from relay.cli.run import open_store, show
from relay.cli.words import action, actions, command
from relay.core import accounts
from relay.core.model import JsonObject, Participant, SigningKey, Site, Token, rfc3339
from relay.core.node import Node
from relay.core.ports import Tx


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
    listing = action(
        among,
        "list",
        list_sites,
        "list sites, and who was connected when this was last written down",
        "starfish-relay site list --active\nstarfish-relay site list --project 12 --json | jq -r '.[].uid'",
    )
    listing.add_argument("--project", metavar="PROJECT", help="members of this project only, by its id or name")
    listing.add_argument("--owner", metavar="NAME", help="of this user only")
    listing.add_argument("--active", action="store_true", help="only those that are connected")
    tables.add_limit(listing)
    tables.add_json(listing)
    showing = action(
        among,
        "show",
        show_site,
        "show a site: its projects, how far it is in each, and what it connects with",
        'starfish-relay site show "St. Anna"',
    )
    showing.add_argument("site", metavar="SITE", help="its uid or name")
    tables.add_json(showing, "an object")


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


def list_sites(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store, store.snapshot() as tx:
            sites = await _chosen(tx, options)
            owners = await _owners(tx)
            rows = [
                _row(site, owners) | {"projects": len(await tx.participants.of_site(site.id))}
                for site in sites[-options.limit :]
            ]
        columns = ("name", "uid", "owner", "state", "seen", "projects")
        tables.show_list(options, rows, columns, total=len(sites))
        return 0

    return asyncio.run(run())


async def _chosen(tx: Tx, options: argparse.Namespace) -> list[Site]:
    _, sites = await tx.sites.visible_to(None, limit=tables.MOST, skip=0)
    if options.project is not None:
        project = await project_named(tx, options.project)
        members = {member.site_id for member in await tx.participants.of_project(project.id)}
        sites = [site for site in sites if site.id in members]
    if options.owner is not None:
        owner = await user_named(tx, options.owner)
        sites = [site for site in sites if site.owner_id == owner.id]
    return [site for site in sites if site.connected] if options.active else sites


async def _owners(tx: Tx) -> dict[int, str]:
    _, users = await tx.users.page(limit=tables.MOST, skip=0)
    return {user.id: user.username for user in users}


def _row(site: Site, owners: dict[int, str]) -> JsonObject:
    return {
        "uid": site.uid,
        "name": site.name,
        "description": site.description,
        "owner": owners.get(site.owner_id, ""),
        "state": "online" if site.connected else "offline",
        "seen": rfc3339(site.seen_us),
        "created": rfc3339(site.created_us),
    }


def show_site(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store, store.snapshot() as tx:
            site = await site_named(tx, options.site)
            row = _row(site, await _owners(tx))
            row["projects"] = [await _part(tx, part) for part in await tx.participants.of_site(site.id)]
            row["tokens"] = [_credential(one) for one in await tx.tokens.of_site(site.id)]
            row["keys"] = [_credential(one) for one in await tx.signing_keys.of_site(site.id)]
        credential = ("id", "label", "created", "state")
        columns = {
            "projects": ("id", "name", "role", "acknowledged", "head", "behind"),
            "tokens": credential,
            "keys": credential,
        }
        tables.show_record(options, row, columns)
        return 0

    return asyncio.run(run())


async def _part(tx: Tx, part: Participant) -> JsonObject:
    project = await tx.projects.get(part.project_id)
    bounds = await tx.journal.bounds(part.project_id)
    assert project is not None and bounds is not None  # one snapshot: what takes part is there
    reached = (await tx.cursors.of_project(project.id)).get(part.site_id, part.joined)
    return {
        "id": project.id,
        "name": project.name,
        "role": part.role.display,
        "acknowledged": reached,
        "head": bounds.head,
        "behind": max(0, bounds.head - max(reached, part.joined)),
    }


def _credential(one: Token | SigningKey) -> JsonObject:
    expires_us = one.expires_us if isinstance(one, Token) else None
    gone = expires_us is not None and expires_us <= Node.now_us()
    state = "revoked" if one.revoked_us is not None else "expired" if gone else "good"
    return {"id": one.id, "label": one.label, "created": rfc3339(one.created_us), "state": state}


def run_job(options: argparse.Namespace) -> int:
    """The old router's cron job. The relay keeps presence by itself; the job is there so that cron lines still work."""

    async def run() -> int:
        async with open_store(options, changes=False) as store, store.snapshot() as tx:
            _, sites = await tx.sites.visible_to(None, limit=100_000, skip=0)
        table = Table("site", "uid", "status", "since")
        for site in sites:
            status = "Connected" if site.connected else "Disconnected"
            table.add_row(site.name, site.uid, status, rfc3339(site.seen_us)[:19] + "Z")
        show(table)
        return 0

    return asyncio.run(run())
