"""docs/terminal.md: each of its commands is run in a small federation, and says what the page says it does."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from relay.client import Site
from tests.cli.conftest import called
from tests.docs.documents import DOCS, blocks
from tests.support.relay import RelayProcess

PAGE = DOCS / "terminal.md"
PASSWORDS = {"STARFISH_USER_PASSWORD": "a password of hers", "STARFISH_SUPERUSER_PASSWORD": "an operator's own"}
TASKS = [{"seq": 1, "model": "LogisticRegression", "config": {"total_round": 5, "current_round": 1}}]


@pytest.fixture(scope="module")
def own_relay() -> Iterator[RelayProcess]:
    with RelayProcess(settings={"STARFISH_NODE": "relay-1"}) as relay:
        relay.cli("createsuperuser", "--username", "root", "--no-input", env=PASSWORDS)
        relay.cli("user", "create", "anna", "--no-input", env=PASSWORDS)
        yield relay


@asynccontextmanager
async def federation(relay: RelayProcess, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Three sites, two of them in a training; and the environment of a shell in which one looks at it."""
    monkeypatch.setenv("STARFISH_DATA_DIR", str(relay.data_dir))
    monkeypatch.setenv("STARFISH_URL", relay.url)
    monkeypatch.setenv("STARFISH_USER", "root")
    monkeypatch.setenv("STARFISH_PASSWORD", PASSWORDS["STARFISH_SUPERUSER_PASSWORD"])
    tokens = []
    for name in ("St. Anna", "Charité", "Lab 4"):
        uid = (await called("site", "create", "--owner", "anna", "--name", name)).out.strip()
        tokens.append((await called("token", "create", "--site", uid, "--label", "controller")).out.strip())
    monkeypatch.setenv("STARFISH_TOKEN", tokens[0])
    async with Site(relay.url, token=tokens[0]) as co, Site(relay.url, token=tokens[1]) as pa:
        project = (await co.projects.create("diabetes", description="back within 30 days", tasks=TASKS))["id"]
        await pa.projects.join("diabetes")
        runs = {run["site_uid"]: run["id"] for run in (await co.runs.start(project))["runs"]}
        await co.publish(project, "command", data={"op": "train", "round": 1})
        note = {"level": "INFO", "message": "epoch 1 of 20", "loss": 0.61}
        await pa.publish(project, "log", run=runs[pa.uid], data=note)
        await pa.publish(project, "update", run=runs[pa.uid], payload=bytes(3072))
        async with asyncio.timeout(20):  # presence is written down a moment later
            while len((await called("site", "list", "--active", "--json")).json) < 2:
                pass
        yield


def gist(text: str) -> str:
    """What is said, without what differs from one run to the next: numbers, ids and times, and how wide columns are."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9a-f]{8}\b|\b[0-9a-f]{12}\b", "ID", text)
    text = re.sub(r"[\d.:TZ-]*\d[\d.:TZ-]*", "0", text)
    text = re.sub(r"[━─┏┳┓┡╇┩└┴┘│┃▁▂▃▄▅▆▇█]+", " ", text)
    text = re.sub(r"up 0 .*? sqlite 0 ms", "up sqlite", re.sub(r" +", " ", text))
    return re.sub(r"0 (d|h|min|s)( 0 (h|min|s))?", "0 s", text)


async def said(commands: str) -> str:
    shown = []
    for line in commands.splitlines():
        if line.startswith("$ "):
            done = await called(*shlex.split(line)[2:])
            assert done.status == 0, f"{line}: {done.err}"
            shown.append(f"{line}\n{done.out}{done.err}")
    return "".join(shown)


async def test_each_command_says_what_the_page_says(own_relay: RelayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    async with federation(own_relay, monkeypatch):
        for block in blocks(PAGE):
            if block.language == "console":
                lines = [line.strip() for line in gist(await said(block.text)).splitlines()]
                assert lines == [line.strip() for line in gist(block.text).splitlines()], f"line {block.line}"
