"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, and a blank line; nothing if it would have no rows."""
    lines = [_row(row) for row in rows]
    return "\n".join([_row(heads), "|" + "---|" * len(heads), *lines, "", ""]) if lines else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def code(text: object) -> str:
    """Inline code; nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def block(text: str, language: str = "") -> str:
    return f"```{language}\n{text.rstrip()}\n```\n\n"


def size(count: float) -> str:
    """Bytes as people say them: 16 MiB."""
    for unit, of in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= of and count % of == 0:
            return f"{count // of:,.0f} {unit}"
    return f"{count:,.0f}"
