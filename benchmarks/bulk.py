"""Load in bulk: plain sockets in threads, which cost the load process as little as can be."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.harness import Failed

PIECE_BYTES = 256 * 1024
TIMEOUT_S = 120.0
_CONTENT = bytes(range(256)) * (PIECE_BYTES // 256)


def digest(size: int) -> str:
    """The SHA-256 of what `Bulk` sends."""
    whole = hashlib.sha256()
    for start in range(0, size, PIECE_BYTES):
        whole.update(_CONTENT[: min(PIECE_BYTES, size - start)])
    return whole.hexdigest()


class Bulk:
    """Sends to and receives from one server. All times are seconds from the first byte sent to the last received."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        self._port = port
        self._headers = dict(headers)
        self._threads = ThreadPoolExecutor(32)  # the loop's own are as few as six

    def _in_thread(self, work: Callable[..., Any], *arguments: object) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    # --- HTTP

    async def upload(self, path: str, size: int) -> float:
        seconds: float = await self._in_thread(self._upload, path, size)
        return seconds

    async def download(self, path: str, size: int, sites: int) -> float:
        """The same to several at once; until the last of them has it."""
        started = time.perf_counter()
        await asyncio.gather(*(self._in_thread(self._download, path, size) for _ in range(sites)))
        return time.perf_counter() - started

    async def through(self, path: str, size: int, sites: int) -> float:
        """Up, while so many download it."""
        readers = [self._in_thread(self._download, path, size) for _ in range(sites)]
        started = time.perf_counter()
        await asyncio.gather(*readers, self._in_thread(self._upload, path, size))
        return time.perf_counter() - started

    async def cut(self, path: str, size: int, bytes_per_s: float, cut_every_s: float) -> tuple[int, int]:
        """Up over a link that is cut now and then: how often it was, and bytes that were put on the wire in all."""
        outcome: tuple[int, int] = await self._in_thread(self._cut, path, size, bytes_per_s, cut_every_s)
        return outcome

    def _cut(self, path: str, size: int, bytes_per_s: float, cut_every_s: float) -> tuple[int, int]:
        offset = sent = cuts = 0
        while offset < size:
            with self._request("PATCH", path, self._tus(offset, size - offset)) as link:
                until = time.perf_counter() + cut_every_s
                while offset < size and time.perf_counter() < until:
                    piece = _CONTENT[offset % PIECE_BYTES : offset % PIECE_BYTES + 65_536][: size - offset]
                    link.sendall(piece)
                    offset, sent = offset + len(piece), sent + len(piece)
                    time.sleep(len(piece) / bytes_per_s)
                if offset == size:
                    _expect(link, b"204")
                    break
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # cut: no goodbye
            cuts += 1
            with self._request("HEAD", path, {"Tus-Resumable": "1.0.0"}) as link:
                found = re.search(rb"upload-offset: (\d+)", _expect(link, b"200"), re.IGNORECASE)
            if found is None:
                raise Failed("the relay did not say how far the upload has come")
            offset = int(found[1])
        return cuts, sent

    def _upload(self, path: str, size: int) -> float:
        with self._request("PATCH", path, self._tus(0, size)) as link:
            started = time.perf_counter()
            _send(link, size)
            _expect(link, b"204")
            return time.perf_counter() - started

    def _download(self, path: str, size: int) -> None:
        with self._request("GET", path, {}) as link:
            head = _expect(link, b"200")
            _receive(link, size - len(head.partition(b"\r\n\r\n")[2]))

    def _tus(self, offset: int, size: int) -> dict[str, str]:
        return {
            "Tus-Resumable": "1.0.0",
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(offset),
            "Content-Length": str(size),
        }

    def _request(self, method: str, path: str, more: Mapping[str, str]) -> socket.socket:
        link = self._connect()
        headers = "".join(f"{name}: {value}\r\n" for name, value in {**self._headers, **more}.items())
        link.sendall(f"{method} {path} HTTP/1.1\r\nHost: relay\r\n{headers}\r\n".encode())
        return link

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)

    # --- the bare TCP relay

    async def relayed(self, size: int, sites: int) -> float:
        """Through a bare relay to so many."""
        receivers = [self._connect() for _ in range(sites)]
        for receiver in receivers:
            receiver.sendall(b"R")
            receiver.recv(1)
        with self._connect() as sender:
            sender.sendall(b"S")
            started = time.perf_counter()
            sending = self._in_thread(_send_and_end, sender, size)
            await asyncio.gather(sending, *(self._in_thread(_receive, one, size) for one in receivers))
            seconds = time.perf_counter() - started
        for one in receivers:
            one.close()
        return seconds


def _send(link: socket.socket, size: int) -> None:
    for start in range(0, size, PIECE_BYTES):
        link.sendall(_CONTENT[: min(PIECE_BYTES, size - start)])


def _send_and_end(link: socket.socket, size: int) -> None:
    _send(link, size)
    link.shutdown(socket.SHUT_WR)


def _receive(link: socket.socket, size: int) -> None:
    buffer = memoryview(bytearray(PIECE_BYTES))
    while size > 0:
        got = link.recv_into(buffer)
        if got == 0:
            raise Failed(f"{size} bytes are missing")
        size -= got


def _expect(link: socket.socket, status: bytes) -> bytes:
    """The head of an answer with this status, and what came with it."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = link.recv(65_536)
        if not more:
            raise Failed(f"no answer, but {head!r}")
        head += more
    if head.split(b" ", 2)[1] != status:
        raise Failed(head.decode(errors="replace")[:300])
    return head
