"""`send` and `fetch`, as people and scripts use them: processes against a real relay, broken off and gone on with."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from relay.cli import at_site, main, transfers
from relay.client import Limits, Site
from relay.client.sealed import Identity
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

MIB = 1024 * 1024
DATA = os.urandom(30 * MIB)
PASSWORD = {"STARFISH_USER_PASSWORD": "a good password"}
DONE_WITHIN_S = 60
TASKS = [{"seq": 1, "model": "LogisticRegression", "config": {"total_round": 1, "current_round": 1}}]
WITHOUT_THE_SERVER = """
import sys
for name in {"rich", "starlette", "uvicorn", "databases", "sqlalchemy", "db", "cryptography"}:
    sys.modules[name] = None
from relay.cli import main
sys.exit(main())
"""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sites' tokens and their project; `ours` takes part in it, `theirs` coordinates it."""

    relay: RelayProcess
    ours: str
    theirs: str
    project: int


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with RelayProcess() as relay:
        relay.cli("user", "create", "anna", "--no-input", env=PASSWORD)
        uids = [relay.cli("site", "create", "--owner", "anna", "--name", name).stdout.strip() for name in "AB"]
        theirs, ours = (relay.cli("token", "create", "--site", uid).stdout.strip() for uid in uids)
        project = asyncio.run(_joined(relay.url, theirs, ours))
        yield Pair(relay=relay, ours=ours, theirs=theirs, project=project)


async def _joined(url: str, coordinator: str, participant: str) -> int:
    async with Site(url, token=coordinator, proxy=False) as one, Site(url, token=participant, proxy=False) as other:
        project = int((await one.projects.create("study", tasks=TASKS))["id"])
        await other.projects.join("study")
        return project


@pytest.fixture
async def proxy(pair: Pair) -> AsyncIterator[Proxy]:
    async with Proxy(pair.relay.port, large=True) as between:
        yield between


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(DATA)
    return path


def environment(token: str | None, url: str) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STARFISH_")}
    own = {"STARFISH_URL": url, "NO_PROXY": "*"} | ({} if token is None else {"STARFISH_TOKEN": token})
    return kept | own


def command(
    pair: Pair, token: str | None, *words: str, url: str | None = None, program: str | None = None
) -> subprocess.CompletedProcess[str]:
    start = ["-m", "relay"] if program is None else ["-c", program]
    return subprocess.run(
        [sys.executable, *start, *words],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(token, pair.relay.url if url is None else url),
        timeout=DONE_WITHIN_S,
    )


async def broken_off(proxy: Proxy, token: str, *words: str) -> str:
    """Run a command over a slow link, and interrupt it once 4 MiB have passed; what it has said."""
    proxy.delay_s = 0.005
    passed = proxy.up_bytes + proxy.down_bytes
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "relay",
        *words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(token, f"http://127.0.0.1:{proxy.port}"),
    )
    try:
        async with asyncio.timeout(DONE_WITHIN_S):
            while proxy.up_bytes + proxy.down_bytes - passed < 4 * MIB:  # noqa: ASYNC110 - the link has no event
                await asyncio.sleep(0.002)
            process.send_signal(signal.SIGINT)
            _, said = await process.communicate()
        assert process.returncode == 130, said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    proxy.delay_s = 0
    return said.decode()


def first_percent(said: str) -> int:
    return int(said.splitlines()[0].partition(": ")[2].partition(" %")[0])


async def test_a_file_there_and_back_each_broken_off_and_gone_on_with(
    pair: Pair, proxy: Proxy, weights: Path, tmp_path: Path
) -> None:
    url, project = f"http://127.0.0.1:{proxy.port}", str(pair.project)
    sending = ("send", str(weights), "--project", project)
    assert "the same command goes on" in await broken_off(proxy, pair.ours, *sending)
    before = proxy.up_bytes
    sent = await asyncio.to_thread(command, pair, pair.ours, *sending, url=url)
    assert sent.returncode == 0, sent.stderr
    assert first_percent(sent.stderr) > 0
    assert proxy.up_bytes - before < len(DATA)
    assert sent.stderr.splitlines()[-1] == f"weights.bin: 100 %, {len(DATA)} of {len(DATA)} bytes"

    back = tmp_path / "back.bin"
    fetching = ("fetch", "--project", project, "--offset", sent.stdout.strip(), "-o", str(back))
    assert "the same command goes on" in await broken_off(proxy, pair.theirs, *fetching)
    assert not back.exists()
    before = proxy.down_bytes
    fetched = await asyncio.to_thread(command, pair, pair.theirs, *fetching, url=url)
    assert (fetched.returncode, fetched.stdout) == (0, f"{back}\n"), fetched.stderr
    assert first_percent(fetched.stderr) > 0
    assert proxy.down_bytes - before < len(DATA)
    assert back.read_bytes() == DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.bin", "weights.bin"]


