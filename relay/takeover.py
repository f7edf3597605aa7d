"""Taking over from the old router: users with their passwords, sites, projects, runs and files, with the ids they have.

All of it is one transaction: it is taken whole, or nothing is. What is here already is left as it is, so that it can be
done again, and takes only what is new then. Contents go into the store before the rows that name them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from db import dumps, starfish
from db.audit import Audit
from db.connect import Database
from db.connection import Connection
from db.starfish import Old, Row, Taken
from db.store import Tx
from relay.blobs.local import LocalFiles
from relay.core.audit import make
from relay.core.audit_chain import Deed
from relay.core.change import new_epoch
from relay.core.files import LISTS
from relay.core.model import Blob, Content, NewFile
from relay.core.node import Node
from relay.core.ports import AlreadyThere

PIECE_BYTES = 1024 * 1024


class Conflict(Exception):
    """What is here already is not what the old router has under that id, or a relay serves. Nothing was taken."""


class _DryRun(Exception):
    """The transaction is to be rolled back: nobody asked for more than to see what it would do."""


@dataclass(kw_only=True, slots=True)
class Summary:
    """How many of each kind were taken, and how many were here. `remarks`: what is not as it was."""

    new: Counter[str] = field(default_factory=Counter)
    here: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)


async def take_over(old: Old, database: Database, files: LocalFiles, media: Path | None, *, dry: bool) -> Summary:
    """Take all that is new.

    Args:
        media: the old router's folder of artifacts; None leaves the files out.
        dry: only see what there is to do.

    Raises:
        Conflict: nothing was taken.
        StorageUnavailable: the same.
    """
    move = _Move(old, files, media, dry)
    try:
        with files.all_kept():
            async with database.transaction() as connection:
                if await dumps.used_by_others(connection):
                    raise Conflict("a relay, or a command of one, uses this database: stop it first")
                await move.run(connection)
                if dry:
                    raise _DryRun
    except _DryRun:
        pass
    except AlreadyThere as taken:
        raise Conflict(f"a name, or a uid, is taken here by something else: {taken}") from None
    return move.summary


class _Move:
    def __init__(self, old: Old, files: LocalFiles, media: Path | None, dry: bool) -> None:
        self._old = old
        self._files = files
        self._media = None if media is None else media.resolve()
        self._dry = dry
        self._users: dict[int, int] = {}
        self._contents: dict[Path, tuple[str, Content]] = {}
        self.summary = Summary()

    async def run(self, connection: Connection) -> None:
        taken, tx = Taken(connection), Tx(connection)
        await self._people(taken)
        await self._sites(taken)
        await self._projects(taken, tx)
        await self._members(taken)
        await self._runs(taken)
        if self._media is not None:
            for run in self._old.runs:
                await self._files_of(run, taken, tx)
        await taken.count_on()
        note = make(Node.now_us(), Deed.IMPORT, None, "storage", **dict(self.summary.new))
        await Audit(connection).append([note])

    async def _people(self, taken: Taken) -> None:
        here, free = await taken.named("users", "username"), await taken.ids("users")
        for old in self._old.users:
            if old["username"] not in here:
                kept = {} if old["id"] in free else {"id": old["id"]}
                here[old["username"]] = await taken.add("users", kept | starfish.user(old))
                self._count("users", True)
            else:
                self._count("users", False)
            self._users[old["id"]] = here[old["username"]]
        groups = await taken.named("groups", "name")
        ids = {}
        for old in self._old.groups:
            if old["name"] not in groups:
                groups[old["name"]] = await taken.add("groups", {"name": old["name"]})
            ids[old["id"]] = groups[old["name"]]
        for old in self._old.user_groups:
            await taken.join_group(self._users[old["user_id"]], ids[old["group_id"]])

    async def _sites(self, taken: Taken) -> None:
        here = {number: uid for uid, number in (await taken.named("sites", "uid")).items()}
        for old in self._old.sites:
            if self._is_here("sites", old, here, old["uid"]):
                continue
            await taken.add("sites", starfish.site(old, self._users[old["owner_id"]]))

    async def _projects(self, taken: Taken, tx: Tx) -> None:
        names = await taken.named("projects", "name")
        here = {number: name for name, number in names.items()}
        for old in self._old.projects:
            name = old["name"] if old["name"] and names.get(old["name"], old["id"]) == old["id"] else ""
            if not name:
                name = f"{old['name'] or 'project'} ({old['id']})"[-100:]
            if self._is_here("projects", old, here, name):
                continue
            if name != old["name"]:
                self.summary.remarks.append(f"project {old['id']} is now called {name!r}: names are unique here")
            names[name] = await taken.add("projects", starfish.project(old, name))
            await tx.journal.create(old["id"], new_epoch())

    async def _members(self, taken: Taken) -> None:
        here = dict.fromkeys(await taken.ids("participants"), "")
        for old in self._old.participants:
            if not self._is_here("participants", old, here, ""):
                await taken.add("participants", starfish.participant(old))

    async def _runs(self, taken: Taken) -> None:
        here = dict.fromkeys(await taken.ids("runs"), "")
        sites = {old["id"]: old["site_id"] for old in self._old.participants}
        for old in self._old.runs:
            if not self._is_here("runs", old, here, ""):
                await taken.add("runs", starfish.run(old, sites[old["participant_id"]]))

    def _is_here(self, what: str, old: Row, here: dict[int, str], called: str) -> bool:
        """Raises `Conflict` if another one has its id."""
        there = here.get(old["id"])
        if there is not None and there != called:
            raise Conflict(
                f"{what}: {old['id']} is {there!r} here, and {called!r} there: take over into an empty database"
            )
        self._count(what, there is None)
        return there is not None

    def _count(self, what: str, is_new: bool) -> None:
        (self.summary.new if is_new else self.summary.here)[what] += 1

    # --- files

    async def _files_of(self, old: Row, taken: Taken, tx: Tx) -> None:
        """The files that a run's lists name, of those below the folder that have the form of the old router's own."""
        names, added = await tx.files.names([old["id"]]), False
        run = await tx.runs.get(old["id"])
        assert run is not None
        lists: dict[str, list[Any]] = {column: list(getattr(run, column)) for column in LISTS.values()}
        for type_, column in LISTS.items():
            for said in old.get(column) or []:
                path = None if not isinstance(said, str) else self._found(said)
                if path is None:
                    self.summary.remarks.append(f"run {run.id}: {str(said)[:200]} is not in the folder")
                elif path.name in names:
                    self._count("files", False)
                else:
                    names.add(path.name)
                    lists[column].append(path.name)
                    added = True
                    self._count("files", True)
                    await self._add_file(path, type_, old, run.site_id, tx)
        if added:
            await taken.set_lists(run.id, lists)

    def _found(self, said: str) -> Path | None:
        """`…/RUN/TASK/ROUND/NAME`, below the folder and nowhere else."""
        assert self._media is not None
        parts = PurePosixPath(said).parts[-4:]
        if len(parts) < 4 or any(part in ("..", "/") for part in parts):
            return None
        path = self._media.joinpath(*parts).resolve()
        return path if path.is_file() and path.is_relative_to(self._media) else None

    async def _add_file(self, path: Path, type_: str, old: Row, site_id: int, tx: Tx) -> None:
        if self._dry:
            return
        blob, content = await self._blob(path, old, site_id, tx)
        file = NewFile(
            project_id=old["project_id"],
            run_id=old["id"],
            type=type_,
            task=path.parts[-3],
            round=path.parts[-2],
            name=path.name,
            blob=blob,
            sha256=content.sha256,
            size=content.size,
        )
        await tx.files.create([file], Node.now_us())

    async def _blob(self, path: Path, old: Row, site_id: int, tx: Tx) -> tuple[str, Content]:
        """Runs that name the same file share its blob."""
        if path not in self._contents:
            content = await asyncio.to_thread(_keep, self._files, path)
            blob = Blob(
                id=str(uuid.uuid4()),
                project_id=old["project_id"],
                site_id=site_id,
                run=old["id"],
                filename=path.name,
                size=content.size,
                sha256=content.sha256,
                is_complete=True,
                created_us=Node.now_us(),
            )
            await tx.blobs.create(blob)
            self._contents[path] = (blob.id, content)
        return self._contents[path]


def _keep(files: LocalFiles, path: Path) -> Content:
    incoming = files.begin()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                incoming.write(piece)
        return incoming.keep()
    finally:
        incoming.discard()
