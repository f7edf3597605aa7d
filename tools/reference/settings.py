"""The settings, from the fields that define them."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from relay.config import FOR_COMMANDS, Settings
from tools.reference import markdown

GROUPS = {
    "host": "The server",
    "audience": "Credentials",
    "frame_bytes": "Sessions, their rates and bounds",
    "keep_age_s": "How long events are kept",
    "presence_grace_s": "Presence, and stopping",
    "database_timeout_s": "Storage",
    "upload_bytes": "Files and blobs",
}
"""The heading that comes before a field."""

_HEAD = """\
# Settings

From the environment, or a file `.env` where the relay is started (the environment goes first); what the command line
says goes before both. `starfish-relay check-config` lists them as they are on a machine, and what is wrong with them.
A setting that cannot be used stops the relay at its start, with a message that names it, what it expects and what it
got.

Times are in seconds, sizes in bytes (`16777216`, not `16M`), lists have commas, and a yes or no is `true` or `false`.
"""


def page() -> str:
    parts, rows = [_HEAD], list[list[str]]()
    for one in fields(Settings):
        if one.name in GROUPS:
            parts += [_table(rows), f"\n## {GROUPS[one.name]}\n\n"]
            rows = []
        rows.append([markdown.code(_name(one)), _default(one), _range(one), one.metadata["doc"]])
    parts += [_table(rows), "\n## For commands\n\nRead by single commands, never by a relay that serves.\n\n"]
    parts.append(markdown.table(["name", ""], [[markdown.code(name), doc] for name, doc in FOR_COMMANDS.items()]))
    parts.append(
        "\n## The database, by the old router's names\n\n"
        "Where `DATABASE_URL` is not set, `DATABASE_NAME`, `DATABASE_USER`, `DATABASE_PASSWORD`, `DATABASE_HOST` and\n"
        "`DATABASE_PORT` say which PostgreSQL database it is.\n"
    )
    return "".join(parts)


def _table(rows: list[list[str]]) -> str:
    return markdown.table(["name", "default", "range", ""], rows)


def _name(one: Field[Any]) -> str:
    return "DATABASE_URL" if one.name == "database_url" else f"STARFISH_{one.name.upper()}"


def _default(one: Field[Any]) -> str:
    value = None if one.default is MISSING else one.default
    match value:
        case None | "" | ():
            return ""
        case bool():
            return markdown.code(str(value).lower())
        case int() if one.name.endswith("_bytes") and value:
            return f"{markdown.code(value)} ({markdown.size(value)})"
        case float():
            return markdown.code(f"{value:g}" if value < 1e6 else f"{value:.0f}")
        case Path() | str() | int():
            return markdown.code(value)
        case _:
            return markdown.code(",".join(value))


def _range(one: Field[Any]) -> str:
    least, most, of = (one.metadata.get(name) for name in ("least", "most", "of"))
    if of is not None:
        return ", ".join(markdown.code(word) for word in of)
    if least is None and most is None:
        return ""
    spoken = markdown.size if one.name.endswith("_bytes") else _number
    return f"{spoken(least or 0)} or more" if most is None else f"{spoken(least or 0)} to {spoken(most)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