async def test_a_sealed_file_goes_on_too_and_is_opened_by_its_addressee_alone(
    pair: Pair, proxy: Proxy, weights: Path, tmp_path: Path
) -> None:
    keys = {token: tmp_path / name for token, name in ((pair.ours, "ours.key"), (pair.theirs, "theirs.key"))}
    for token, path in keys.items():  # each is there once, and announces its keys
        Identity.generate().save(path)
        async with Site(pair.relay.url, token=token, proxy=False, identity=Identity.load(path)):
            pass
    url, project, notes = f"http://127.0.0.1:{proxy.port}", str(pair.project), tmp_path / "notes"
    notes.mkdir()
    sending = ("send", str(weights), "--project", project, "--identity", str(keys[pair.ours]), "--state", str(notes))
    assert "the same command goes on" in await broken_off(proxy, pair.ours, *sending)
    assert not any(DATA[:1000] in path.read_bytes() for path in notes.iterdir())
    before = proxy.up_bytes
    sent = await asyncio.to_thread(command, pair, pair.ours, *sending, url=url)
    assert sent.returncode == 0, sent.stderr
    assert proxy.up_bytes - before < len(DATA)
    assert list(notes.iterdir()) == []

    back = tmp_path / "back.bin"
    fetching = ("fetch", "--project", project, "--offset", sent.stdout.strip(), "-o", str(back))
    refused = await asyncio.to_thread(command, pair, pair.theirs, *fetching)
    assert (refused.returncode, back.exists()) == (1, False)
    assert "is sealed" in refused.stderr and "--identity FILE" in refused.stderr
    opening = (*fetching, "--identity", str(keys[pair.theirs]))
    fetched = await asyncio.to_thread(command, pair, pair.theirs, *opening)
    assert fetched.returncode == 0, fetched.stderr
    assert back.read_bytes() == DATA


def test_a_relay_that_is_not_there_is_a_temporary_failure(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfers, "Site", partial(Site, limits=Limits(connect_s=0.2)))
    monkeypatch.setenv("STARFISH_TOKEN", "sfr_any")
    words = ["send", str(weights), "--project", "1", "--url", f"http://127.0.0.1:{free_port()}"]
    assert main(words) == at_site.TEMPORARY
    assert "the relay was not reached" in capsys.readouterr().err


def test_the_base_install_is_enough(pair: Pair, tmp_path: Path) -> None:
    short = tmp_path / "short.bin"
    short.write_bytes(b"\x00weights")
    words = ("send", str(short), "--project", str(pair.project), "--to", "coordinator")
    sent = command(pair, pair.ours, *words, program=WITHOUT_THE_SERVER)
    assert (sent.returncode, sent.stderr) == (0, "short.bin: 100 %, 8 of 8 bytes\n")
    where = ("--project", str(pair.project), "--offset", sent.stdout.strip(), "-o", str(tmp_path))
    fetched = command(pair, pair.theirs, "fetch", *where, program=WITHOUT_THE_SERVER)
    saved = tmp_path / f"payload-{pair.project}-{sent.stdout.strip()}"
    assert (fetched.returncode, fetched.stdout) == (0, f"{saved}\n"), fetched.stderr
    assert saved.read_bytes() == b"\x00weights"


def test_what_waits_for_the_sites_controller_still_waits_for_it_afterwards(pair: Pair, weights: Path) -> None:
    before = asyncio.run(_cursors(pair))
    sent = command(pair, pair.ours, "send", str(weights), "--project", str(pair.project))
    assert sent.returncode == 0, sent.stderr
    assert asyncio.run(_cursors(pair)) == before


async def _cursors(pair: Pair) -> dict[str, int]:
    async with Site(pair.relay.url, token=pair.theirs, proxy=False) as site:
        return {one["site"]: one["offset"] for one in await site.cursors(pair.project)}


def test_a_wrong_token_is_said_once_with_what_to_do_and_shown_nowhere(pair: Pair, weights: Path) -> None:
    done = command(pair, "sfr_wrong", "send", str(weights), "--project", str(pair.project))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("unauthenticated") == 1
    assert "starfish-relay token create" in done.stderr
    assert "sfr_wrong" not in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["send", "absent.bin", "--project", "1"], "absent.bin is no file"),
        (["fetch", "--project", "999", "--offset", "1"], "does not take part in project 999"),
        (["fetch", "--project", "1", "--offset", "999"], "has no event at offset 999"),
        (["fetch", "--project", "1", "--offset", "1"], "has no payload"),
        (["fetch", "--project", "1", "--offset", "1", "--url", "ftp://x"], "such as https://relay.example"),
        (["send", __file__, "--project", "1", "--run", "999"], "unknown_run"),
    ],
)
def test_errors_say_what_is_wrong(pair: Pair, words: list[str], says: str) -> None:
    done = command(pair, pair.theirs, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert says in done.stderr


def test_the_token_and_the_url_have_to_be_there(pair: Pair) -> None:
    words = ("fetch", "--project", "1", "--offset", "1")
    assert "STARFISH_TOKEN is not set" in command(pair, None, *words).stderr
    assert "STARFISH_URL" in command(pair, pair.ours, *words, url="").stderr


@pytest.mark.parametrize("given", ["0", "-1", "x"])
def test_an_offset_is_a_number_from_1_on(pair: Pair, given: str) -> None:
    done = command(pair, pair.ours, "fetch", "--project", "1", f"--offset={given}")
    assert (done.returncode, "expected a whole number from 1 on" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["send", "fetch"])
def test_help_teaches(pair: Pair, name: str) -> None:
    said = command(pair, None, name, "--help").stdout
    assert "$STARFISH_TOKEN" in said
    assert "Exit status" in said
