"""How lists and records are shown: tables for people, JSON for programs, both from the same fields.

A record is what `--json` prints. What stands in it comes from outside in part: on a terminal nothing in it moves the
cursor, colours a line or ends it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from relay.cli.printed import escaped, printable
from relay.cli.words import between
from relay.core.model import JsonObject

LIMIT = 100
MOST = 100_000
_STYLES = {
    "online": "green",
    "active": "green",
    "good": "green",
    "Running": "green",
    "Success": "green",
    "Failed": "red",
    "Pending Failed": "red",
    "disabled": "red",
    "revoked": "red",
    "offline": "dim",
    "expired": "dim",
}
_FREE = frozenset({"name", "site", "project", "coordinator", "description", "config", "label", "model", "notes"})
"""Columns that may be broken over lines, down to `FREE_WIDTH`; the others are shown whole."""
FREE_WIDTH = 14
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+Z")


def add_json(parser: argparse.ArgumentParser, what: str = "an array of objects") -> None:
    parser.add_argument("--json", action="store_true", help=f"print {what}, for programs")


def add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit",
        metavar="N",
        type=between(1, MOST),
        default=LIMIT,
        help=f"show at most N, the newest (default: {LIMIT})",
    )


def show_list(options: argparse.Namespace, rows: Sequence[JsonObject], columns: Sequence[str], *, total: int) -> None:
    """Print rows, and on standard error how many there are if these are not all."""
    if options.json:
        print_json(rows)
    elif rows:
        print_rows(rows, columns)
    else:
        print("there are none", file=sys.stderr)
    if total > len(rows):
        print(f"the newest {len(rows)} of {total}; --limit shows more", file=sys.stderr)


def show_record(options: argparse.Namespace, record: JsonObject, tables: Mapping[str, Sequence[str]]) -> None:
    """Print one record: its fields, then those that are lists as tables of these columns."""
    if options.json:
        print_json(record)
        return
    _print_fields({name: value for name, value in record.items() if name not in tables})
    for name, columns in tables.items():
        if record[name]:
            print_rows(record[name], columns, title=name.replace("_", " "))


def print_rows(rows: Sequence[JsonObject], columns: Sequence[str], title: str | None = None) -> None:
    """As a table, as wide as what is in it; where a terminal is too narrow for one, field by field."""
    width = None if sys.stdout.isatty() else 2_000
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    if _least_width(rows, columns) <= console.width:
        console.print(_table(rows, columns, title))
        return
    if title is not None:
        console.print(Text(title, "bold"))
    for number, row in enumerate(rows):
        if number:
            print()
        _print_fields({name: row[name] for name in columns}, indent="  " if title is not None else "")


def _least_width(rows: Sequence[JsonObject], columns: Sequence[str]) -> int:
    widths = (max(cell_len(name), *(cell_len(plain(row[name])) for row in rows)) for name in columns)
    least = (min(width, FREE_WIDTH) if name in _FREE else width for name, width in zip(columns, widths, strict=True))
    return sum(least) + 3 * len(columns) + 1


def _table(rows: Sequence[JsonObject], columns: Sequence[str], title: str | None) -> Table:
    heads = (Column(name.replace("_", " "), no_wrap=name not in _FREE, overflow="fold") for name in columns)
    table = Table(*heads, title=title, title_justify="left", title_style="bold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    return table


def _print_fields(fields: JsonObject, indent: str = "") -> None:
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        print(f"{indent}{name.replace('_', ' '):{width}}  {plain(value)}".rstrip())


def print_json(value: Any, indent: int | None = 2) -> None:
    print(escaped(json.dumps(value, ensure_ascii=False, indent=indent)), flush=True)


def plain(value: object) -> str:
    """A field in one line."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(plain(one) for one in value)
    if isinstance(value, dict):
        return printable(json.dumps(value, ensure_ascii=False))
    text = printable(str(value))
    match = _TIME.fullmatch(text)
    return f"{match[1]}Z" if match else text


def size(count: int) -> str:
    """Bytes for people: `300 KiB`."""
    number, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" or number >= 99.95 else f"{number:.1f} {unit}"


def _cell(value: object) -> Text:
    text = plain(value)
    return Text(text, style=_STYLES.get(text, ""))
