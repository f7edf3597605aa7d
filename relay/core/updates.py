"""What sites have published as updates, as files of their runs: for controllers that poll, and know only files.

A participant's update of a round is its `mid_artifacts`; the coordinator's is `artifacts` of every run of the batch
whose site may see it. The journal is read for it when somebody asks. An update counts in the round in which its run
stood when it was published, and of several in one round the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from relay.core import access, blobs, runs
from relay.core.access import Principal
from relay.core.file_ports import FileStore
from relay.core.model import Content, Entry, File, Kind, Participant, Role, Run
from relay.core.node import Node

NAMES = {"mid_artifacts": "mid-artifacts", "artifacts": "artifacts"}
"""Type of a file → what controllers call it."""


class _Place(msgspec.Struct):
    """Where a `run` event says that its run stands."""

    cur_seq: int
    round: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Update:
    entry: Entry
    task: str
    round: str


async def find(
    node: Node,
    files: FileStore,
    principal: Principal,
    run_id: int,
    type_: str,
    *,
    all_runs: bool,
    of: tuple[str, str] | None,
) -> list[File]:
    """The updates that are a run's files of a type, as `relay.core.files.find` has them; by run.

    Raises:
        ReplyError: `unknown_run`.
        StorageFull, StorageUnavailable: an inline payload could not be put where files are read from.
    """
    if type_ not in NAMES:
        return []
    run = await runs.visible(node, principal, run_id)
    async with node.store.snapshot() as tx:
        batch = await tx.runs.of_batch(run.project_id, run.batch)
        members = await tx.participants.of_project(run.project_id)
        entries = await tx.journal.of_batch(run.project_id, run.batch, (Kind.RUN, Kind.UPDATE))
    wanted = batch if all_runs and run.role is Role.COORDINATOR else [run]
    newest = {
        (receiver.id, update.entry.draft.run, update.task, update.round): (receiver, update)
        for update in _placed(entries, batch)
        if of in (None, (update.task, update.round))
        for receiver in _receivers(update.entry, type_, wanted, members)
    }
    contents = {offset: await _content(node, files, run.project_id, offset) for offset in _offsets(newest.values())}
    return [
        _file(receiver, type_, update, content)
        for receiver, update in sorted(newest.values(), key=lambda one: (one[0].id, one[1].entry.offset))
        if (content := contents[update.entry.offset or 0]) is not None
    ]


def _offsets(found: Iterable[tuple[Run, _Update]]) -> set[int]:
    return {update.entry.offset or 0 for _, update in found}


def _placed(entries: Iterable[Entry], batch: Sequence[Run]) -> Iterable[_Update]:
    """The updates with their task and round. Where the journal no longer says, the run's present ones."""
    places = {run.id: _Place(run.cur_seq, run.round) for run in batch}
    for entry in entries:
        run_id = entry.draft.run or 0
        if entry.draft.kind is Kind.RUN:
            places[run_id] = msgspec.json.decode(entry.draft.data or b"{}", type=_Place)
        elif run_id in places:
            place = places[run_id]
            yield _Update(entry=entry, task=str(place.cur_seq), round=str(place.round or 1))


def _receivers(entry: Entry, type_: str, wanted: Sequence[Run], members: Sequence[Participant]) -> list[Run]:
    """The runs, of those that are asked for, whose file an update is; each site's own rights count."""
    by_site = {member.site_id: member for member in members}
    sender = by_site.get(entry.draft.sender_id or 0)
    if sender is None or (type_ == "artifacts") != (sender.role is Role.COORDINATOR):
        return []
    return [
        run
        for run in wanted
        if (type_ == "artifacts" or run.id == entry.draft.run)
        and run.site_id in by_site
        and access.sees(run.site_id, by_site[run.site_id].role, entry.draft)
    ]


async def _content(node: Node, files: FileStore, project_id: int, offset: int) -> Content | None:
    """The bytes of an update, in the file store. None for a blob that is not complete, or gone."""
    async with node.store.snapshot() as tx:
        whole = await tx.journal.get(project_id, offset)
        reference = None if whole is None or whole.draft.data is None else blobs.reference_in(whole.draft.data)
        blob = None if reference is None else await tx.blobs.get(reference.id)
    if reference is not None:
        if blob is None or blob.sha256 is None or blob.size is None or not blob.is_complete:
            return None
        return Content(sha256=blob.sha256, size=blob.size)
    if whole is None:
        return None
    payload = whole.draft.data if whole.draft.payload is None else whole.draft.payload
    return await asyncio.to_thread(_put, files, payload or b"")


def _put(files: FileStore, payload: bytes) -> Content:
    """Where files are read from; no file names it, so it goes again by itself."""
    incoming = files.begin()
    try:
        incoming.write(payload)
        return incoming.keep()
    finally:
        incoming.discard()


def _file(run: Run, type_: str, update: _Update, content: Content) -> File:
    return File(
        id=update.entry.offset or 0,
        project_id=run.project_id,
        run_id=run.id,
        type=type_,
        task=update.task,
        round=update.round,
        name=f"{run.id}-{update.task}-{update.round}-{NAMES[type_]}",
        blob=update.entry.draft.id,
        sha256=content.sha256,
        size=content.size,
        created_us=update.entry.at_us,
    )
