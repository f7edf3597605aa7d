"""`status`: what is drawn at every width, and the command beside a relay, with and without a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import struct
import sys
import termios
import time
from typing import Any

import pytest
from rich.console import Console

from relay.cli import board
from tests.cli.conftest import called
from tests.conformance.realm import Account, Realm
from tests.support.ports import free_port
from tests.support.relay import RelayProcess


def site(number: int, *, online: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "uid": f"0c6b8f6e-8f5c-4f63-9d0e-0f6d3a3c9a{number:02}",
        "name": f"Hospital {number}",
        "online": online,
        "since": "2026-11-25T12:00:00.000000Z",
        "sessions": int(online),
        "transport": "websocket" if online else None,
        "lag": 3 if online and number != 2 else None,  # the third takes part in nothing
        "last_seen": None,
    } | more


def account(sites: int = 3) -> dict[str, Any]:
    run = {"id": 5, "site": site(1)["uid"], "role": "participant", "status": "Running", "round": 2, "cur_seq": 1}
    batch = {"id": 7, "queued": False, "status": "Running", "round": 2, "rounds": 5, "standing": {"Running": 1}}
    project = {
        "id": 1,
        "name": "a study with a name of some length, as studies have\x1b[2J",
        "coordinator": {"uid": site(0)["uid"], "name": "Hospital 0"},
        "epoch": "0a1b2c3d",
        "head": 1234,
        "members": 3,
        "online": 2,
        "lag_max": 250,
        "events_per_s": 12.5,
        "batch": batch,
        "runs": [run | {"progress": {"at": "2026-11-25T13:00:00.000000Z", "fraction": 0.5}}],
    }
    return {
        "at": "2026-11-25T13:12:30.000000Z",
        "version": "1.2.3",
        "node": "vm",
        "uptime_s": 90_061.0,
        "database": {"kind": "sqlite", "ok": True, "latency_ms": 0.4},
        "sessions": 2,
        "sites_online": 2,
        "events_per_s": 12.5,
        "events": [0, 1, 4, 8],
        "sites": [site(number, online=number > 0) for number in range(sites)],
        "projects": [project],
        "left_off": {"sites": 0, "projects": 4, "runs": 0},
    }


def drawn(view: board.View, width: int, height: int) -> tuple[list[str], int]:
    console = Console(width=width, height=height, highlight=False, markup=False, color_system=None)
    segments, top = board.draw(console, view, width=width, height=height)
    with console.capture() as capture:
        console.print(segments, end="")
    return capture.get().split("\n"), top


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 9), (30, 5), (200, 3)])
def test_it_fits_every_terminal(width: int, height: int) -> None:
    lines, _ = drawn(board.View(seen=account()), width, height)
    assert len(lines) == height
    assert all(len(line) <= width for line in lines)
    assert "\x1b" not in "".join(lines)


def test_what_matters_is_there_at_80_columns_and_more_at_120() -> None:
    text = "\n".join(drawn(board.View(seen=account(), age_s=60), 80, 24)[0])
    for wanted in ("1.2.3", "up 1 d 1 h", "sqlite 0.4 ms", "2/3 sites online", "12.5 events/s", "2/5", "250"):
        assert wanted in text
    for wanted in ("Running  50%", "and 4 more projects", "● online", "○ offline", "1 h 13 min"):
        assert wanted in text
    assert site(1)["uid"] not in text
    assert site(1)["uid"] in "\n".join(drawn(board.View(seen=account()), 120, 40)[0])


def test_what_is_too_long_scrolls_to_its_end_and_no_further() -> None:
    view = board.View(seen=account(sites=50))
    first, top = drawn(view, 80, 12)
    assert top == 0
    assert "lines below" in first[-1]
    last, top = drawn(board.View(seen=account(sites=50), top=10_000), 80, 12)
    assert "Hospital 0 " in last[-2]
    assert drawn(board.View(seen=account(sites=50), top=top), 80, 12) == (last, top)


def test_what_is_not_new_is_said_and_so_is_a_database_that_is_away() -> None:
    seen = account() | {"database": {"kind": "postgresql", "ok": False, "latency_ms": None}}
    text = "\n".join(drawn(board.View(seen=seen, silent_s=75), 80, 24)[0])
    assert "nothing has come for 1 min 15 s" in text
    assert "the database does not answer" in text


def test_a_sparkline_is_in_proportion() -> None:
    assert board.sparkline([0, 1, 4, 8, 800]) == " ▁▁▁█"
    assert board.sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert board.sparkline([0, 0]) == "  "


@pytest.fixture
def operator(
    relay: RelayProcess, accounts: tuple[Account, Account, Account], monkeypatch: pytest.MonkeyPatch
) -> Account:
    """The environment of an operator."""
    monkeypatch.setenv("STARFISH_URL", relay.url)
    monkeypatch.setenv("STARFISH_USER", accounts[2].name)
    monkeypatch.setenv("STARFISH_PASSWORD", accounts[2].password)
    return accounts[2]


async def test_it_is_shown_once_as_a_table_or_as_json(realm: Realm, operator: Account) -> None:
    team = await realm.team()
    await team.start()
    async with asyncio.timeout(20):  # an account is good for a second
        while team.participant.uid not in (await called("status", "--json")).out:
            pass
    table = await called("status", "--once")
    assert (table.status, table.err) == (0, "")
    assert team.name in table.out
    assert team.participant.name in table.out
    seen = (await called("status", "--json")).json
    (project,) = [one for one in seen["projects"] if one["id"] == team.project]
    assert {run["site"] for run in project["runs"]} == {one.uid for one in team.sites}


async def test_who_is_refused_is_told_what_to_do(
    accounts: tuple[Account, Account, Account], operator: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARFISH_PASSWORD", "another one")
    wrong = await called("status", "--json")
    assert (wrong.status, "does not know this user" in wrong.err) == (1, True)
    monkeypatch.setenv("STARFISH_USER", accounts[0].name)
    monkeypatch.setenv("STARFISH_PASSWORD", accounts[0].password)
    owner = await called("status", "--json")
    assert (owner.status, "createsuperuser" in owner.err) == (1, True)
    away = await called("status", "--url", f"http://127.0.0.1:{free_port()}")
    assert (away.status, "was not reached" in away.err) == (75, True)
    assert "http(s)" in (await called("status", "--url", "relay.example")).err
    monkeypatch.delenv("STARFISH_PASSWORD")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert "STARFISH_PASSWORD is not set" in (await called("status")).err


async def test_a_terminal_is_drawn_on_scrolled_resized_and_left_as_it_was(operator: Account) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    before = termios.tcgetattr(theirs)
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "status"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm"},
    )
    os.set_blocking(ours, False)
    try:
        await until(ours, "sites online")
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 60, 0, 0))
        process.send_signal(28)  # SIGWINCH: nobody sends it where the terminal is nobody's
        await until(ours, "lines below")
        os.write(ours, b"jj\x1b[Bkq")
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        assert termios.tcgetattr(theirs) == before
        assert "\x1b[?1049l" in await until(ours, "\x1b[?1049l")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
        os.close(theirs)


async def until(terminal: int, wanted: str) -> str:
    """What is written to the terminal, up to the wanted words."""
    shown = ""
    give_up_at = time.monotonic() + 20
    while wanted not in shown:
        assert time.monotonic() < give_up_at, f"{wanted!r} was not shown: {shown[-2000:]!r}"
        try:
            shown += os.read(terminal, 65536).decode(errors="replace")
        except BlockingIOError:
            await asyncio.sleep(0.02)
    return shown
