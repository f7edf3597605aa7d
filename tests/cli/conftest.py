"""The command line within the tests' own process, on the data of a relay that runs beside it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from relay.cli import main
from tests.conformance.realm import Account, Realm
from tests.support.relay import RelayProcess


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Calls of `starfish-relay` on a relay's data: what a process of its own would add costs half a second each."""

    def __init__(self, relay: RelayProcess) -> None:
        self._where = ["--data-dir", str(relay.data_dir)]
        if relay.database_url is not None:
            self._where += ["--database-url", relay.database_url]

    async def __call__(self, *words: str) -> Done:
        return await called(*words, *self._where)


async def called(*words: str) -> Done:
    """A call of `starfish-relay`, with the environment as it is."""

    def call() -> Done:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
        return Done(status, out.getvalue(), err.getvalue())

    return await asyncio.to_thread(call)


@pytest.fixture
def sh(relay: RelayProcess) -> Shell:
    return Shell(relay)


@pytest.fixture
async def realm(relay: RelayProcess, accounts: tuple[Account, Account, Account]) -> AsyncIterator[Realm]:
    """Fresh sites, projects and sessions on the running relay, closed at the end."""
    owner, guest, operator = accounts
    async with Realm(relay, owner=owner, guest=guest, operator=operator) as realm:
        yield realm
