"""What the commands of `run` do: list and show runs, and stop or restart a batch."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from relay.cli import tables
from relay.cli.changing import is_wanted, node_for, operator
from relay.cli.named import project_named, run_numbered, user_named
from relay.cli.printed import printable
from relay.cli.run import fail, open_store
from relay.cli.words import Run as Command
from relay.cli.words import action, actions, between
from relay.core import batches, files, runs
from relay.core.access import Principal
from relay.core.model import JsonObject, Project, Run, rfc3339
from relay.core.node import Node
from relay.core.ports import Tx

Change = Callable[[Node, Principal, int, int], Awaitable[list[Run]]]


def add_run(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    _add_list(among)
    showing = action(
        among, "show", show_run, "show a run, its tasks and what it has written", "starfish-relay run show 88"
    )
    showing.add_argument("run_id", metavar="RUN", help="its id")
    tables.add_json(showing, "an object")
    _add_change(
        among,
        "stop",
        stop,
        "stop a batch: what has not ended goes to Pending Failed, and its sites are told at once",
        "starfish-relay run stop 12              the batch that runs or is queued\n"
        "starfish-relay run stop 12 --batch 3 --yes",
    )
    _add_change(
        among,
        "restart",
        restart,
        "begin a batch again: all its runs go to Standby, and its sites are told at once",
        "starfish-relay run restart 12           the last batch",
    )


def _add_list(among: Any) -> None:
    listing = action(
        among,
        "list",
        list_runs,
        "list runs: one for each site that takes part in a batch",
        "starfish-relay run list --active\nstarfish-relay run list --project 12 --batch 3 --json",
    )
    listing.add_argument("--project", metavar="PROJECT", help="of this project only, by its id or name")
    listing.add_argument("--batch", metavar="N", type=between(1, 2**31), help="of this batch only")
    listing.add_argument("--owner", metavar="NAME", help="of this user's sites only")
    listing.add_argument("--active", action="store_true", help="only those that have not ended")
    tables.add_limit(listing)
    tables.add_json(listing)


def _add_change(among: Any, name: str, run: Command, help_: str, example: str) -> None:
    parser = action(among, name, run, help_, example)
    parser.add_argument("project", metavar="PROJECT", help="its id or name")
    parser.add_argument("--batch", metavar="N", type=between(1, 2**31), help="another batch of it, by its number")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def list_runs(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store, store.snapshot() as tx:
            total, chosen = await _chosen(tx, options)
            rows = await _rows(tx, chosen[-options.limit :])
        columns = ("id", "project", "batch", "site", "role", "status", "round", "updated")
        tables.show_list(options, rows, columns, total=total)
        return 0

    return asyncio.run(run())


async def _chosen(tx: Tx, options: argparse.Namespace) -> tuple[int, list[Run]]:
    """How many there are, and at least as many of the newest as are to be shown."""
    if options.project is None and options.owner is None and options.batch is None and not options.active:
        total, _ = await tx.runs.visible_to(None, limit=0, skip=0)
        return await tx.runs.visible_to(None, limit=options.limit, skip=max(0, total - options.limit))
    found = await _of_projects(tx, options)
    if options.owner is not None:
        sites = set(await tx.sites.ids_of_owner((await user_named(tx, options.owner)).id))
        found = [run for run in found if run.site_id in sites]
    if options.batch is not None:
        found = [run for run in found if run.batch == options.batch]
    return len(found), found


async def _of_projects(tx: Tx, options: argparse.Namespace) -> list[Run]:
    if options.project is not None:
        project = await project_named(tx, options.project)
        return await tx.runs.of_project(project.id, active=True if options.active else None)
    if options.active:
        return await tx.runs.active_for(None)
    _, found = await tx.runs.visible_to(None, limit=tables.MOST, skip=0)
    return found


async def _rows(tx: Tx, found: Sequence[Run]) -> list[JsonObject]:
    projects = await tx.projects.many(sorted({run.project_id for run in found}))
    sites = await tx.sites.many(sorted({run.site_id for run in found}))
    names = {site.id: site.name for site in sites.values()}
    return [
        {
            "id": run.id,
            "project": projects[run.project_id].name,
            "project_id": run.project_id,
            "batch": run.batch,
            "site": names.get(run.site_id, run.site_uid),
            "site_uid": run.site_uid,
            "role": run.role.display,
            "status": run.status.display,
            "cur_seq": run.cur_seq,
            "round": run.round,
            "created": rfc3339(run.created_us),
            "updated": rfc3339(run.updated_us),
        }
        for run in found
    ]


def show_run(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store, store.snapshot() as tx:
            found = await run_numbered(tx, options.run_id)
            (record,) = await _rows(tx, [found])
            record["tasks"] = [
                {"seq": task.get("seq"), "model": task.get("model"), "config": task.get("config")}
                for task in found.tasks
            ]
            record["files"] = [
                {"name": file.name, "type": file.type, "bytes": file.size, "created": rfc3339(file.created_us)}
                for type_ in files.LISTS
                for file in await tx.files.of_runs([found.id], type_)
            ]
        columns = {"tasks": ("seq", "model", "config"), "files": ("name", "type", "bytes", "created")}
        tables.show_record(options, record, columns)
        return 0

    return asyncio.run(run())


# --- changing


def stop(options: argparse.Namespace) -> int:
    return _change(options, runs.stop, "stop", "stopped")


def restart(options: argparse.Namespace) -> int:
    return _change(options, runs.restart, "restart", "restarted")


def _change(options: argparse.Namespace, change: Change, verb: str, done: str) -> int:
    project, number = asyncio.run(_meant(options))
    if not number:
        return fail(f"project {project.id} has had no batch yet")
    what = f"batch {number} of project {project.id} ({printable(project.name)})"
    if not options.yes and not is_wanted(f"{verb} {what}?"):
        return fail(f"nothing was {done}")

    async def run() -> list[Run]:
        async with open_store(options) as store, node_for(store, options) as node:
            return await change(node, operator(), project.id, number)

    print(f"{done} {what}: {_summary(asyncio.run(run()))}")
    return 0


async def _meant(options: argparse.Namespace) -> tuple[Project, int]:
    """The batch that is named; else the one that is open, or was last. 0: there was none."""
    async with open_store(options, changes=False) as store, store.snapshot() as tx:
        project = await project_named(tx, options.project)
        return project, options.batch or await batches.open_number(tx, project.id) or project.batch


def _summary(after: Sequence[Run]) -> str:
    counts: dict[str, int] = {}
    for run in after:
        counts[run.status.display] = counts.get(run.status.display, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "no runs"
