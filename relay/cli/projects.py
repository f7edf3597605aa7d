"""What the commands of `project` do."""

from __future__ import annotations

import argparse
import asyncio

from relay.cli import tables
from relay.cli.changing import node_for, operator
from relay.cli.named import project_named, user_named
from relay.cli.run import open_store
from relay.cli.words import action, actions
from relay.core import batches, projects
from relay.core.batches import Batch
from relay.core.model import JoinPolicy, JsonObject, Participant, Project, Role, Site, rfc3339
from relay.core.ports import Tx
from relay.core.run_states import common


def add_project(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    listing = action(
        among,
        "list",
        list_projects,
        "list projects, and how the newest batch of each stands",
        "starfish-relay project list --active\nstarfish-relay project list --owner anna --json",
    )
    listing.add_argument("--owner", metavar="NAME", help="only those that a site of this user coordinates")
    listing.add_argument("--active", action="store_true", help="only those with a batch that has not ended")
    tables.add_limit(listing)
    tables.add_json(listing)
    showing = action(
        among,
        "show",
        show_project,
        "show a project: its tasks, its members and how far each is, its newest batch",
        "starfish-relay project show 12",
    )
    showing.add_argument("project", metavar="PROJECT", help="its id or name")
    tables.add_json(showing, "an object")
    policy = action(
        among,
        "policy",
        set_policy,
        "say who gets into a project: who knows its name, who has an invitation, or whom its coordinator approves",
        "starfish-relay project policy 12              what it is\nstarfish-relay project policy 12 invitation",
    )
    policy.add_argument("project", metavar="PROJECT", help="its id or name")
    policy.add_argument("policy", nargs="?", choices=[one.value for one in JoinPolicy], help="left out: show it")


def set_policy(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            async with store.snapshot() as tx:
                project = await project_named(tx, options.project)
            if options.policy is not None:
                async with node_for(store, options) as node:
                    policy = JoinPolicy(options.policy)
                    project = await projects.update(node, operator(), project.id, join_policy=policy)
        print(project.join_policy)
        return 0

    return asyncio.run(run())


def list_projects(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store, store.snapshot() as tx:
            projects = await _chosen(tx, options)
            rows = [await _row(tx, project) for project in projects[-options.limit :]]
        columns = ("id", "name", "coordinator", "members", "online", "head", "batch", "status", "updated")
        tables.show_list(options, rows, columns, total=len(projects))
        return 0

    return asyncio.run(run())


async def _chosen(tx: Tx, options: argparse.Namespace) -> list[Project]:
    _, projects = await tx.projects.visible_to(None, limit=tables.MOST, skip=0)
    if options.owner is not None:
        owner = await user_named(tx, options.owner)
        sites = set(await tx.sites.ids_of_owner(owner.id))
        projects = [project for project in projects if project.site_id in sites]
    if options.active:
        projects = [project for project in projects if await batches.open_number(tx, project.id) is not None]
    return projects


async def _row(tx: Tx, project: Project) -> JsonObject:
    members = await tx.participants.of_project(project.id)
    sites = await tx.sites.many([member.site_id for member in members])
    return await _fields(tx, project, members, sites)


async def _fields(tx: Tx, project: Project, members: list[Participant], sites: dict[int, Site]) -> JsonObject:
    bounds = await tx.journal.bounds(project.id)
    assert bounds is not None  # a project has a journal
    coordinator = next((sites[member.site_id].name for member in members if member.role is Role.COORDINATOR), None)
    batch = await batches.find(tx, project.id, project.batch, lambda site: sites[site].connected)
    return {
        "id": project.id,
        "name": project.name,
        "description": project.description,
        "join_policy": project.join_policy.value,
        "coordinator": coordinator,
        "members": len(members),
        "online": sum(site.connected for site in sites.values()),
        "epoch": bounds.epoch,
        "oldest": bounds.oldest,
        "head": bounds.head,
        "batch": project.batch or None,
        "status": _status(batch),
        "created": rfc3339(project.created_us),
        "updated": rfc3339(project.updated_us),
    }


def _status(batch: Batch) -> str | None:
    """What all runs of the batch stand in; or the slowest, if they differ."""
    if batch.is_queued:
        return "Queued"
    if not batch.runs:
        return None
    status = common(run.status for run in batch.runs)
    return status.display if status is not None else f"from {min(run.status for run in batch.runs).display}"


def show_project(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store, store.snapshot() as tx:
            project = await project_named(tx, options.project)
            members = await tx.participants.of_project(project.id)
            sites = await tx.sites.many([member.site_id for member in members])
            record = await _fields(tx, project, members, sites)
            record["tasks"] = [_task(task) for task in project.tasks]
            record["members"] = await _members(tx, members, sites, record["head"])
            runs = await tx.runs.of_batch(project.id, project.batch)
            record["runs"] = [
                {
                    "id": run.id,
                    "site": sites[run.site_id].name if run.site_id in sites else run.site_uid,
                    "role": run.role.display,
                    "status": run.status.display,
                    "round": run.round,
                    "updated": rfc3339(run.updated_us),
                }
                for run in runs
            ]
        columns = {
            "tasks": ("seq", "model", "config"),
            "members": ("name", "uid", "role", "state", "acknowledged", "behind"),
            "runs": ("id", "site", "role", "status", "round", "updated"),
        }
        tables.show_record(options, record, columns)
        return 0

    return asyncio.run(run())


def _task(task: JsonObject) -> JsonObject:
    return {"seq": task.get("seq"), "model": task.get("model"), "config": task.get("config")}


async def _members(tx: Tx, members: list[Participant], sites: dict[int, Site], head: int) -> list[JsonObject]:
    reached = await tx.cursors.of_project(members[0].project_id) if members else {}
    return [
        {
            "name": sites[member.site_id].name,
            "uid": member.site_uid,
            "role": member.role.display,
            "state": "online" if sites[member.site_id].connected else "offline",
            "seen": rfc3339(sites[member.site_id].seen_us),
            "notes": member.notes,
            "joined": member.joined,
            "acknowledged": reached.get(member.site_id, member.joined),
            "behind": max(0, head - max(reached.get(member.site_id, 0), member.joined)),
        }
        for member in members
    ]
