"""The pages of the reference that are made from the code, each by a function: so they cannot fall behind it.

Pages are Markdown, as the site (`make docs`) takes them; their paths are those under docs/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tools.reference import commands, errors, frames, metrics, rest, settings

PAGES: Mapping[str, Callable[[], str]] = {
    "reference/settings.md": settings.page,
    "reference/commands.md": commands.page,
    "reference/errors.md": errors.page,
    "reference/metrics.md": metrics.page,
    "reference/rest.md": rest.page,
    "reference/frames.md": frames.page,
}
