"""Errors and close codes, from the code, with the meanings of the protocol's own tables; the client's exceptions."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import relay.client.errors
from relay.protocol.errors import RECONNECT, CloseCode, ErrorCode
from relay.web.replies import STATUS
from tools.reference import markdown

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"

_HEAD = """\
# Errors and close codes

There are two families, and they never mix: an **error** answers one frame or one request, and the session lives on; a
**close** ends the session, and its code says whether to come back. A program branches on the code, never on the
message: messages are for people, and may be reworded in any release.

## Errors

The code of an `error` frame, of the body `{"error": {"code", "message", "details"}}` over HTTP, and of `RelayError`
in the client library. The [polling API](../legacy-api.md) has its own answers, which are those of the router before.

"""

_CLOSES = """\

## Close codes

"""

_EXCEPTIONS = """\

## What the client library raises

What passes (a lost network, a relay that restarts or is overloaded) raises nothing.

"""


def page() -> str:
    said = {row[0]: row[1:] for row in _rows("errors")}
    errors = [[markdown.code(code), str(STATUS[code]), *said[f"`{code}`"]] for code in ErrorCode]
    closes = {row[0]: row for row in _rows("close codes")}
    ends = [
        [str(int(code)), closes[str(int(code))][1], "yes" if RECONNECT[code] else "no", closes[str(int(code))][3]]
        for code in CloseCode
    ]
    return (
        _HEAD
        + markdown.table(["code", "HTTP", "meaning", "details", "what to do"], errors)
        + _CLOSES
        + markdown.table(["code", "why", "reconnect?", "what to do"], ends)
        + _EXCEPTIONS
        + markdown.block(_tree(), "text")
    )


def _rows(name: str) -> list[list[str]]:
    """The rows of one of the protocol's tables, without its head."""
    (found,) = re.findall(rf"^<!-- table: {name} -->\n+((?:\|.*\n)+)", PROTOCOL.read_text(), re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in found.splitlines()[2:]]


def _tree() -> str:
    """The hierarchy of exceptions, as their module begins with it."""
    doc = inspect.getdoc(relay.client.errors) or ""
    lines = [line for line in doc.splitlines() if line.startswith("    ")]
    return inspect.cleandoc("\n".join(lines))
