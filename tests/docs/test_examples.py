"""The controllers of examples/, as a reader would start them: processes, a relay, and files with cases."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.support.node import EXAMPLES, node_with_ws
from tests.support.relay import RelayProcess

PYTHON = [sys.executable, "-W", "error", str(EXAMPLES / "controller.py")]
TIMEOUT_S = 60.0


class Controller:
    """A controller that runs. `said` is what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    async def until(self, words: str) -> None:
        """Read on until a line with these words."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            while line := (await self.process.stdout.readline()).decode():
                self.said += line
                if words in line:
                    return
        raise AssertionError(f"it ended before it said {words!r}:\n{self.said}")

    async def ended(self) -> int:
        async with asyncio.timeout(TIMEOUT_S):
            said, _ = await self.process.communicate()
        self.said += said.decode()
        assert self.process.returncode is not None
        return self.process.returncode


class Federation:
    """A relay, and a token for each site that is named."""

    def __init__(self, relay: RelayProcess) -> None:
        self._relay = relay

    def token(self, site: str) -> str:
        uid = self._relay.cli("site", "create", "--owner", "anna", "--name", site).stdout.strip()
        return self._relay.cli("token", "create", "--site", uid).stdout.strip()

    @asynccontextmanager
    async def running(self, token: str, *command: str) -> AsyncIterator[Controller]:
        environment = os.environ | {"STARFISH_URL": self._relay.url, "STARFISH_TOKEN": token}
        both = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
        process = await asyncio.create_subprocess_exec(*command, env=environment, **both)  # type: ignore[arg-type]
        try:
            yield Controller(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    with RelayProcess() as relay:
        relay.cli("user", "create", "anna", "--no-input", env={"STARFISH_USER_PASSWORD": "a password of hers"})
        yield Federation(relay)


@pytest.fixture(scope="module")
def dealt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that examples/deal.py has filled."""
    folder = tmp_path_factory.mktemp("dealt")
    deal = [sys.executable, "-W", "error", str(EXAMPLES / "deal.py"), str(folder)]
    subprocess.run(deal, check=True, capture_output=True, timeout=TIMEOUT_S)
    return folder


def accuracies(said: str) -> list[float]:
    return [float(one) for one in re.findall(r"^round \d+: accuracy ([\d.]+)$", said, re.MULTILINE)]


async def test_two_sites_train_and_one_that_is_killed_goes_on(federation: Federation, dealt: Path) -> None:
    coordinate = [*PYTHON, "coordinate", "--data", str(dealt / "reference.csv"), "--rounds", "3"]
    north = [*PYTHON, "participate", "--data", str(dealt / "north.csv")]
    south = [*PYTHON, "participate", "--data", str(dealt / "south.csv")]
    tokens = [federation.token(name) for name in ("hub", "north", "south")]
    async with federation.running(tokens[0], *coordinate) as coordinator:
        await coordinator.until("waiting for 2 sites")
        async with federation.running(tokens[1], *north) as first, federation.running(tokens[2], *south) as second:
            await second.until("round 1")
            second.process.kill()
            async with federation.running(tokens[2], *south) as again:
                assert await coordinator.ended() == 0, coordinator.said
                assert await first.ended() == 0, first.said
                assert await again.ended() == 0, again.said
    found = accuracies(coordinator.said)
    assert len(found) == 3
    assert found[-1] > 0.95
    for round_ in (1, 2, 3):
        assert f"north: round {round_}, accuracy" in first.said
        assert coordinator.said.count(f"round {round_}: trained on 284 cases") == 1
    assert "round 3: trained on 114 cases" in coordinator.said


async def test_a_site_in_javascript_trains_with_one_in_python_and_a_model_may_be_long(
    federation: Federation, tmp_path: Path
) -> None:
    node = node_with_ws(tmp_path)
    (tmp_path / "controller.mjs").write_text((EXAMPLES / "controller.mjs").read_text())
    rng = np.random.default_rng(1)
    for name in ("reference", "north", "south"):  # 140,000 weights: more than the Python client puts into an event
        cases = np.zeros((12, 140_001), dtype=int)
        cases[:, 0] = rng.permutation([-1, 1] * 6)
        cases[:, -1] = cases[:, 0] > 0
        np.savetxt(tmp_path / f"{name}.csv", cases, fmt="%d", delimiter=",")
    study = ["--project", "long", "--data"]
    coordinate = [*PYTHON, "coordinate", *study, str(tmp_path / "reference.csv"), "--rounds", "2"]
    north = [*PYTHON, "participate", *study, str(tmp_path / "north.csv")]
    south = [node, str(tmp_path / "controller.mjs"), str(tmp_path / "south.csv"), "long"]
    tokens = [federation.token(name) for name in ("hub of the long", "Python", "JavaScript")]
    async with federation.running(tokens[0], *coordinate) as coordinator:
        await coordinator.until("waiting for 2 sites")
        async with federation.running(tokens[1], *north) as first, federation.running(tokens[2], *south) as second:
            assert await coordinator.ended() == 0, coordinator.said
            assert await first.ended() == 0, first.said
            assert await second.ended() == 0, second.said
    assert accuracies(coordinator.said) == [1.0, 1.0]
    assert coordinator.said.count("trained on 12 cases") == 4
    assert "JavaScript: round 2, accuracy 1 on its own cases" in second.said


async def test_a_controller_whose_token_is_wrong_says_so(federation: Federation, dealt: Path) -> None:
    participate = [*PYTHON, "participate", "--data", str(dealt / "north.csv")]
    async with federation.running("no-token-of-this-relay", *participate) as refused:
        assert await refused.ended() == 1
    assert "Traceback" not in refused.said


def test_they_are_short_and_stand_on_the_client_alone() -> None:
    """They are to be read at one sitting, and to be copied."""
    python, script = (EXAMPLES / "controller.py").read_text(), (EXAMPLES / "controller.mjs").read_text()
    imported = {node.module for node in ast.walk(ast.parse(python)) if isinstance(node, ast.ImportFrom)}
    assert {module for module in imported if module and module.startswith("relay")} == {"relay.client"}
    assert len(python.splitlines()) < 200
    code = [line for line in script.splitlines() if line.strip() and not line.strip().startswith("//")]
    assert len(code) < 100
