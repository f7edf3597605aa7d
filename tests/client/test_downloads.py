"""Downloads from a server that answers as it should not; part files and notes that others have at the same time."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import BinaryIO

import pytest

from relay.client import notes
from relay.client.api import Api
from relay.client.credentials import Credentials
from relay.client.downloads import Download, Reference
from relay.client.errors import Closed, Corrupted, InUse, RelayError, TooLong
from relay.client.limits import Limits
from relay.client.notes import Note
from relay.client.partfile import PartFile
from relay.client.retries import Retries

LIMITS = Limits(backoff_s=0.001, backoff_max_s=0.002)
DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
DIGEST = {"Repr-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"}


def answer(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, length: int | None = None
) -> bytes:
    """As it goes over the wire."""
    given = {"Content-Length": str(len(body) if length is None else length), "Connection": "close", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + body


def part(start: int, body: bytes, size: int = len(DATA)) -> bytes:
    return answer(206, body, {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{size}"})


class Script:
    """A server with one answer for each request; the last one for all that follow."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.asked: list[str] = []
        self.over = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        await writer.drain()
        writer.close()

    def download(self, size: int | None = None, sha256: str | None = None, max_bytes: int | None = None) -> Download:
        retries = Retries(LIMITS, self.over, renewable=False)
        return Download(self.api, "blobs/1", retries, size=size, sha256=sha256, max_bytes=max_bytes)

    api: Api
    port: int


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    script = Script()
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    script.port = server.sockets[0].getsockname()[1]
    credentials = Credentials("a token", None, None, None, LIMITS)
    script.api = Api(f"http://127.0.0.1:{script.port}/", credentials, LIMITS, ssl=None, proxy=None)
    async with asyncio.timeout(20):
        yield script
    await script.api.close()
    server.close()
    await server.wait_closed()


async def got(download: Download, at: int = 0) -> bytes:
    digest = hashlib.sha256(DATA[:at])
    return b"".join([piece async for piece in download.pieces(at, digest)])


async def test_what_is_cut_is_gone_on_with(script: Script) -> None:
    script.answers = [answer(200, DATA[:5000], length=len(DATA)), answer(503), part(5000, DATA[5000:])]
    assert await got(script.download(sha256=SHA256)) == DATA
    assert ["Range: bytes=5000-" in asked.replace("range", "Range") for asked in script.asked] == [False, True, True]


async def test_what_knows_no_ranges_sends_all_again(script: Script) -> None:
    script.answers = [answer(200, DATA)]
    assert await got(script.download(sha256=SHA256), at=5000) == DATA[5000:]


async def test_an_answer_from_elsewhere_is_not_taken(script: Script) -> None:
    script.answers = [part(6000, DATA[6000:]), answer(206, DATA[5000:]), part(4000, DATA[4000:])]
    assert await got(script.download(size=len(DATA), sha256=SHA256), at=5000) == DATA[5000:]
    assert len(script.asked) == 3


async def test_more_than_there_is_is_not_taken(script: Script) -> None:
    script.answers = [answer(200, DATA + b"!")]
    with pytest.raises(Corrupted):
        await got(script.download(size=len(DATA), sha256=SHA256))
    script.answers = [part(5000, DATA[5000:], size=len(DATA) + 1)]
    with pytest.raises(Corrupted):
        await got(script.download(size=len(DATA)), at=5000)
    script.answers = [answer(200, DATA)]
    with pytest.raises(TooLong):
        await got(script.download(max_bytes=len(DATA) - 1))
    with pytest.raises(TooLong):
        script.download(size=len(DATA), max_bytes=len(DATA) - 1)


async def test_the_relay_says_the_digest_if_the_event_does_not(script: Script) -> None:
    script.answers = [answer(200, DATA, DIGEST)]
    assert await got(script.download()) == DATA
    script.answers = [answer(200, b"!" + DATA[1:], DIGEST)]
    with pytest.raises(Corrupted):
        await got(script.download())
    script.answers = [answer(200, b"!" + DATA[1:]), answer(200, headers=DIGEST)]  # asked for at the end
    with pytest.raises(Corrupted):
        await got(script.download())


