"""The snippets of docs/client.md, run one after the other against a relay; its numbers are the code's defaults."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.cli import main
from relay.client import Event, Limits
from relay.web.events import KEEP_ALIVE_S
from tests.docs.documents import DOCS, blocks
from tests.support.relay import RelayProcess

CLIENT = DOCS / "client.md"
TIMEOUT_S = 60.0
MIB = 2**20


@pytest.fixture(scope="module")
def own_relay() -> Iterator[RelayProcess]:
    with RelayProcess() as relay:
        relay.cli("user", "create", "anna", "--no-input", env={"STARFISH_USER_PASSWORD": "a password of hers"})
        yield relay


async def run(name: str, text: str, names: dict[str, Any]) -> None:
    """As in `python -m asyncio`."""
    code = compile(text, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    done = eval(code, names)
    if inspect.isawaitable(done):
        async with asyncio.timeout(TIMEOUT_S):
            await done


async def test_the_snippets_run(own_relay: RelayProcess, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names: dict[str, Any] = {"url": own_relay.url, "folder": tmp_path}
    for name in ("token", "other_token"):
        uid = own_relay.cli("site", "create", "--owner", "anna", "--name", name).stdout.strip()
        names[name] = own_relay.cli("token", "create", "--site", uid).stdout.strip()
    said = {}
    for block in blocks(CLIENT):
        if block.language == "console" and block.mark.startswith("cli: "):
            continue  # see below; what they do is tested in tests/cli/test_transfers.py
        assert block.language == "python" and block.mark.startswith("run: "), f"line {block.line} is run by no test"
        name = block.mark.removeprefix("run: ")
        await run(f"client.md, {name}", block.text, names)
        said[name] = capsys.readouterr().out
    assert said["connect"].endswith(" token websocket\n")
    assert "conflict {'from': 'Preparing', 'to': 'Success'}" in said["calls"]
    assert "{'op': 'train', 'epochs': 3}" in said["events"]
    assert said["send"] == "11\n5000000\n"
    assert said["stream"] == "all of 5000000 bytes\n5000000\n"
    assert said["transports"] == "sse\n"
    assert {said[name] for name in ("proxy", "tokens", "limits")} == {"True\n"}


def test_the_commands_are_such_as_the_command_line_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"")
    monkeypatch.setenv("STARFISH_URL", "https://relay.example")
    monkeypatch.delenv("STARFISH_TOKEN", raising=False)
    text = "".join(block.text for block in blocks(CLIENT) if block.mark.startswith("cli: "))
    commands = [line.split()[2:] for line in text.splitlines() if line.startswith("$ starfish-relay ")]
    assert {words[0] for words in commands} == {"send", "fetch"}
    for words in commands:
        assert main(words) == 1  # words that are off would end it with 2
        assert "STARFISH_TOKEN is not set" in capsys.readouterr().err


async def test_the_snippet_for_lost_events_does_what_it_says() -> None:
    (text,) = (block.text for block in blocks(CLIENT) if block.mark == "run: resync")
    names: dict[str, Any] = {}
    await run("client.md, resync", text, names)
    known = {1: "Running", 2: "Running"}
    at: Any = None
    runs = [{"id": 2, "status": "Failed"}]
    names["heed"](Event(project=12, kind="resync", id="", at=at, data={"from": 0, "runs": runs}), known)
    names["heed"](Event(project=12, kind="run", id="", at=at, data={"run": 3, "status": "Standby"}), known)
    assert known == {2: "Failed", 3: "Standby"}


def test_the_numbers() -> None:
    limits = Limits()
    text = " ".join(CLIENT.read_text().split())
    assert limits.climb_s is not None
    for said in (
        f"for up to {limits.connect_s:.0f} s (`Limits.connect_s`)",
        f"not reached within {limits.connect_s:.0f} s: call it again",
        f"noticed after {limits.look_s:.0f} s (`Limits.look_s`)",
        f"within {limits.climb_s / 60:.0f} minutes (`Limits.climb_s`)",
        f"pings each {limits.ping_s:g} s, comments on streams each {KEEP_ALIVE_S:.0f} s, polls of {limits.poll_s:g} s",
        f"takes longer than {limits.token_s:.0f} s",
        f"Up to {limits.inline_bytes // MIB} MiB (`Limits.inline_bytes`",
        f"Uploads of {2 * limits.part_bytes // MIB} MiB and more go in parts of {limits.part_bytes // MIB} MiB",
        f"(`Limits.part_bytes`), {limits.parallel_parts} at a time",
        f"up to {limits.request_bytes // MIB} MiB (`Limits.request_bytes`)",
        f"{limits.damage_tries} times in all (`Limits.damage_tries`)",
    ):
        assert said in text, said
