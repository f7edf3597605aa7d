"""Each part comes to its end with `--quick`, and has rows and goals to show."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import parts

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300.0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=TIMEOUT_S)


@pytest.mark.parametrize("name", parts().values())
def test_a_part_can_be_imported(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{name}").main)


@pytest.mark.soak
@pytest.mark.parametrize("part", parts())
def test_a_part_runs_and_reports(part: str, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = run(part, "--quick", "--json", str(results))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    said: dict[str, Any] = json.loads(results.read_text())
    assert {"date", "machine", "versions"} <= said["machine"].keys()
    assert said["reports"], "a part reports at least once"
    for report in said["reports"]:
        assert report["rows"], report
        assert report["goals"], report
        assert report["title"] in done.stdout


def test_a_part_that_is_not_there_is_refused() -> None:
    done = run("b0")
    assert done.returncode == 2
    assert "no part b0; there are b1, " in done.stderr