async def test_the_credentials_stay_with_the_relay(script: Script) -> None:
    there = {"Location": f"http://127.0.0.1:{script.port}/bucket?signature=1"}
    script.answers = [answer(307, headers=there), answer(500), answer(307, headers=there), answer(200, DATA)]
    assert await got(script.download(sha256=SHA256)) == DATA
    assert ["a token" in asked for asked in script.asked] == [True, False, True, False]
    for wrong in ("ftp://127.0.0.1/", "http://[", "file:///etc/passwd"):
        script.answers = [answer(307, headers={"Location": wrong}), answer(200, DATA)]
        assert await got(script.download(sha256=SHA256)) == DATA  # the relay is asked again


async def test_refusals_end_it_and_the_rest_is_waited_for(script: Script) -> None:
    script.answers = [answer(404, b'{"error": {"code": "unknown_blob", "message": "none"}}')]
    with pytest.raises(RelayError, match="unknown_blob"):
        await got(script.download())
    for status in (401, 403):
        script.answers = [answer(status)]
        with pytest.raises(RelayError):
            await got(script.download())
    script.answers = [answer(503)]
    waiting = asyncio.create_task(got(script.download()))
    asked = len(script.asked)
    while len(script.asked) < asked + 3:  # noqa: ASYNC110 - the server above counts them
        await asyncio.sleep(0.001)
    script.over.set()
    with pytest.raises(Closed):
        await waiting


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"blob": "7d5c2c2e-9a3f-4b46-8c55-0f1f6d2a9b11"},
        {"blob": {"id": 5}},
        {"blob": {"id": "../calls/runs.stop"}},
        {"blob": {"id": "7d5c2c2e-9a3f-4b46-8c55-0f1f6d2a9b11/link/"}},
    ],
)
def test_what_is_no_reference(data: object) -> None:
    """It comes from other sites: no path is made of it."""
    assert Reference.of(data) is None


def test_what_a_reference_says_besides_is_looked_at() -> None:
    id_ = "7d5c2c2e-9a3f-4b46-8c55-0f1f6d2a9b11"
    assert Reference.of({"blob": {"id": id_, "size": -1, "sha256": "x"}}) == Reference(id=id_)
    assert Reference.of({"blob": {"id": id_, "size": True, "sha256": 5}}) == Reference(id=id_)
    full = {"id": id_, "size": 3, "sha256": SHA256.upper()}
    assert Reference.of({"blob": full}) == Reference(id=id_, size=3, sha256=SHA256)


# Files


def test_who_waited_for_a_file_does_not_write_into_what_it_became(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was opened under its first name, and locked when it had its last one."""
    first, second = PartFile(tmp_path / "model", "blob"), PartFile(tmp_path / "model", "blob")
    first.open()
    first.append(DATA)
    really = notes._lock

    def in_between(file: BinaryIO, path: Path) -> None:
        monkeypatch.setattr(notes, "_lock", really)
        first.commit()
        really(file, path)

    monkeypatch.setattr(notes, "_lock", in_between)
    second.open()
    assert second.size == 0
    second.append(b"other bytes")
    second.restart()
    assert (tmp_path / "model").read_bytes() == DATA
    second.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_file_is_saved_by_one_at_a_time(tmp_path: Path) -> None:
    first, second = PartFile(tmp_path / "model", "blob"), PartFile(tmp_path / "model", "blob")
    first.open()
    with pytest.raises(InUse):
        second.open()
    first.close()
    second.open()
    second.close()


def test_a_note_whose_last_line_was_not_finished(tmp_path: Path) -> None:
    note = Note.open(tmp_path, ["content"], "event-1")
    note.remember("0", "upload-0")
    note.remember("1", "upload-1")
    note.remember("1", "")
    note.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b'{"uploads": {"0": "upl')
    for _ in range(2):
        again = Note.open(tmp_path, ["content"], "event-2")
        assert (again.event, again.upload("0"), again.upload("1")) == ("event-1", "upload-0", None)
        again.remember("2", "upload-2")
        again.close()
    other = Note.open(tmp_path, ["another content"], "event-2")
    assert (other.event, other.upload("0")) == ("event-2", None)
    other.close()
    path.write_bytes(b"[]\nnull\n{}\n")
    blank = Note.open(tmp_path, ["content"], "event-3")
    assert (blank.event, blank.upload("0")) == ("event-3", None)
    blank.close()


def test_notes_that_nobody_goes_on_with_are_removed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Note.open(tmp_path, [name], "event").close()
    old = next(tmp_path.iterdir())
    os.utime(old, (0, 0))
    Note.open(tmp_path, ["three"], "event").close()
    assert not old.exists()
    assert len(list(tmp_path.iterdir())) == 2
