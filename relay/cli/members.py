"""What the commands of `member` do: who takes part in a project, who asks to, who was removed; and put one out."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from relay.cli import tables
from relay.cli.changing import is_wanted, node_for, operator
from relay.cli.named import project_named, site_named
from relay.cli.printed import printable
from relay.cli.run import fail, open_store
from relay.cli.words import Run, action, actions
from relay.core import admission, membership
from relay.core.access import Principal
from relay.core.model import JsonObject, Project, rfc3339
from relay.core.node import Node
from relay.core.ports import Tx

Change = Callable[[Node, Principal, int, str], Awaitable[object]]


def add_member(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    listing = action(
        among,
        "list",
        list_members,
        "list who takes part in a project, who asks to, and who was removed and may not come back by itself",
        "starfish-relay member list 12\nstarfish-relay member list 12 --json",
    )
    listing.add_argument("project", metavar="PROJECT", help="its id or name")
    tables.add_limit(listing)
    tables.add_json(listing)
    _add_change(among, "remove", remove, "put a site out of a project, at once; it does not come back by itself")
    _add_change(among, "unbar", unbar, "let a site that was removed come back as the project's join policy says")
    _add_change(among, "approve", approve, "let in a site that asks to take part")
    _add_change(among, "promote", promote, "make a participant the coordinator; who was is a participant then")


def _add_change(among: Any, name: str, run: Run, help_: str) -> None:
    parser = action(among, name, run, help_, f"starfish-relay member {name} 12 5f0c8f0e-0c51-4b1e-9d5f-2b8b6f1f9a10")
    parser.add_argument("project", metavar="PROJECT", help="its id or name")
    parser.add_argument("site", metavar="SITE", help="its uid or name")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def list_members(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options) as store, store.snapshot() as tx:
            rows = await _rows(tx, await project_named(tx, options.project))
        columns = ("name", "uid", "standing", "state", "since", "notes")
        tables.show_list(options, rows[-options.limit :], columns, total=len(rows))
        return 0

    return asyncio.run(run())


async def _rows(tx: Tx, project: Project) -> list[JsonObject]:
    members = await tx.participants.of_project(project.id)
    waiting = await tx.admission.waiting(project.id, Node.now_us(), limit=admission.SHOWN)
    bars = await tx.admission.barred(project.id, limit=admission.SHOWN)
    found = [
        *((one.site_id, one.role.display, one.created_us, one.notes) for one in members),
        *((one.site_id, "asks to join", one.asked_us, one.notes) for one in waiting),
        *((one.site_id, "removed", one.since_us, "") for one in bars),
    ]
    sites = await tx.sites.many([site_id for site_id, *_ in found])
    return [
        {
            "name": sites[site_id].name,
            "uid": sites[site_id].uid,
            "standing": standing,
            "state": "online" if sites[site_id].connected else "offline",
            "since": rfc3339(since_us),
            "notes": notes,
        }
        for site_id, standing, since_us, notes in found
    ]


def remove(options: argparse.Namespace) -> int:
    return _change(options, membership.remove, "remove {} from {}", "removed {} from {}")


def unbar(options: argparse.Namespace) -> int:
    return _change(options, admission.unbar, "let {} come back to {}", "{} may come back to {}")


def approve(options: argparse.Namespace) -> int:
    return _change(options, admission.approve, "let {} into {}", "{} takes part in {}")


def promote(options: argparse.Namespace) -> int:
    return _change(options, membership.transfer, "make {} the coordinator of {}", "{} coordinates {}")


def _change(options: argparse.Namespace, change: Change, question: str, done: str) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            async with store.snapshot() as tx:
                project, site = await project_named(tx, options.project), await site_named(tx, options.site)
            names = printable(site.name), f"project {project.id} ({printable(project.name)})"
            if not options.yes and not is_wanted(f"{question.format(*names)}?"):
                return fail("nothing was changed")
            async with node_for(store, options) as node:
                await change(node, operator(), project.id, site.uid)
        print(done.format(*names))
        return 0

    return asyncio.run(run())
