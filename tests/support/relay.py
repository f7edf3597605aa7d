"""A relay as a process of its own: started, asked, killed and started again through its command line alone."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest

from tests.support.ports import free_port

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
CLI_TIMEOUT_S = 30.0

_CLOCK = Path(__file__).parent / "clock_ahead"

_SETTINGS = ("STARFISH_", "DATABASE_URL")
"""What of the environment would configure a relay: none of it reaches the one under test unless a test says so."""


class RelayProcess:
    """One relay on a free port of loopback. `with RelayProcess() as relay:` starts it, ends it, and removes its data.

    Args:
        database_url: a migrated PostgreSQL database; None is SQLite, in the data directory.
        settings: further settings, as environment variables.
        data_dir: an existing directory to use (another node's, say), and to leave there; None makes one and removes it.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        data_dir: Path | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self.database_url = database_url
        self.settings = dict(settings or {})
        self._home = Path(tempfile.mkdtemp(prefix="relay-under-test-"))
        self.data_dir = data_dir or self._home / "data"
        self.data_dir.mkdir(exist_ok=True)
        self.log_path = self._home / "relay.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{self.host}:{self.port}/starfish/ws/v1"

    @property
    def pid(self) -> int:
        assert self.process is not None, "the relay was not started"
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """Everything that the process has said so far, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # --- running

    def start(self, *, ready: bool = True) -> None:
        """Start, or start again on the same port and data; returns when the relay is ready to serve.

        Args:
            ready: False returns at once, for tests of what a relay does that cannot become ready.
        """
        assert not self.is_running, "the relay runs already"
        command = [sys.executable, "-m", "relay", "serve", "--host", self.host, "--port", str(self.port)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment({}), cwd=self._home
            )
        if ready:
            self.wait_until_ready()

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait for /health/ready to answer 200."""
        deadline = time.monotonic() + timeout_s
        while self.health("ready") != 200:
            if not self.is_running:
                raise AssertionError(f"the relay ended with {self._code()} instead of serving:\n{self.log}")
            if time.monotonic() > deadline:
                raise AssertionError(f"the relay was not ready within {timeout_s:.0f} s:\n{self.log}")
            time.sleep(0.02)

    def health(self, probe: str) -> int | None:
        """The status of GET /health/<probe>; None if nothing answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", f"/health/{probe}")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def kill(self) -> None:
        """SIGKILL: no goodbye, no flush, nothing drained."""
        assert self.process is not None, "the relay was not started"
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM: the relay drains and ends. Returns its exit code."""
        assert self.process is not None, "the relay was not started"
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the relay did not end within {timeout_s:.0f} s of SIGTERM:\n{self.log}") from None

    def set_clock(self, ahead_s: float) -> None:
        """From the next start on, the relay's clock of the day is so many seconds ahead of everybody else's."""
        self.settings |= {"PYTHONPATH": str(_CLOCK), "CLOCK_AHEAD_S": str(ahead_s)}

    def restart(self) -> None:
        """Drain, end, and start again on the same port and data."""
        code = self.terminate()
        assert code == 0, f"the relay ended with {code}:\n{self.log}"
        self.start()

    def remove(self) -> None:
        """End it, whatever it is at, and leave nothing behind."""
        if self.is_running:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    # --- the command line beside it

    def cli(
        self, *arguments: str, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of `starfish-relay` on the same database and data.

        Args:
            check: False returns a failure; by default it is an error of the test.
        """
        done = subprocess.run(
            [sys.executable, "-m", "relay", *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment(env or {}),
            cwd=self._home,
            timeout=CLI_TIMEOUT_S,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
        database = {} if self.database_url is None else {"DATABASE_URL": self.database_url}
        own = {"STARFISH_DATA_DIR": str(self.data_dir), "PYTHONUNBUFFERED": "1"}
        return inherited | own | database | self.settings | dict(extra)

    def _code(self) -> int | None:
        return None if self.process is None else self.process.returncode

    # --- what it costs

    def rss_bytes(self) -> int:
        """The process's resident memory."""
        return self._status_bytes("VmRSS:")

    def peak_rss_bytes(self) -> int:
        """The most that it has been since the process began."""
        return self._status_bytes("VmHWM:")

    def _status_bytes(self, name: str) -> int:
        line = next(line for line in self._proc("status").splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024

    def cpu_s(self) -> float:
        """Processor time that the process has used, in user and system mode."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _proc(self, name: str) -> str:
        if not sys.platform.startswith("linux"):
            pytest.skip("what a process costs is read from /proc, which only Linux has")
        return Path(f"/proc/{self.pid}/{name}").read_text()
