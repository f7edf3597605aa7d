"""One content on its way to the relay, by tus 1.0 (protocol, "Large payloads").

    short   one upload, from where the relay says it is
    long    parts, several at a time, which the relay then puts together

A cut costs what was on the wire. Each upload says its SHA-256 when it begins, and the relay compares at its end: what
has arrived damaged is sent again, a part at a time, at most `Limits.damage_tries` times. The note says which uploads
were begun by an earlier process.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import urlsplit

from relay.client.api import Answer, Api
from relay.client.errors import Corrupted, SourceChanged
from relay.client.limits import Limits
from relay.client.notes import Note
from relay.client.offloop import off_loop
from relay.client.retries import PASSING_ERRORS, Retries
from relay.client.sources import Content, Part, Source, hashed
from relay.client.transport import API, Refused

log = logging.getLogger(__name__)

BLOBS = "blobs/"
PIECE_BYTES = 256 * 1024
LEAST_REQUEST_BYTES = 64 * 1024
GROWTH = 8
WHOLE = "whole"
_TUS = {"Tus-Resumable": "1.0.0"}
_STREAM = "application/offset+octet-stream"
_ID = re.compile(r"[0-9a-f-]{36}", re.ASCII)
_GONE = frozenset({404, 410})
_MISMATCH = 460

OnProgress = Callable[[int, int], None]
"""Is told how many bytes of how many are done. It must not wait."""


class _Gone(Exception):
    """The relay knows the upload no more."""


class _Damaged(Exception):
    """The relay has other bytes than were announced, and has dropped them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a blob is to be, besides its bytes."""

    project: int
    run: int | None
    filename: str
    media_type: str | None


class Progress:
    """What was sent, over all parts; told when it grows."""

    def __init__(self, total: int, tell: OnProgress | None) -> None:
        self._total = total
        self._tell = tell
        self._sent: dict[int, int] = {}
        self._told = -1

    def at(self, place: int, sent: int) -> None:
        """So much of what begins at this place."""
        self._sent[place] = sent
        done = sum(self._sent.values())
        if self._tell is None or done <= self._told:
            return
        self._told = done
        try:
            self._tell(done, self._total)
        except Exception:
            log.exception("a callback for progress failed")


class Upload:
    """See the module. `new_retries` gives the patience for one transfer."""

    def __init__(
        self,
        api: Api,
        source: Source,
        content: Content,
        wish: Wish,
        note: Note,
        *,
        limits: Limits,
        new_retries: Callable[[], Retries],
        on_progress: OnProgress | None,
    ) -> None:
        self._api = api
        self._source = source
        self._content = content
        self._wish = wish
        self._note = note
        self._limits = limits
        self._new_retries = new_retries
        self._progress = Progress(content.size, on_progress)
        self._request_bytes = limits.request_bytes

    async def run(self) -> str:
        """The blob's id, once the relay has all of it.

        Raises:
            RelayError: the relay refused it.
            Corrupted, SourceChanged, Closed: see there.
        """
        if len(self._content.parts) == 1:
            return await self._bring(WHOLE, self._content.parts[0], {"Upload-Metadata": self._metadata()})
        for _ in range(self._limits.damage_tries):
            known = self._note.upload(WHOLE)
            if known is not None and await self._is_complete(known):
                self._progress.at(0, self._content.size)
                return known
            try:
                return await self._put_together(await self._bring_parts())
            except _Gone:
                log.warning("parts of an upload are gone: those are sent again")
        raise Corrupted("the parts of the upload were gone each time that they were to be put together")

    # --- parts

    async def _bring_parts(self) -> list[str]:
        turn = asyncio.Semaphore(self._limits.parallel_parts)

        async def bring(number: int, part: Part) -> str:
            async with turn:
                headers = {"Upload-Concat": "partial", "Upload-Metadata": _pairs(sha256=part.sha256)}
                return await self._bring(str(number), part, headers)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(bring(number, part), name="relay-upload-part")
                    for number, part in enumerate(self._content.parts)
                ]
        except BaseExceptionGroup as several:
            raise _first(several) from None
        return [task.result() for task in tasks]

    async def _put_together(self, parts: list[str]) -> str:
        """Raises `_Gone`: parts are not there, or not complete."""
        urls = " ".join(f"{API}{BLOBS}{part}" for part in parts)
        headers = {"Upload-Concat": f"final;{urls}", "Upload-Metadata": self._metadata()}
        retries = self._new_retries()
        while True:
            try:
                return await self._begin(WHOLE, headers)
            except PASSING_ERRORS as error:
                if isinstance(error, Refused) and error.status in (*_GONE, 400) and error.code is not None:
                    raise _Gone from None
                if isinstance(error, Refused) and error.status == _MISMATCH:
                    raise SourceChanged("its parts, as they were sent, are not the whole that was measured") from None
                await retries.after(error, "an upload is not put together yet")

    # --- one upload

    async def _bring(self, name: str, part: Part, headers: dict[str, str]) -> str:
        """Have the relay have this part; the upload's id."""
        for _ in range(self._limits.damage_tries):
            upload = self._note.upload(name)
            retries = self._new_retries()
            try:
                if upload is None:
                    upload = await self._begun(name, part, headers, retries)
                    await self._fill(upload, part, 0, retries)
                else:
                    await self._fill(upload, part, None, retries)
                return upload
            except _Gone:
                log.info("the relay knows an upload no more: it is begun anew")
            except _Damaged:
                log.warning("bytes have arrived damaged: sending %d bytes again", part.size)
                if await hashed(self._source, part.start, part.end) != part.sha256:
                    raise SourceChanged("it has other bytes than when it was measured") from None
            await off_loop(self._note.remember, name, "")
        raise Corrupted(f"what was uploaded arrived damaged, {self._limits.damage_tries} times")

    async def _begun(self, name: str, part: Part, headers: dict[str, str], retries: Retries) -> str:
        while True:
            try:
                return await self._begin(name, {**headers, "Upload-Length": str(part.size)})
            except PASSING_ERRORS as error:
                await retries.after(error, "an upload cannot begin")

    async def _begin(self, name: str, headers: dict[str, str]) -> str:
        answer = await self._api.send("POST", BLOBS, {**_TUS, **headers}, timeout_s=self._limits.finish_s)
        upload = urlsplit(answer.headers.get("Location", "")).path.rpartition("/")[2]
        if answer.status != 201 or not _ID.fullmatch(upload):
            raise Refused(502, "the answer to a creation says no upload")
        await off_loop(self._note.remember, name, upload)
        return upload

    async def _fill(self, upload: str, part: Part, offset: int | None, retries: Retries) -> None:
        """Send what is not there yet. After a cut the first request is a short one, and those after it grow: the relay
        may still have been at what came before when it told the offset, and would take none of it.

        Args:
            offset: where the upload is; None: the relay is to be asked.

        Raises:
            _Gone, _Damaged: it has to be begun anew.
        """
        reached, length = -1, self._request_bytes
        while True:
            try:
                if offset is None:
                    offset = await self._offset(upload)
                    length = LEAST_REQUEST_BYTES
                if offset > reached:
                    reached = offset
                    retries.moved()
                self._progress.at(part.start, min(offset, part.size))
                if offset >= part.size:
                    return
                length = min(length, self._request_bytes)
                offset = await self._write(upload, part, offset, length)
                length *= GROWTH
            except PASSING_ERRORS as error:
                offset = None
                if isinstance(error, Refused):
                    _raise_if_anew(error)
                    if self._may_halve(error, length):
                        continue
                await retries.after(error, "an upload was interrupted")

    async def _offset(self, upload: str) -> int:
        return _number(await self._api.send("HEAD", BLOBS + upload, _TUS, timeout_s=self._limits.finish_s))

    async def _is_complete(self, upload: str) -> bool:
        """An upload of which all is there is complete: the relay sees to it before it tells the offset."""
        retries = self._new_retries()
        while True:
            try:
                return await self._offset(upload) == self._content.size
            except PASSING_ERRORS as error:
                if isinstance(error, Refused) and error.status in (*_GONE, _MISMATCH):
                    return False
                await retries.after(error, "an upload cannot be looked at")

    async def _write(self, upload: str, part: Part, offset: int, length: int) -> int:
        length = min(length, part.size - offset)
        headers = {**_TUS, "Content-Type": _STREAM, "Upload-Offset": str(offset), "Content-Length": str(length)}
        async with aclosing(self._pieces(part, offset, offset + length)) as body:
            path = BLOBS + upload
            reached = _number(await self._api.send("PATCH", path, headers, body, timeout_s=self._limits.finish_s))
        if reached <= offset < part.size:
            raise Refused(502, f"the upload was at {offset}, and is at {reached} after {length} bytes more")
        return reached

    async def _pieces(self, part: Part, start: int, end: int) -> AsyncGenerator[bytes, None]:
        for at in range(start, end, PIECE_BYTES):
            length = min(PIECE_BYTES, end - at)
            yield await self._source.read(part.start + at, length)
            if at + length < part.size:
                self._progress.at(part.start, at + length)

    def _may_halve(self, refused: Refused, length: int) -> bool:
        """Something between takes no bodies as long as this. Other parts may have been told so meanwhile."""
        if refused.status != 413 or refused.code is not None or length <= LEAST_REQUEST_BYTES:
            return False
        self._request_bytes = min(self._request_bytes, max(LEAST_REQUEST_BYTES, length // 2))
        log.info("requests of more than %d bytes do not get through", self._request_bytes)
        return True

    def _metadata(self) -> str:
        wish = self._wish
        given = {
            "project": wish.project,
            "run": wish.run,
            "filename": wish.filename or None,
            "filetype": wish.media_type,
            "sha256": self._content.sha256,
        }
        return _pairs(**{name: value for name, value in given.items() if value is not None})


def _raise_if_anew(refused: Refused) -> None:
    if refused.status in _GONE:
        raise _Gone from None
    if refused.status == _MISMATCH:
        raise _Damaged from None


def _number(answer: Answer) -> int:
    said = answer.headers.get("Upload-Offset", "")
    if not said.isdecimal():
        raise Refused(502, "the answer says no offset")
    return int(said)


def _pairs(**pairs: object) -> str:
    """Upload-Metadata."""
    return ",".join(f"{key} {base64.b64encode(str(value).encode()).decode()}" for key, value in pairs.items())


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
