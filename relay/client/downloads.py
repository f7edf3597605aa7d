"""One payload on its way from the relay: from where it was, over as many connections as it takes, and checked.

Where the SHA-256 is known (from the event, or from the relay), the last byte is shown only once all of them are right.
A blob that is still being uploaded is read along as it comes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from relay.client.api import Answer, Api
from relay.client.errors import Corrupted, TooLong
from relay.client.retries import PASSING_ERRORS, Retries
from relay.client.transport import Disconnected, Refused

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19})", re.ASCII)
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]{44}):")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A blob, as an event says it. `size` in bytes and `sha256` in hexadecimal digits may be left out there."""

    id: str
    size: int | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, data: Any) -> Reference | None:
        """What an event's data refers to; None: nothing, or nothing of this kind."""
        said = data.get("blob") if isinstance(data, dict) else None
        if not isinstance(said, dict) or not isinstance(said.get("id"), str) or not _ID.fullmatch(said["id"]):
            return None
        size, sha256 = said.get("size"), said.get("sha256")
        is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        digest = sha256.lower() if isinstance(sha256, str) and _SHA256.fullmatch(sha256.lower()) else None
        return cls(id=said["id"], size=size if is_size else None, sha256=digest)


class Download:
    """See the module.

    Args:
        path: below the API.
        size, sha256: of the whole, as far as they are known.
        max_bytes: more are not taken.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        retries: Retries,
        *,
        size: int | None = None,
        sha256: str | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.size = size
        self._api = api
        self._path = path
        self._retries = retries
        self._sha256 = sha256
        self._max_bytes = max_bytes
        self._require_room(size or 0)

    async def pieces(self, at: int, digest: hashlib._Hash) -> AsyncGenerator[bytes, None]:
        """The bytes from `at` on, as they come.

        Args:
            digest: has hashed those before.

        Raises:
            RelayError: the relay does not show it, or no more.
            Corrupted: the bytes have another SHA-256 than they should. The last one has not been shown.
            TooLong, Closed.
        """
        held = b""
        async with aclosing(self._received(at)) as received:
            async for piece in received:
                digest.update(piece)
                if shown := held + piece[:-1]:
                    yield shown
                held = piece[-1:]
        expected = self._sha256 or await self._asked()
        if expected is not None and digest.hexdigest() != expected:
            raise Corrupted(f"the SHA-256 of what came is {digest.hexdigest()}, not {expected}")
        if held:
            yield held

    async def _received(self, at: int) -> AsyncGenerator[bytes, None]:
        while self.size is None or at < self.size:
            try:
                async with aclosing(self._one_answer(at)) as answer:
                    async for piece in answer:
                        at += len(piece)
                        self._require_room(at)
                        self._retries.moved()
                        yield piece
                if self.size is None:
                    self.size = at
                elif at < self.size:
                    raise Disconnected(1006, f"the answer ended after {at} of {self.size} bytes")
            except PASSING_ERRORS as error:
                await self._retries.after(error, "a download was interrupted")

    async def _one_answer(self, at: int) -> AsyncGenerator[bytes, None]:
        """What one request brings, from this place on."""
        headers = {"Range": f"bytes={at}-"} if at else {}
        async with self._api.fetch(self._path, headers) as (answer, body):
            begins = self._begins(answer)
            if begins > at:
                raise Refused(502, f"the answer begins at {begins}, not at {at}")
            passed = at - begins  # what knows no ranges sends all of it again
            async for piece in body:
                fresh, passed = piece[passed:], max(0, passed - len(piece))
                if fresh:
                    yield fresh

    def _begins(self, answer: Answer) -> int:
        """Where the answer begins in the whole; and what it says of that."""
        self._sha256 = self._sha256 or _repr_digest(answer)
        if answer.status != 206:
            length = answer.headers.get("Content-Length", "")
            self._learn_size(int(length) if length.isdecimal() else None)
            return 0
        said = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if said is None:
            raise Refused(502, "an answer in parts does not say which")
        self._learn_size(int(said[2]))
        return int(said[1])

    def _learn_size(self, size: int | None) -> None:
        if size is None:
            return
        if self.size is not None and self.size != size:
            raise Corrupted(f"there are {size} bytes, and not {self.size}")
        self._require_room(size)
        self.size = size

    def _require_room(self, size: int) -> None:
        if self.size is not None and size > self.size:
            raise Corrupted(f"more than {self.size} bytes came")
        if self._max_bytes is not None and size > self._max_bytes:
            raise TooLong(f"at most {self._max_bytes} bytes are taken, this payload has {size} or more")

    async def _asked(self) -> str | None:
        """The SHA-256 that the relay has computed; None: it says none of this kind of payload."""
        if not self._path.startswith("blobs/"):
            return None
        while True:
            try:
                return _repr_digest(await self._api.send("HEAD", self._path, {}))
            except PASSING_ERRORS as error:
                await self._retries.after(error, "a digest cannot be asked for")


def _repr_digest(answer: Answer) -> str | None:
    """RFC 9530: in hexadecimal digits."""
    said = _DIGEST.search(answer.headers.get("Repr-Digest", ""))
    try:
        return None if said is None else base64.b64decode(said[1], validate=True).hex()
    except binascii.Error:
        return None


async def inline(payload: bytes, piece_bytes: int) -> AsyncIterator[bytes]:
    """A payload that has come with its event, as if it were downloaded."""
    for at in range(0, len(payload), piece_bytes):
        yield payload[at : at + piece_bytes]
