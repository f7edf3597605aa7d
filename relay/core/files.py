"""The files of runs: logs, intermediate and final artifacts that controllers upload and download.

The bytes are in the file store before a row names them, and the rows, the run's list and the `file` events are one
transaction: a file is there for everybody, or for nobody. What is called what is decided here; nothing that a request
says is ever a path.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import string
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from relay.core import access, runs
from relay.core.access import Principal
from relay.core.audit_chain import Deed
from relay.core.change import Change, own_event
from relay.core.file_ports import Incoming
from relay.core.model import Blob, Content, File, JsonObject, Kind, NewFile, Role, Run
from relay.core.node import Node
from relay.protocol.errors import ErrorCode, ReplyError, invalid

LISTS = {"artifacts": "artifacts", "logs": "logs", "mid_artifacts": "middle_artifacts"}
"""Type of a file → the list of its run that names it."""

NAME_LENGTH = 100

_TOKEN = re.compile(r"\w{1,32}", re.ASCII)
_UNWANTED = re.compile(r"[^\w.-]", re.ASCII)
_SUFFIX = string.ascii_letters + string.digits


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrived:
    """A file that has come in whole, and is not kept yet. `name` is what the client calls it."""

    type: str
    name: str
    incoming: Incoming


async def add(
    node: Node,
    principal: Principal,
    run_id: int,
    *,
    task: str,
    round_: str,
    arrived: Sequence[Arrived],
    quota_bytes: int = 0,
) -> None:
    """Give files to a run. The coordinator's artifacts (the global model) also reach all other runs of the batch.

    Args:
        quota_bytes: what all files of the project may take; 0 is no limit.

    Raises:
        ReplyError: `invalid`, `unknown_run`, `forbidden`, `too_large`; then nothing is kept.
        StorageFull, StorageUnavailable: so too.
    """
    task, round_ = number(task, "task_seq"), number(round_, "round_seq")
    names = [base_name(one.name) for one in arrived]
    await _refuse_early(node, principal, run_id, quota_bytes, sum(one.incoming.size for one in arrived))
    contents = [await asyncio.to_thread(one.incoming.keep) for one in arrived]
    async with node.change(*await runs.project_of(node, run_id)) as change:
        run, members = await runs.see(change, principal, run_id)
        change.note(
            Deed.FILE_WRITE, principal, f"run:{run_id}", files=len(arrived), bytes=sum(one.size for one in contents)
        )
        access.require_own_run(principal, run.site_id, members)
        batch = await change.tx.runs.of_batch(run.project_id, run.batch)
        taken = await change.tx.files.names([one.id for one in batch])
        new: list[tuple[Run, NewFile]] = []
        blobs: list[Blob] = []
        for one, name, content in zip(arrived, names, contents, strict=True):
            shared = one.type == "artifacts" and run.role is Role.COORDINATOR
            blob = _blob(run, name, content, change.now_us)
            blobs.append(blob)
            for receiver in batch if shared else [run]:
                stored = _free_name(f"{receiver.id}-{task}-{round_}-{name}", taken)
                taken.add(stored)
                new.append((receiver, _file(receiver, one.type, task, round_, stored, blob.id, content)))
        await _store(change, blobs, new, quota_bytes)


def number(given: str, field: str) -> str:
    """A task's or a round's number, in one spelling. Controllers send digits; a short word passes, a path does not.

    Raises:
        ReplyError: `invalid`.
    """
    if not _TOKEN.fullmatch(given):
        raise invalid(**{field: "a number"})
    return str(int(given)) if given.isdigit() else given


def base_name(given: str) -> str:
    """What a file is called, out of what the client says: the last part of it, of letters, digits, `.`, `-`, `_`.

    Raises:
        ReplyError: `invalid`, if nothing is left.
    """
    last = given.replace("\\", "/").rpartition("/")[2].strip().replace(" ", "_")
    name = _UNWANTED.sub("", last)
    if not name.strip("."):
        raise invalid(filename="a name for a file")
    return name[-NAME_LENGTH:]


def _free_name(wanted: str, taken: set[str]) -> str:
    """The name, or if the run has such a file already, the same with seven letters at the end of its stem."""
    stem, dot, extension = wanted.rpartition(".")
    if not dot:
        stem, extension = wanted, ""
    name = wanted
    while name in taken:
        suffix = "".join(secrets.choice(_SUFFIX) for _ in range(7))
        name = f"{stem}_{suffix}{dot}{extension}"
    return name


def _blob(run: Run, name: str, content: Content, now_us: int) -> Blob:
    """The upload as a blob, which whoever is told of it may read (`relay.core.blobs`); its copies are the same one."""
    return Blob(
        id=str(uuid.uuid4()),
        project_id=run.project_id,
        site_id=run.site_id,
        run=run.id,
        filename=name,
        size=content.size,
        sha256=content.sha256,
        is_complete=True,
        created_us=now_us,
    )


def _file(run: Run, type_: str, task: str, round_: str, name: str, blob: str, content: Content) -> NewFile:
    return NewFile(
        project_id=run.project_id,
        run_id=run.id,
        type=type_,
        task=task,
        round=round_,
        name=name,
        blob=blob,
        sha256=content.sha256,
        size=content.size,
    )


async def _refuse_early(node: Node, principal: Principal, run_id: int, quota_bytes: int, more_bytes: int) -> None:
    """Refuse what cannot be added before anything of it is kept."""
    run = await runs.visible(node, principal, run_id)
    async with node.store.snapshot() as tx:
        access.require_own_run(principal, run.site_id, await tx.participants.of_project(run.project_id))
        if quota_bytes:
            _require_room(await tx.blobs.size_of_project(run.project_id) + more_bytes, quota_bytes)


def _require_room(used_bytes: int, quota_bytes: int) -> None:
    if used_bytes > quota_bytes:
        raise ReplyError(ErrorCode.TOO_LARGE, f"the files of the project may take {quota_bytes} bytes")


async def _store(change: Change, blobs: Sequence[Blob], new: Sequence[tuple[Run, NewFile]], quota_bytes: int) -> None:
    """Rows, lists and events, in a change that holds the journal: uploads at once queue here and lose nothing."""
    for blob in blobs:
        await change.tx.blobs.create(blob)
    await change.tx.files.create([file for _, file in new], change.now_us)
    if quota_bytes:
        _require_room(await change.tx.blobs.size_of_project(new[0][1].project_id), quota_bytes)
    receivers = {run.id: run for run, _ in new}
    for run in receivers.values():
        lists: dict[str, list[object]] = {}
        for file in (file for receiver, file in new if receiver.id == run.id):
            column = LISTS[file.type]
            lists.setdefault(column, list(getattr(run, column))).append(file.name)
            _tell(change, run, file)
        await change.tx.runs.set_fields(run.id, lists, change.now_us)


def _tell(change: Change, run: Run, file: NewFile) -> None:
    data: JsonObject = {
        "run": run.id,
        "type": file.type,
        "task": _as_number(file.task),
        "round": _as_number(file.round),
        "name": file.name,
        "blob": {"id": file.blob, "size": file.size, "sha256": file.sha256},
    }
    event = own_event(
        Kind.FILE, data, audience=frozenset({run.site_id}), subject_id=run.site_id, run=run.id, batch=run.batch
    )
    change.tell(run.project_id, replace(event, blob=file.blob))


def _as_number(said: str) -> int | str:
    return int(said) if said.isdigit() else said


def note_read(node: Node, principal: Principal, run_id: int, found: Sequence[File]) -> None:
    """Record a download of files."""
    total = sum(file.size for file in found)
    node.audit.later(Deed.FILE_READ, principal, f"run:{run_id}", type=found[0].type, files=len(found), bytes=total)


async def find(
    node: Node, principal: Principal, run_id: int, type_: str, *, all_runs: bool, of: tuple[str, str] | None
) -> list[File]:
    """A run's files of a type, or with `all_runs`, for a coordinator's run, those of all runs of its batch.

    Args:
        of: task and round, as they were uploaded with; None is all of them.

    Raises:
        ReplyError: `unknown_run`.
    """
    run = await runs.visible(node, principal, run_id)
    async with node.store.snapshot() as tx:
        wanted = [run.id]
        if all_runs and run.role is Role.COORDINATOR:
            wanted = [one.id for one in await tx.runs.of_batch(run.project_id, run.batch)]
        return await tx.files.of_runs(wanted, type_, of)
