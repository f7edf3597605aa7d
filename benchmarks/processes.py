"""Processes: servers that are started and measured, and load that runs beside them under its own roof."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Self, cast

import psutil  # type: ignore[import-untyped]
import uvloop

from benchmarks.harness import Failed
from tests.support.ports import free_port

START_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 180.0


def raise_file_limit() -> None:
    """As many open sockets as the system lets us have. Processes that are started afterwards inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_s(*pids: int) -> float:
    """Processor time that the processes have used, with their children that still run."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            times = one.cpu_times()
            total += times.user + times.system
    return total


def memory_bytes(pid: int) -> int:
    """Memory that is the process's own: what would be free if it ended."""
    return cast("int", psutil.Process(pid).memory_full_info().uss)


class Server:
    """A peer's process on a free port of loopback: up when the port answers.

    Args:
        command: `{port}` in it is that port, `{config}` the path of a file with `config` in it.
    """

    def __init__(self, *command: str | os.PathLike[str], config: str = "") -> None:
        self.port = free_port()
        self._config = tempfile.NamedTemporaryFile("w")  # noqa: SIM115 - closed by `stop`
        self._config.write(config.replace("{port}", str(self.port)))
        self._config.flush()
        known = {"{port}": str(self.port), "{config}": self._config.name}
        self._command = [known.get(os.fspath(part), os.fspath(part)) for part in command]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._config.close()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._log.seek(0)
                    said = self._log.read().decode(errors="replace")
                    raise Failed(f"{self._command[0]} did not come up: {said[-500:]}") from None
                time.sleep(0.02)
            else:
                return


def bare_server() -> Server:
    """A bare `websockets` server, on uvloop: see `benchmarks.peers.bare`."""
    return Server(sys.executable, "-m", "benchmarks.peers.bare", "{port}")


class Remote:
    """An object in a process of its own, on an event loop of its own; its coroutine methods are called from here.

    `with Remote(Echo, url) as echo: echo.call("run", 100)`. Arguments and results are pickled.
    """

    def __init__(self, kind: type, *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, kind, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def start(self, method: str, *arguments: object) -> None:
        """Call without waiting; `result` waits."""
        self._ours.send((method, arguments))

    def is_done(self, wait_s: float) -> bool:
        """Whether the call that was started has an outcome by then."""
        return self._ours.poll(wait_s)

    def result(self) -> Any:
        """What the call that was started has returned.

        Raises:
            Failed: it raised, or is not done in time.
        """
        if not self._ours.poll(CALL_TIMEOUT_S):
            raise Failed(f"the load process has not answered for {CALL_TIMEOUT_S:.0f} s")
        try:
            good, value = self._ours.recv()
        except EOFError:
            raise Failed("the load process has ended") from None
        if not good:
            raise Failed(value)
        return value

    def call(self, method: str, *arguments: object) -> Any:
        self.start(method, *arguments)
        return self.result()

    def stop(self) -> None:
        """End it at once: its sockets are cut."""
        self._process.kill()
        self._process.join()
        self._ours.close()


def _serve(pipe: Connection, kind: type, arguments: Sequence[object]) -> None:
    raise_file_limit()
    uvloop.run(_answer_calls(pipe, kind(*arguments)))


async def _answer_calls(pipe: Connection, subject: object) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            method, arguments = await loop.run_in_executor(None, pipe.recv)
        except EOFError:
            return
        try:
            pipe.send((True, await getattr(subject, method)(*arguments)))
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))
