"""The command line in this process: what it returns, and what it says."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from relay.cli import main


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


def run(*arguments: str | Path, url: str | None = None, data_dir: Path, env: Mapping[str, str] | None = None) -> Done:
    """Run a command on a database (None: SQLite in the data directory) with none of this environment's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("STARFISH_", "DATABASE_"))}
    own = {"STARFISH_DATA_DIR": str(data_dir)} | ({} if url is None else {"DATABASE_URL": url})
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, inherited | own | dict(env or {}), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = main([str(one) for one in arguments])
    return Done(status, out.getvalue(), err.getvalue())
