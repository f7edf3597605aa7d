"""multipart/form-data (RFC 7578), read as it comes: bytes in, then what they say. Without I/O.

    preamble ─delimiter─▶ head ─empty line─▶ content ─delimiter─▶ head …  ─delimiter with --─▶ end

It takes time in proportion to the bytes, whatever they are, and holds one head of a part or the beginning of what may
be a delimiter, no more. (The standard library's reader of headers, which others are made from, takes the square of a
header's length; others hold a header that has no end.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import unquote

CONTENT_TYPE_LENGTH = 1000
BOUNDARY_LENGTH = 200
HEAD_BYTES = 8192
"""All headers of a part."""
PADDING_BYTES = 64

_AFTER = re.compile(rb"--|[ \t]{0,%d}\r\n" % PADDING_BYTES)
_UNDECIDED = re.compile(rb"-|[ \t]{0,%d}\r?" % PADDING_BYTES)
"""What may still become one of these."""
_PARAMETER = re.compile(r';\s*+([^\s;="]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"?|[^;]*+)', re.DOTALL)


class BadForm(ValueError):
    """It is no such form, or goes past a limit."""


@dataclass(frozen=True, slots=True)
class Head:
    """A part begins. It has no file name if it is a field; a part without a name is not shown."""

    name: str
    filename: str | None


class _State(Enum):
    PREAMBLE = auto()
    HEAD = auto()
    CONTENT = auto()
    SKIPPED = auto()
    """The content of a part that is not shown."""
    END = auto()


class Multipart:
    """One form. `feed` it all that comes; it was whole if `is_whole` then.

    Args:
        content_type: the header's value.
        max_parts: more of them are refused.

    Raises:
        BadForm: the type is another one, or names no boundary.
    """

    def __init__(self, content_type: str, *, max_parts: int) -> None:
        self._delimiter = b"\r\n--" + boundary_of(content_type)
        self._buffer = bytearray(b"\r\n")
        self._state = _State.PREAMBLE
        self._room = max_parts
        self._max_parts = max_parts

    @property
    def is_whole(self) -> bool:
        return self._state is _State.END

    def feed(self, data: bytes) -> Iterator[Head | bytes | None]:
        """What the next bytes say: a part begins, some of its content, None when it has ended.

        Raises:
            BadForm: a head is too long or cannot be read, or there are too many parts.
        """
        if self.is_whole:
            return
        self._buffer += data
        while self._state is not _State.END:
            if self._state is _State.HEAD:
                head_bytes = self._head_bytes()
                if head_bytes is None:
                    return
                yield from self._begin(bytes(self._buffer[:head_bytes]))
                del self._buffer[:head_bytes]
            else:
                at, after = self._next_delimiter()
                if self._state is _State.CONTENT and at > 0:
                    yield bytes(memoryview(self._buffer)[:at])
                del self._buffer[:at]
                if after is None:
                    return
                if self._state is _State.CONTENT:
                    yield None
                self._state = _State.END if after[0] == b"--" else _State.HEAD
                # The end of the delimiter's line is kept: a head that is empty has its empty line right there.
                del self._buffer[: len(self._delimiter) + after.end() - len(b"\r\n")]

    def _next_delimiter(self) -> tuple[int, re.Match[bytes] | None]:
        """How many bytes are content for certain, and what follows the delimiter after them, if it is there."""
        at = self._buffer.find(self._delimiter)
        while at >= 0:
            end = at + len(self._delimiter)
            tail = bytes(self._buffer[end : end + PADDING_BYTES + 2])
            after = _AFTER.match(tail)
            if after is not None or _UNDECIDED.fullmatch(tail):
                return at, after
            at = self._buffer.find(self._delimiter, at + 1)
        return max(0, len(self._buffer) - len(self._delimiter) + 1), None

    def _head_bytes(self) -> int | None:
        """The length of the head that the buffer begins with. None: there is more to come."""
        end = self._buffer.find(b"\r\n\r\n", 0, HEAD_BYTES)
        if end < 0 and len(self._buffer) >= HEAD_BYTES:
            raise BadForm(f"the headers of a part exceed {HEAD_BYTES} bytes")
        return None if end < 0 else end + len(b"\r\n\r\n")

    def _begin(self, raw: bytes) -> Iterator[Head]:
        if self._room == 0:
            raise BadForm(f"more than {self._max_parts} parts")
        self._room -= 1
        head = _read_head(raw.decode("utf-8", "replace"))
        self._state = _State.SKIPPED if head is None else _State.CONTENT
        if head is not None:
            yield head


def boundary_of(content_type: str) -> bytes:
    """The boundary that the type names. Raises `BadForm`."""
    media_type, semicolon, rest = content_type.partition(";")
    if media_type.strip().lower() != "multipart/form-data" or len(content_type) > CONTENT_TYPE_LENGTH:
        raise BadForm("Invalid boundary in multipart: None")
    boundary = _parameters(semicolon + rest).get("boundary", "").encode("latin-1", "replace")
    if not 0 < len(boundary) <= BOUNDARY_LENGTH or b"\r" in boundary or b"\n" in boundary:
        raise BadForm("Invalid boundary in multipart: None")
    return boundary


def _read_head(head: str) -> Head | None:
    """What a part is called. None: it has no name."""
    for line in head.split("\r\n"):
        field, _, value = line.partition(":")
        disposition, semicolon, rest = value.partition(";")
        if field.strip().lower() == "content-disposition" and disposition.strip().lower() == "form-data":
            given = _parameters(semicolon + rest)
            name = given.get("name", "")
            return Head(name, given.get("filename")) if name else None
    return None


def _parameters(text: str) -> dict[str, str]:
    """`; name=value; other="a value"`: the first of each name; `name*=utf-8''…` (RFC 8187) goes before `name`."""
    found: dict[str, str] = {}
    extended: dict[str, str] = {}
    for match in _PARAMETER.finditer(text):
        name, value = match[1].lower(), match[2]
        if name.endswith("*"):
            extended.setdefault(name[:-1], _decoded(value.strip()))
        else:
            found.setdefault(name, _unquoted(value))
    return found | extended


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    return value[1:].removesuffix('"').replace('\\"', '"').replace("\\\\", "\\")


def _decoded(value: str) -> str:
    charset, _, rest = value.partition("'")
    return unquote(rest.partition("'")[2], "latin-1" if charset.lower() == "iso-8859-1" else "utf-8", "replace")
