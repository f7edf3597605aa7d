"""Logs: one line per event of interest, for people or as JSON, with the same names for the same things everywhere.

A line that is written while a request is answered carries the request's id. What a request has started beside itself —
a commit for many, a pump — goes on for others, and is not the request's any more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import sys
import weakref
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

FIELDS = (
    "request",
    "session",
    "site",
    "project",
    "batch",
    "code",
    "incident",
    "publishes",
    "path",
    "status",
    "reason",
    "by",
)
"""What a log line may carry beside its message, as `extra`; `request` is set by `begin_request`."""

_QUIET: Mapping[str, str] = {
    "databases": "WARNING",
    "aiosqlite": "WARNING",
    "asyncio": "WARNING",
    # It tells with a traceback, again and again, that it cannot connect: what that is for the relay, the relay tells.
    "asyncpg": "ERROR",
    "opentelemetry": "WARNING",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_request: ContextVar[tuple[weakref.ref[asyncio.Task[Any]], str] | None] = ContextVar("request", default=None)


def begin_request(given: str | None) -> str:
    """The id of the request that this task answers from now on: the one that it came with, if it is a sane one."""
    request_id = given if given is not None and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    task = asyncio.current_task()
    assert task is not None
    _request.set((weakref.ref(task), request_id))
    return request_id


def _request_id() -> str | None:
    begun = _request.get()
    if begun is None:
        return None
    try:
        return begun[1] if begun[0]() is asyncio.current_task() else None
    except RuntimeError:  # a thread: there is no loop
        return None


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= _extras(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        extras = "".join(f"  {name}={_printable(str(value))}" for name, value in _extras(record).items())
        line = f"{_at(record)} {record.levelname.lower():7} {_printable(record.getMessage())}{extras}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _printable(text: str) -> str:
    """On one line, and nothing in it that a terminal would obey: what a client has sent may be part of it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _at(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extras(record: logging.LogRecord) -> dict[str, object]:
    given = {"request": _request_id()} | record.__dict__
    return {name: given[name] for name in FIELDS if given.get(name) is not None}


def set_up_logging(level: str, form: str) -> None:
    """Log to standard error from now on. uvicorn's own lines come the same way; its access log is off."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel("WARNING" if level != "debug" else "INFO")
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
