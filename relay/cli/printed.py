"""Text from outside on its way to a terminal: nothing in it moves the cursor, colours a line or ends it."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """The text in one line, with U+FFFD for each character that does something other than to be seen."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def escaped(json: str) -> str:
    """JSON with escapes for those characters that it may hold as they are, and terminals obey."""
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", json)
