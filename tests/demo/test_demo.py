"""The demo as a user runs it, to its end and broken off."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TIMEOUT_S = 100.0
SOAK = pytest.mark.soak


@contextmanager
def running(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo, with its temporary files in `home`, by which its processes are known."""
    process = subprocess.Popen(
        [sys.executable, "-m", "relay", "demo", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(home)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def processes_of(home: Path) -> dict[int, str]:
    """Living processes that work in a directory below `home`: their command lines by id."""
    if not sys.platform.startswith("linux"):
        pytest.skip("processes are looked for in /proc, which only Linux has")
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").resolve(strict=True).is_relative_to(home):
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
    return found


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read its output up to a line with this text."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never said; {process.communicate()}")


def test_the_federation_trains_and_survives_a_kill(tmp_path: Path) -> None:
    with running(tmp_path, "--rounds", "2", "--json") as demo:
        out, err = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 0, out + err
    result = json.loads(out.splitlines()[-1])
    assert result["ok"] is True
    assert result["resumed"] is True
    assert (result["rounds"], result["sites"]) == (2, 4)
    assert result["accuracy"] >= result["accuracy_central"] - result["tolerance"]
    assert result["accuracy"] > 0.9
    assert set(result["accuracy_alone_by_site"]) == {"St. Anna", "Northfield", "Lakeside"}
    assert 0 < result["push_ms_p50"] <= result["push_ms_p99"]
    assert result["pushes"] >= 300
    assert result["sealed"] > 150  # the commands alone
    assert result["readable_at_relay"] == 0
    assert f"{result['sealed']} events were sealed" in out
    for site in ("St. Anna", "Northfield"):
        assert re.search(rf"{site} +has the study's package: 32 MiB, by a blob", out)
    assert "killed in the middle of round 1" in out
    for round_ in (1, 2):
        assert re.search(rf"Lakeside +\(polls\) +round {round_}: loss 0\.\d+, .* Pending Aggregating", out)
    assert not processes_of(tmp_path)
    assert not list(tmp_path.iterdir())


@SOAK
def test_plain_it_says_what_the_relay_can_read(tmp_path: Path) -> None:
    with running(tmp_path, "--rounds", "1", "--json", "--plain") as demo:
        out, err = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 0, out + err
    result = json.loads(out.splitlines()[-1])
    assert result["sealed"] == 0
    assert result["readable_at_relay"] > 100
    assert "Nothing was sealed" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 130, marks=SOAK)])
def test_broken_off_it_takes_all_its_processes_along(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with running(tmp_path, "--rounds", "50") as demo:
        wait_for(demo, "round 1 of 50")
        assert len(processes_of(tmp_path)) == 5  # the relay and four sites
        demo.send_signal(number)
        _, err = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == code, err
    assert "interrupted" in err
    assert not processes_of(tmp_path)
    assert not list(tmp_path.iterdir())


@SOAK
@pytest.mark.parametrize("role", ["participant", "coordinator", "poller"])
def test_a_site_that_dies_of_itself_fails_the_demo_at_once_and_shows_the_logs(tmp_path: Path, role: str) -> None:
    with running(tmp_path, "--rounds", "50") as demo:
        wait_for(demo, "round 1 of 50")
        cast = processes_of(tmp_path)
        dying = next(pid for pid, line in cast.items() if f"relay.demo.{role}" in line and "--hang" not in line)
        began = time.monotonic()
        os.kill(dying, signal.SIGKILL)
        _, err = demo.communicate(timeout=TIMEOUT_S)
        assert time.monotonic() - began < 10
    assert demo.returncode == 1
    assert "ended with -9" in err
    assert "--- relay" in err
    assert not processes_of(tmp_path)
