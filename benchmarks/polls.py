"""Controllers that poll, for the benchmarks: what they find in the database, and how they ask.

Each request comes over a connection of its own, with Basic credentials, as theirs do.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from benchmarks.harness import Failed
from benchmarks.processes import raise_file_limit
from db.connect import Database
from db.migrate import migrate
from db.store import Store, Tx
from relay.core import accounts
from relay.core.change import new_epoch
from relay.core.model import Role, Site
from relay.core.node import Node
from relay.core.passwords import hash_now
from tests.support.relay import RelayProcess

USER, PASSWORD = "controller", "a password of a controller"
TASKS = [{"seq": 1, "model": "LogisticRegression", "config": {"total_round": 5, "current_round": 1}}]
SITES_OF_OTHERS = 30
REQUEST_TIMEOUT_S = 60.0

ITERATIONS = 600_000
"""Of Django 4.2's password hash; 5.2's has 1,000,000."""


# --- what there is


@contextmanager
def polled_relay(own: int, others: int, database_url: str | None = None) -> Iterator[tuple[RelayProcess, str]]:
    """A relay, and the uid of a site with `own` active runs; a stranger's sites have `others`."""
    raise_file_limit()
    with TemporaryDirectory(prefix="relay-benchmark-") as home:
        data = Path(home)
        uid = asyncio.run(_seed(database_url or f"sqlite:///{data}/relay.db", own, others))
        settings = {"STARFISH_LOG_LEVEL": "warning"}
        with RelayProcess(database_url, data_dir=data, settings=settings) as relay:
            yield relay, uid


async def _seed(url: str, own: int, others: int) -> str:
    database = Database(url)
    await database.connect()
    try:
        await migrate(database)
        store = Store(database)
        owner, stranger = await _user(store, USER), await _user(store, "stranger")
        async with store.transaction() as tx:
            site = await _site(tx, owner)
            for _ in range(own):
                await _batch(tx, [site])
        async with store.transaction() as tx:
            for _ in range(others // SITES_OF_OTHERS):
                await _batch(tx, [await _site(tx, stranger) for _ in range(SITES_OF_OTHERS)])
    finally:
        await database.disconnect()
    return site.uid


async def _user(store: Store, name: str) -> int:
    user = await accounts.create_user(
        store, username=name, email="", password_hash=hash_now(PASSWORD), is_operator=False, now_us=Node.now_us()
    )
    return user.id


async def _site(tx: Tx, owner_id: int) -> Site:
    uid = str(uuid.uuid4())
    return await tx.sites.create(
        uid=uid, name=f"site {uid}", description="", owner_id=owner_id, connected=True, now_us=Node.now_us()
    )


async def _batch(tx: Tx, sites: list[Site]) -> None:
    """A project of these sites, with a batch under way; the first one coordinates."""
    now_us = Node.now_us()
    project = await tx.projects.create(
        name=f"project {uuid.uuid4()}", description="", site_id=sites[0].id, tasks=TASKS, now_us=now_us
    )
    await tx.journal.create(project.id, new_epoch())
    members = [
        await tx.participants.create(
            project_id=project.id,
            site_id=site.id,
            role=Role.COORDINATOR if site is sites[0] else Role.PARTICIPANT,
            notes="",
            joined=0,
            now_us=now_us,
        )
        for site in sites
    ]
    await tx.projects.set_batch(project.id, 1, now_us)
    await tx.runs.create(members, batch=1, tasks=TASKS, now_us=now_us)


# --- how it is asked for


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """A request with credentials. `%d` in its path is another number each time."""
    credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    lines = [
        f"{method} /starfish/api/v1/{path} HTTP/1.1",
        "Host: relay.example.org",
        "Accept: */*",
        f"Authorization: Basic {credentials}",
        "Connection: close",
        *(["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Controllers:
    """Sends requests, each over a new connection, `at_once` at a time."""

    def __init__(self, port: int, message: bytes, expected: int) -> None:
        self._port = port
        self._message = message
        self._expected = b"HTTP/1.1 %d " % expected
        self._numbers = itertools.count(1)

    async def run(self, count: int, at_once: int) -> tuple[float, int]:
        """Seconds until all are answered, and the bytes of the last answer.

        Raises:
            Failed: an answer is another one than was expected, or does not come.
        """
        left = iter(range(count))
        started = time.perf_counter()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                sizes = await asyncio.gather(*(self._some(left) for _ in range(at_once)))
        except TimeoutError:
            raise Failed(f"{count} requests were not answered in {REQUEST_TIMEOUT_S:.0f} s") from None
        return time.perf_counter() - started, max(sizes)

    async def _some(self, left: Iterator[int]) -> int:
        loop = asyncio.get_running_loop()
        size = 0
        for _ in left:
            message = self._message.replace(b"%d", b"%d" % next(self._numbers), 1)
            _, exchange = await loop.create_connection(partial(_Exchange, message), "127.0.0.1", self._port)
            answer = await exchange.answer
            if not answer.startswith(self._expected):
                raise Failed(f"expected {self._expected!r}, got {answer[:200]!r}")
            size = len(answer)
        return size


class _Exchange(asyncio.Protocol):
    """One request and its answer: all that comes until the server closes."""

    def __init__(self, message: bytes) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._message = message
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.WriteTransport", transport).write(self._message)  # uvloop's is none by its type

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_result(b"".join(self._parts))


class PasswordChecks:
    """What the old server did for each request before anything else: check a password, on all cores."""

    async def run(self, count: int) -> float:
        """Seconds for `count` checks."""
        cores = os.cpu_count() or 1
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(cores) as threads:
            started = time.perf_counter()
            checks = (loop.run_in_executor(threads, _check) for _ in range(count))
            await asyncio.gather(*checks)
            return time.perf_counter() - started


def _check() -> bytes:
    return hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), b"a salt of Django's", ITERATIONS)
