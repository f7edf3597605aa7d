"""The stage: a relay and whatever else is started on it, each a process of its own.

Whatever happens in the block (an error, a time-out, a cancellation), every process that was started is ended with it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from relay.client.sealed import Identity
from relay.demo.controller import PASSWORD, USER

DWELL_S = 0.5
"""How long polls show a run as Preparing, at least: two polls of this demo's polling site."""
READY_S = 30.0
COMMAND_S = 30.0
LOG_LINES = 30
"""How much of each log is shown when something went wrong."""


class DemoFailed(Exception):
    """The demo did not come to its end; the message says where it stopped."""


class Stage:
    """Starts processes and ends them all. What they write and store lies in a directory that goes with the block."""

    def __init__(self) -> None:
        self.url = ""
        self.password = secrets.token_urlsafe(16)
        self._home = Path(tempfile.mkdtemp(prefix="starfish-demo-"))
        self._processes: list[Process] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in self._processes))
        shutil.rmtree(self._home, ignore_errors=True)

    async def start(self, name: str, module: str, *arguments: str, pipe: bool = False, **env: str) -> Process:
        """Start `python -m module`; its log goes by the name. With `pipe`, its standard output is for the caller."""
        with (self._home / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=DEVNULL,
                stdout=PIPE if pipe else log,
                stderr=log,
                cwd=self._home,
                env=self._environment() | env,
                start_new_session=True,  # Ctrl-C is for the stage, which then ends them all
            )
        self._processes.append(process)
        return process

    def _environment(self) -> dict[str, str]:
        """The user's own, without what would configure a relay; data goes where the stage can remove it."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("STARFISH_", "DATABASE_"))}
        return inherited | {"STARFISH_DATA_DIR": str(self._home / "data"), "PYTHONUNBUFFERED": "1"}

    def identity(self, name: str) -> str:
        """A new identity for a site: its key file."""
        path = self._home / f"{name.replace(' ', '-')}.identity"
        Identity.generate().save(path)
        return str(path)

    def stored(self, text: bytes) -> int:
        """How often the relay has stored this text, in its database and its files."""
        files = [path for path in (self._home / "data").rglob("*") if path.is_file()]
        return sum(path.read_bytes().count(text) for path in files)

    def logs(self) -> str:
        """The last lines of every process's log."""
        shown = []
        for path in sorted(self._home.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            shown += [f"--- {path.stem}", *lines[-LOG_LINES:]]
        return "\n".join(shown)

    # --- the relay

    async def serve(self) -> None:
        """Start a relay on SQLite; returns when it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        relay = await self.start(
            "relay", "relay", "serve", "--host", "127.0.0.1", "--port", str(port), STARFISH_LEGACY_DWELL_S=str(DWELL_S)
        )
        async with asyncio.timeout(READY_S), httpx.AsyncClient(trust_env=False) as http:
            while not await self._is_ready(http):
                if relay.returncode is not None:
                    raise DemoFailed(f"the relay ended with {relay.returncode} instead of serving")
                await asyncio.sleep(0.05)

    async def _is_ready(self, http: httpx.AsyncClient) -> bool:
        try:
            return (await http.get(f"{self.url}/health/ready")).is_success
        except httpx.TransportError:
            return False

    async def register(self, names: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Make a user and its sites, by the command line. Returns each site's uid and token, by its name."""
        await self.command("user", "create", USER, "--no-input", **{PASSWORD: self.password})

        async def one(name: str) -> tuple[str, str]:
            uid = await self.command("site", "create", "--owner", USER, "--name", name)
            return uid, await self.command("token", "create", "--site", uid)

        return dict(zip(names, await asyncio.gather(*(one(name) for name in names)), strict=True))

    async def command(self, *arguments: str, **env: str) -> str:
        """Run a command of `starfish-relay`; what it prints."""
        process = await self.start("commands", "relay", *arguments, pipe=True, **env)
        async with asyncio.timeout(COMMAND_S):
            printed, _ = await process.communicate()
        if process.returncode != 0:
            raise DemoFailed(f"`starfish-relay {' '.join(arguments[:2])}` ended with {process.returncode}")
        return printed.decode().strip()
