"""Uploads and downloads that are larger than a test may hold in memory: made, sent, received and hashed in pieces."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

import httpx

PIECE = 256 * 1024
BOUNDARY = "a-boundary-of-a-test"


@dataclass(frozen=True, kw_only=True)
class Bulk:
    """A file of so many bytes, none like another's."""

    seed: int
    size: int

    def pieces(self) -> Iterator[bytes]:
        noise = random.Random(self.seed).randbytes(PIECE)
        for start in range(0, self.size, PIECE):
            yield (struct.pack(">Q", start) + noise[8:])[: self.size - start]

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()


def head_of(fields: Mapping[str, object], type_: str, filename: str) -> bytes:
    """A multipart form up to the content of its one file."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{fields[name]}\r\n' for name in fields
    ]
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{type_}"; filename="{filename}"\r\n\r\n'
    return "".join([*parts, file]).encode()


TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


async def upload(
    http: httpx.AsyncClient, authorization: str, run: int, place: tuple[int, int], type_: str, filename: str, bulk: Bulk
) -> httpx.Response:
    """Send a form with one file, as controllers do: its length said before."""
    head = head_of({"run": run, "task_seq": place[0], "round_seq": place[1]}, type_, filename)
    length = {"Content-Length": str(len(head) + bulk.size + len(TAIL))}

    async def body() -> AsyncIterator[bytes]:
        yield head
        for piece in bulk.pieces():
            yield piece
        yield TAIL

    headers = {"Authorization": authorization, **MULTIPART, **length}
    return await http.post("/runs-action/upload/", content=body(), headers=headers)


async def download(http: httpx.AsyncClient, authorization: str, query: str, sizes: Mapping[str, int]) -> dict[str, str]:
    """The files of a zip: name → SHA-256. `sizes` says how long each is that is to be in it."""
    async with http.stream(
        "GET", f"/runs-action/download/?{query}", headers={"Authorization": authorization}
    ) as answer:
        assert answer.status_code == 200, (await answer.aread())[:300]
        reader = _Reader(answer.aiter_bytes(PIECE))
        hashes = {}
        for _ in sizes:
            name = await _local_header(reader)
            hashes[name] = await reader.hash(sizes[name])
            await _descriptor(reader, sizes[name])
        await reader.rest()
        assert reader.read == int(answer.headers["content-length"])
    return hashes


class _Reader:
    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self.read = 0
        self._pieces = pieces
        self._held = b""

    async def exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            self._held += await anext(self._pieces)
        taken, self._held = self._held[:size], self._held[size:]
        self.read += size
        return taken

    async def hash(self, size: int) -> str:
        digest = hashlib.sha256()
        while size:
            if not self._held:
                self._held = await anext(self._pieces)
            taken, self._held = self._held[:size], self._held[size:]
            digest.update(taken)
            size -= len(taken)
            self.read += len(taken)
        return digest.hexdigest()

    async def rest(self) -> None:
        self.read += len(self._held)
        async for piece in self._pieces:
            self.read += len(piece)


_IS_STORED = 0
_HAS_DESCRIPTOR = 0x08


async def _local_header(reader: _Reader) -> str:
    """APPNOTE.TXT, 4.3.7."""
    signature, _, flags, method, _, _, _, _, _, name, extra = struct.unpack("<4sHHHHHIIIHH", await reader.exactly(30))
    assert (signature, method) == (b"PK\x03\x04", _IS_STORED)
    assert flags & _HAS_DESCRIPTOR
    shown = (await reader.exactly(name)).decode()
    await reader.exactly(extra)
    return shown


async def _descriptor(reader: _Reader, size: int) -> None:
    """APPNOTE.TXT, 4.3.9. Sizes have eight bytes in an entry that may be larger than four can say."""
    assert await reader.exactly(4) == b"PK\x07\x08"
    await reader.exactly(4)
    said = struct.unpack("<II", await reader.exactly(8))
    if said != (size, size):
        assert struct.unpack("<QQ", struct.pack("<II", *said) + await reader.exactly(8)) == (size, size)
