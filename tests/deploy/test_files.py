"""What the relay is deployed with: the files are well formed, and what the image runs does run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from relay import config
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sysconfig.get_path("scripts"))
NOBODY = 65534


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_dockerfile_has_no_findings() -> None:
    done = run(BIN / "hadolint", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_is_one() -> None:
    done = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["Dockerfile", "docker-compose.yml", ".env.example", "deploy/starfish-relay.service"])
def test_settings_that_are_named_are_settings(name: str) -> None:
    named = set(re.findall(r"STARFISH_[A-Z_]+", (ROOT / name).read_text()))
    assert named
    assert config.unknown_names(dict.fromkeys(named, "")) == []


def test_the_example_environment_has_every_variable_that_compose_takes_and_no_other() -> None:
    taken = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    given = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert given == taken


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user may look into."""
    with tempfile.TemporaryDirectory(prefix="relay-image-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_what_the_image_runs_does_run(home: Path) -> None:
    """Its very commands, in an environment of their own; then the relay, as a user without any rights."""
    user, python = unprivileged()
    dockerfile = (ROOT / "Dockerfile").read_text()
    building, running = dockerfile.split("\nFROM ")[1:]
    for line in re.findall(r"^RUN (.+)$", building, re.MULTILINE):
        words = line.replace("/opt/relay", str(home / "relay")).split()
        programs = {"pip": [sys.executable, "-m", "pip"], "python": [python]}
        done = run(*programs[words[0]], *words[1:])
        assert done.returncode == 0, done.stderr
    assert 'CMD ["starfish-relay", "serve"]' in running
    serve(home, user)


def unprivileged() -> tuple[int, str]:
    """A user without rights, and a Python that it may run: the tests' own user and Python, unless that is root."""
    if os.geteuid() != 0:
        return os.geteuid(), sys.executable
    for python in (sys.executable, "/usr/bin/python3"):
        able = "import sys; sys.exit(sys.version_info < (3, 11))"
        with suppress(OSError):
            if subprocess.run([python, "-c", able], user=NOBODY, check=False).returncode == 0:
                return NOBODY, python
    pytest.skip("the tests run as root, and no Python 3.11 is here that another user may run")


def serve(home: Path, user: int) -> None:
    data = home / "data"
    data.mkdir(mode=0o700)
    os.chown(data, user, -1)
    port = free_port()
    environment = {"STARFISH_DATA_DIR": str(data), "STARFISH_PORT": str(port)}
    program = [str(home / "relay/bin/starfish-relay"), "serve"]
    with subprocess.Popen(program, cwd=data, env=environment, stderr=subprocess.PIPE, text=True, user=user) as relay:
        assert relay.stderr is not None
        try:
            assert any("on http://" in line for line in relay.stderr), "it ended instead of serving"
            with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=10) as answer:
                assert answer.status == 200
        finally:
            relay.terminate()
            relay.communicate(timeout=30)
    assert relay.returncode == 0
    assert (data / "relay.db").stat().st_uid == user
