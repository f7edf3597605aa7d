"""Node.js with the one package that clients in JavaScript need, as examples/package-lock.json has it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NPM_TIMEOUT_S = 120


def node_with_ws(home: Path) -> str:
    """`node`, with the package `ws` where a program in `home` finds it. Skips the test where that cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("the JavaScript client is not run: node or npm is not installed")
    if (EXAMPLES / "node_modules" / "ws").is_dir():
        shutil.copytree(EXAMPLES / "node_modules", home / "node_modules")
        return node
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(EXAMPLES / name, home)
    install = [npm, "ci", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(install, cwd=home, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the JavaScript client is not run: `npm ci` took longer than {NPM_TIMEOUT_S} s")
    if done.returncode != 0:
        pytest.skip(f"the JavaScript client is not run: `npm ci` failed: {done.stderr.strip()[-300:]}")
    return node
