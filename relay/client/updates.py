"""An update on its way out: its bytes into the event if they are few, else into a blob that the event refers to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.client.errors import Corrupted, RelayError, SourceChanged
from relay.client.frames import Published
from relay.client.notes import Note
from relay.client.offloop import off_loop
from relay.client.payloads import Payloads
from relay.client.sources import Sendable, Source, opened
from relay.client.uploads import OnProgress, Progress, Wish

Publish = Callable[..., Awaitable[Published]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where an update goes, as `Site.publish` has it."""

    project: int
    kind: str
    to: str | list[str] | None
    run: int | None
    receipts: bool | None
    id: str | None

    def fields(self) -> dict[str, Any]:
        return {"to": self.to, "run": self.run, "receipts": self.receipts}


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What is to be sent. `state`: the directory for the note about it."""

    address: Address
    content: Sendable
    filename: str | None
    media_type: str | None
    state: str | os.PathLike[str] | None
    on_progress: OnProgress | None
    new_id: Callable[[], str]
    """An id for the event, if it was given none."""


async def send(
    update: Update,
    publish: Publish,
    payloads: Payloads,
    *,
    whose: str,
    inline_bytes: int,
    by_blob: Callable[[Source], Awaitable[Published]] | None = None,
) -> Published:
    """See `Site.send_update`.

    Args:
        whose: the relay and the site, for the note.
        inline_bytes: so many go into the event.
        by_blob: another way for the rest.
    """
    address = update.address
    async with opened(update.content) as source:
        if source.size > inline_bytes:
            if by_blob is not None:
                return await by_blob(source)
            return await _by_blob(update, source, publish, payloads, whose)
        payload = await source.read(0, source.size)
        published = await publish(address.project, address.kind, payload=payload, id=address.id, **address.fields())
        Progress(len(payload), update.on_progress).at(0, len(payload))
        return published


async def _by_blob(update: Update, source: Source, publish: Publish, payloads: Payloads, whose: str) -> Published:
    address = update.address
    content = await payloads.measure(source)
    wish = Wish(
        project=address.project,
        run=address.run,
        filename=source.name if update.filename is None else update.filename,
        media_type=update.media_type,
    )
    parts = [part.end for part in content.parts]
    about = [whose, address.project, address.kind, address.to, address.run, content.sha256, parts]
    async with noted(update, about, address.id or update.new_id()) as note:
        blob = await payloads.upload(source, content, wish, note, update.on_progress)
        data = {"blob": {"id": blob.id, "size": blob.size, "sha256": blob.sha256}}
        event = address.id or note.event
        return await publish(address.project, address.kind, data=data, id=event, **address.fields())


@asynccontextmanager
async def noted(update: Update, about: list[object], event: str) -> AsyncIterator[Note]:
    """The note about an upload. It stays if the block is cut short, by a cancellation or the end of the session."""
    note = await _note(update, about, event)
    try:
        yield note
        await off_loop(note.remove)
    except (RelayError, Corrupted, SourceChanged):
        await off_loop(note.remove)
        raise
    finally:
        note.close()


async def _note(update: Update, about: list[object], event: str) -> Note:
    if update.state is not None:
        return await off_loop(Note.open, Path(update.state), about, event)
    if isinstance(update.content, str | os.PathLike):
        with suppress(OSError):  # a directory that can only be read: this process alone can go on with it
            return await off_loop(Note.open, Path(update.content).parent, about, event)
    return Note(event)
