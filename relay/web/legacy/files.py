"""`runs-action/`: upload and download the files of runs, stop and restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from starlette.responses import Response, StreamingResponse
from zipstream import ZIP_STORED, ZipStream

from relay.core import files, runs, updates
from relay.core.file_ports import FileStore
from relay.core.model import File, Role
from relay.core.run_states import Status
from relay.protocol.errors import ErrorCode, ReplyError
from relay.web.legacy import bodies
from relay.web.legacy.answers import Answer, Refused, bad, not_found
from relay.web.legacy.door import Asked, View
from relay.web.legacy.fields import number
from relay.web.legacy.uploads import Upload, received

_PARAMS = ("run", "task_seq", "round_seq")


async def resources(asked: Asked) -> Answer:
    return Answer(body={name: asked.url(f"runs-action/{name}/") for name in ("upload", "download", "update")})


async def upload(asked: Asked) -> Answer:
    door = asked.door
    if bodies.media_type(asked.request) != bodies.MULTIPART:
        data = await asked.data()
        await _add(asked, Upload(fields=_strings(data)))
        return Answer()
    settings = door.settings
    async with received(
        asked.request,
        door.files,
        _PARAMS,
        max_bytes=settings.upload_bytes,
        max_files=settings.upload_files,
        stall_s=settings.upload_stall_s,
    ) as arrived:
        await _add(asked, arrived)
    return Answer()


def _strings(data: object) -> dict[str, str]:
    given = data if isinstance(data, dict) else {}
    return {name: str(given[name]) for name in _PARAMS if isinstance(given.get(name), str | int)}


async def _add(asked: Asked, arrived: Upload) -> None:
    """Give the files to the run, all or none of them."""
    run_id = number(arrived.fields.get("run", ""))
    task, round_ = arrived.fields.get("task_seq"), arrived.fields.get("round_seq")
    if run_id is None or not task or not round_:
        raise bad("Invalid uploaded  params")
    if not arrived.files:
        raise bad("Must at least upload one file")
    try:
        await files.add(
            asked.node,
            asked.principal,
            run_id,
            task=task,
            round_=round_,
            arrived=arrived.files,
            quota_bytes=asked.door.settings.project_bytes,
        )
    except ReplyError as error:
        raise bad("Invalid uploaded  params") if error.code is ErrorCode.INVALID else error from None


async def download(asked: Asked) -> Response:
    run_id, type_ = number(asked.query("run")), asked.query("type")
    if run_id is None or not type_:
        raise bad("Invalid download params")
    task, round_ = asked.query("task_seq"), asked.query("round_seq")
    all_runs = asked.query("all_runs") in ("1", "true", "True")
    of = (files.number(task, "task_seq"), files.number(round_, "round_seq")) if task and round_ else None
    wanted = (asked.principal, run_id, type_)
    found = await files.find(asked.node, *wanted, all_runs=all_runs, of=of)
    names = {file.name for file in found}
    published = await updates.find(asked.node, asked.door.files, *wanted, all_runs=all_runs, of=of)
    found += [file for file in published if file.name not in names]
    if not found:
        raise Refused(404, f"No files of {type_} found")
    files.note_read(asked.node, asked.principal, run_id, found)
    return _zip(asked.door.files, type_, found)


def _zip(store: FileStore, type_: str, found: Sequence[File]) -> Response:
    """The files in a zip that is made as it is sent: stored, not deflated, so that its length is known before."""
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    for file in found:
        archive.add(store.pieces(file.sha256), file.name, size=file.size)
    headers = {"Content-Disposition": f'attachment; filename="{type_}.zip"', "Content-Length": str(len(archive))}
    return StreamingResponse(_pieces(archive), headers=headers, media_type="application/zip")


async def _pieces(archive: ZipStream) -> AsyncIterator[bytes]:
    """The zip as it is made: in the few threads that read files, not in dozens, each of which would keep memory."""
    pieces = iter(archive)
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


_ACTIONS = {"stop": Status.PENDING_FAILED, "restart": Status.STANDBY}


async def update(asked: Asked) -> Answer:
    """Stop or restart: for a coordinator's run the whole batch. Its role is looked up; what is sent is not believed."""
    data = await asked.data()
    given = data if isinstance(data, dict) else {}
    action, run_id = given.get("action"), number(given.get("run"))
    if not isinstance(action, str) or action not in _ACTIONS:
        raise bad("action is invalid")
    if run_id is None:
        raise bad("run is invalid")
    run = await runs.visible(asked.node, asked.principal, run_id)
    for name, own in (("project", run.project_id), ("batch", run.batch)):
        if name in given and number(given[name]) != own:
            raise not_found()
    if run.role is Role.COORDINATOR:
        control = runs.stop if action == "stop" else runs.restart
        await control(asked.node, asked.principal, run.project_id, run.batch)
    else:
        status = _ACTIONS[action]
        await runs.move(asked.node, asked.principal, run.id, status, update_all=False, increase_round=False)
    return Answer(status=202)


VIEWS = [
    View(path="/runs-action/", name="Run Action List", handlers={"GET": resources}),
    View(path="/runs-action/upload/", name="Upload", handlers={"POST": upload}),
    View(path="/runs-action/download/", name="Download", handlers={"GET": download}),
    View(path="/runs-action/update/", name="Update", handlers={"PUT": update}),
]
